"""The pages for people at /terminal/: where they may open a terminal, those that live, wait and are over, the terminal
itself and the playback of a recording. Each action is a form of its own; all rules are those of `services`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from accounts.models import User
from nodes.models import Node
from protocol.errors import CyxwizError
from terminal import doors, finding, permissions, refusals, services
from terminal.models import TerminalSession
from terminal.states import LIVE, SessionState

PAST_ON_A_PAGE = 25
NOT_GRANTED = "Its owner can grant you terminals on it."
# xterm.js puts <style> elements into its page; scripts stay as strict as everywhere, and text never becomes markup.
SCREEN_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self'; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponse]


@dataclass(frozen=True)
class Offer:
    """A node, and why no terminal can be opened on it now, if so."""

    node: Node
    why_not: str


@login_required
@require_GET
def terminals(request: HttpRequest) -> HttpResponse:
    user = _user(request)
    visible = finding.visible_sessions(user)
    live = visible.filter(state__in=LIVE)
    waiting = visible.filter(state=SessionState.UNAPPROVED)
    past = Paginator(visible.filter(state=SessionState.ENDED), PAST_ON_A_PAGE).get_page(request.GET.get("page"))
    managed = set(permissions.managed_nodes(user).values_list("pk", flat=True))
    return render(
        request,
        "terminal/terminals.html",
        {
            "offers": _offers(user),
            "own": [*live.filter(owner=user), *waiting.filter(owner=user)],
            "watched": live.exclude(owner=user),
            "to_approve": waiting.exclude(owner=user).filter(node__in=managed),
            "managed": managed,
            "past": past,
        },
    )


@login_required
@require_http_methods(["GET", "POST"])
def ask(request: HttpRequest, name: str) -> HttpResponse:
    """What a terminal is for, where the node asks for it; then the terminal."""
    user = _user(request)
    node = finding.node(user, name)
    reason = request.POST.get("reason", "")[:500]
    error = None
    if request.method == "POST":
        try:
            session = services.open_session(node=node, user=user, api_key=None, cols=80, rows=24, reason=reason)
        except CyxwizError as refusal:
            error = refusal
        else:
            return redirect("terminal", id=session.pk)
    context = {
        "node": node,
        "policy": services.policy_of(node),
        "reason": reason,
        "error": error.message if error else _unready(node, doors.recorder_runs()),
        "why_not": "" if permissions.may_open(node, user) else NOT_GRANTED,
    }
    return render(request, "terminal/ask.html", context, status=error.status if error else 200)


@login_required
@require_GET
@ensure_csrf_cookie
def terminal(request: HttpRequest, id: UUID) -> HttpResponse:
    session = _find(request, id)
    context = {
        "session": session,
        "is_own": session.owner_id == request.user.pk,
        "may_end": _may_end(session, _user(request)),
        "may_read": permissions.may_read_recording(session, _user(request)),
    }
    return _with_screen(render(request, "terminal/terminal.html", context))


@login_required
@require_GET
def playback(request: HttpRequest, id: UUID) -> HttpResponse:
    """The page reads the recording from the API, or from the admin for staff: either puts that into the audit."""
    user = _user(request)
    session = finding.visible_sessions(user).filter(pk=id).first()
    if session is not None and permissions.may_read_recording(session, user):
        source = reverse("terminal-recording", args=[id])
    elif user.is_staff and user.has_perm("terminal.change_terminalsession"):
        session = get_object_or_404(TerminalSession.objects.select_related("node"), pk=id)
        source = reverse("admin:terminal_recording", args=[id])
    else:
        refusals.refused("They may not play this recording.", user, session=_find(request, id))
        raise Http404
    context = {"session": session, "source": source, "days": settings.RECORDING_DAYS}
    return _with_screen(render(request, "terminal/playback.html", context))


def _act(verb: Callable[[TerminalSession, User], None], done: str) -> View[[UUID]]:
    """A view that calls a service on a session and says what came of it, on the page of all terminals."""

    @login_required
    @require_POST
    @wraps(verb)
    def view(request: HttpRequest, id: UUID) -> HttpResponse:
        session = _find(request, id)
        try:
            verb(session, _user(request))
        except CyxwizError as refusal:
            messages.error(request, f"{session}: {refusal.message}")
        else:
            messages.success(request, f"{session}: {done}.")
        return redirect("terminals")

    return view


approve = _act(services.approve, "approved")
refuse = _act(services.refuse, "refused")
end = _act(services.end_for, "ended")


def _offers(user: User) -> list[Offer]:
    recorder_runs = doors.recorder_runs()
    openable = {node.pk for node in permissions.openable_nodes(user)}
    offers = []
    for node in permissions.known_nodes(user).order_by("name"):
        why_not = _unready(node, recorder_runs) if node.pk in openable else NOT_GRANTED
        offers.append(Offer(node, why_not))
    return sorted(offers, key=lambda offer: bool(offer.why_not))


def _unready(node: Node, recorder_runs: bool) -> str:
    """Why nobody can open a terminal on it now, if so."""
    try:
        services.check_ready(node, recorder_runs=recorder_runs)
    except CyxwizError as refusal:
        return refusal.message
    return ""


def _with_screen(response: HttpResponse) -> HttpResponse:
    response.headers["Content-Security-Policy"] = SCREEN_POLICY
    response.headers["Cache-Control"] = "no-store"
    return response


def _may_end(session: TerminalSession, user: User) -> bool:
    return session.owner_id == user.pk or (session.node is not None and permissions.may_manage(session.node, user))


def _find(request: HttpRequest, id: UUID) -> TerminalSession:
    return finding.session(_user(request), id)


def _user(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user
