"""What nodes say about terminals, and the sweep that makes good what got lost."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from accounts.sweeps import one_of_many
from nodes.models import Node
from protocol.errors import Conflict, NotFound
from protocol.messages import Heartbeat, TerminalEnded, TerminalSpec
from terminal import audit, doors, permissions, services
from terminal.models import TerminalSession
from terminal.states import LIVE, UNENDED, SessionState

log = logging.getLogger(__name__)

OPENING_LIFE = timedelta(seconds=60)  # since it was rung; a node that has not asked by then will not
APPROVAL_LIFE = timedelta(hours=1)
GRACE = timedelta(seconds=20)  # a heartbeat may have been written before the session was accepted
LOST_AFTER = timedelta(seconds=120)  # a node silent for so long; its shells have ended without clients, too


def accept(*, session_id: UUID, node: Node) -> TerminalSpec:
    """The node takes the session. Raises NotFound, Conflict."""
    with transaction.atomic():
        audit.take_turn()
        waiting = TerminalSession.objects.filter(pk=session_id, node=node, state=SessionState.OPENING)
        if not waiting.update(state=SessionState.OPEN, opened_at=timezone.now()):
            if not TerminalSession.objects.filter(pk=session_id, node=node).exists():
                raise NotFound("This node has no such terminal.")
            raise Conflict("This terminal does not wait (any more).")
        session = TerminalSession.objects.select_related("node", "owner", "api_key").get(pk=session_id)
        audit.write("opened", session=session)
    if why := permissions.why_not_any_more(session):
        services.end(session, why)
        raise Conflict(why)
    return TerminalSpec(id=str(session.pk), cols=session.cols, rows=session.rows, keep_seconds=session.keep_seconds)


def ended(*, session_id: UUID, node: Node, said: TerminalEnded) -> None:
    """The shell has ended, or could not start. How much went in and out is audited once, after an ordered end too."""
    counts: dict[str, Any] = {name: getattr(said, name) for name in ("output_bytes", "input_bytes", "resizes")}
    with transaction.atomic():
        audit.take_turn()
        session = TerminalSession.objects.select_for_update(of=("self",)).filter(pk=session_id, node=node).first()
        if session is None:
            raise NotFound("This node has no such terminal.")
        if session.output_bytes is not None:  # told again
            return
        TerminalSession.objects.filter(pk=session_id).update(output_bytes=said.output_bytes)
        if session.state == SessionState.ENDED:
            audit.write("counted", session=session, **counts)
            return
        why = (said.reason or "The shell ended.")[:500]
        TerminalSession.objects.filter(pk=session_id).update(
            state=SessionState.ENDED, ended_at=timezone.now(), end_reason=why, exit_code=said.code
        )
        audit.write("ended", session=session, reason=why, code=said.code, **counts)
        if not said.output_bytes:  # then perhaps nothing but this tells who is attached that it could not start
            doors.end(session, why)


def renew(node: Node, heartbeat: Heartbeat) -> list[str]:
    """For the answer to a heartbeat: which sessions the node may hold. Those that it has lost are ended."""
    going = TerminalSession.objects.filter(node=node, state__in=LIVE)
    for session in going.filter(state=SessionState.OPEN, opened_at__lt=timezone.now() - GRACE):
        if str(session.pk) not in heartbeat.terminals:
            services.end(session, "The node does not hold it any more; its agent may have been started anew.")
    return [str(id) for id in going.values_list("pk", flat=True)]


def sweep() -> None:
    """Ends what nobody answers for, and what is not allowed any more."""
    now = timezone.now()
    services.end_unauthorised()
    rung_before = Q(approved_at__lt=now - OPENING_LIFE) | Q(approved_at=None, created_at__lt=now - OPENING_LIFE)
    stale = {
        "The node did not answer.": Q(state=SessionState.OPENING) & rung_before,
        "Nobody approved it.": Q(state=SessionState.UNAPPROVED, created_at__lt=now - APPROVAL_LIFE),
        "The node was lost.": Q(
            state=SessionState.OPEN, node__state=Node.State.OFFLINE, node__last_heartbeat_at__lt=now - LOST_AFTER
        ),
    }
    for why, which in stale.items():
        for session in TerminalSession.objects.filter(which, state__in=UNENDED):
            with one_of_many(log, f"terminal {session.pk}"):
                services.end(session, why)
