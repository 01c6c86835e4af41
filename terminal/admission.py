"""Who may come in at the websocket: at the handshake, with the first frame, and again for as long as it is open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from channels.db import database_sync_to_async
from django.db import transaction

from accounts import keys, scopes
from accounts.models import ApiKey, User
from protocol.errors import Conflict, CyxwizError, Forbidden, NotAuthenticated
from protocol.terminal import Hello, Mode, Run
from terminal import audit, origin, permissions, refusals, services, tickets
from terminal.browser_login import BrowserLogin
from terminal.models import AuditEvent, TerminalSession
from terminal.states import LIVE


@dataclass(frozen=True)
class Caller:
    user: User
    api_key: ApiKey | None
    login: BrowserLogin | None = None

    @property
    def key_digest(self) -> str:
        return self.api_key.digest if self.api_key else ""


async def authenticate(scope: dict[str, Any]) -> Caller:
    """By API key, or by browser session and then from a page of ours. Raises NotAuthenticated, Forbidden."""
    headers = dict(scope["headers"])
    authorization = headers.get(b"authorization", b"").decode("latin-1")
    if authorization.lower().startswith("bearer "):
        key = await database_sync_to_async(keys.authenticate)(authorization[7:].strip())
        if key is None:
            raise NotAuthenticated("the API key is not valid")
        if b"origin" in headers and not origin.is_ours(headers):
            raise Forbidden("the page is not ours")
        return Caller(key.owner, key)
    if not origin.is_ours(headers):
        raise Forbidden("the page is not ours")
    user = scope["user"]
    if not user.is_authenticated or not user.is_active:
        raise NotAuthenticated("nobody is signed in")
    return await database_sync_to_async(_signed_in)(scope)


def admit(caller: Caller, session_id: UUID, hello: Hello) -> tuple[TerminalSession, Mode, UUID, int]:
    """Spends the ticket; the last two are the line of tokens that it began, and the number of who writes, or 0. Raises
    Forbidden, Conflict."""
    try:
        if hello.ticket is not None:
            session, mode, line = tickets.redeem(hello.ticket, tickets.Kind.TICKET, session_id, caller.user)
        else:
            session, mode, line = tickets.redeem(hello.resume or "", tickets.Kind.RESUME, session_id, caller.user)
        _check_scope(caller, mode)
        if why := _why_not_signed_in(caller):
            raise Forbidden(why)
        services.check_admission(session, caller.user, mode)
        if hello.run is not None:
            choose_program(session, caller.user, mode, hello.run)
    except CyxwizError as error:
        refusals.refused(error.message, caller.user, session_id=session_id)
        raise
    return session, mode, line, services.next_writer(session) if mode == "owner" else 0


def choose_program(session: TerminalSession, user: User, mode: Mode, run: Run) -> None:
    """Who asked to have what run is audited. Raises Forbidden, Conflict."""
    if mode != "owner":
        raise Forbidden("Who watches cannot say what runs.")
    if AuditEvent.objects.filter(session=session.pk, what__in=["runs", "attached"]).exists():
        raise Conflict("This terminal runs something already.")
    audit.write("runs", session=session, user=user, command=run.command, pty=run.pty)


def began(caller: Caller, session: TerminalSession, mode: Mode, line: UUID) -> str:
    """The token for the next time."""
    with transaction.atomic():
        token = tickets.issue(session, caller.user, mode, line=line)
        audit.write("attached", session=session, user=caller.user, mode=mode)
    return token


def left(caller: Caller, session: TerminalSession, mode: Mode, began: bool, refusal: str) -> None:
    """`refusal`: why it had to, if it was refused something."""
    if refusal:
        refusals.refused(refusal, caller.user, session=session)
    if began:
        audit.write("left", session=session, user=caller.user, mode=mode)


def why_not_any_more(caller: Caller, session_id: UUID, mode: Mode) -> str:
    """Why the websocket has to be closed, or nothing."""
    found = TerminalSession.objects.select_related("node", "owner", "api_key")
    session = found.filter(pk=session_id).first()
    if session is None:
        return "This terminal is gone."
    if session.state not in LIVE:
        # The shell's own end comes with the last of its output; here it only counts when somebody ended it.
        return "" if session.exit_code is not None else session.end_reason
    if caller.api_key and not _is_still_valid(caller.api_key):
        return "The API key is not valid any more."
    if why := _why_not_signed_in(caller):
        return why
    if mode == "owner":
        return permissions.why_not_any_more(session)
    user = User.objects.filter(pk=caller.user.pk).first()
    return "" if user and permissions.may_watch(session, user) else "The right to watch this terminal was withdrawn."


def end(session: TerminalSession, why: str) -> None:
    services.end(session, why)


def _signed_in(scope: dict[str, Any]) -> Caller:
    return Caller(User.objects.get(pk=scope["user"].pk), None, BrowserLogin.of(scope["session"]))


def _why_not_signed_in(caller: Caller) -> str:
    """Only for a browser: it may have logged out since."""
    if caller.login is None:
        return ""
    user = User.objects.filter(pk=caller.user.pk).first()
    return "" if user and caller.login.holds(user) else "This browser is not signed in any more."


def _is_still_valid(key: ApiKey) -> bool:
    fresh = ApiKey.objects.filter(pk=key.pk).first()
    return fresh is not None and fresh.is_valid


def _check_scope(caller: Caller, mode: Mode) -> None:
    wanted = "terminal:write" if mode == "owner" else "terminal:read"
    if caller.api_key and not scopes.allows(caller.api_key.scopes, wanted):
        raise Forbidden(f"This API key lacks the scope {wanted}.")
