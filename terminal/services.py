"""What people do with terminals: ask for one, approve it, watch, end it, give grants."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from accounts.models import ApiKey, User
from accounts.sweeps import one_of_many
from nodes.models import Node
from protocol import terminal
from protocol.errors import BadRequest, Conflict, CyxwizError, Forbidden, Unavailable
from protocol.terminal import Mode
from terminal import audit, doors, permissions, refusals, tickets
from terminal.models import TerminalGrant, TerminalPolicy, TerminalSession
from terminal.states import LIVE, UNENDED, SessionState

log = logging.getLogger(__name__)

RULES = ("approval_required", "reason_required", "idle_seconds", "longest_seconds", "keep_seconds")
PER_NODE, PER_USER = 64, 32  # live sessions
REASON_MOST = 500  # characters
FILLERS = "\u115f\u1160\u3164\uffa0"  # letters by Unicode that nobody can see


class ReasonMissing(BadRequest):
    """Each door knows its own way to give one."""


def policy_of(node: Node) -> TerminalPolicy:
    return TerminalPolicy.objects.filter(node=node).first() or TerminalPolicy(node=node)


def open_session(
    *, node: Node, user: User, api_key: ApiKey | None, cols: int, rows: int, reason: str = "", **how: Any
) -> TerminalSession:
    """Rings the node, or waits for an approval where the node's rules ask for one. `how` they came, for the audit of a
    refusal. Raises CyxwizError."""
    try:
        return _open_session(node, user, api_key, (cols, rows), reason)
    except CyxwizError as error:
        refusals.refused(error.message, user, node=node.name, **how)
        raise


def _open_session(
    node: Node, user: User, api_key: ApiKey | None, size: tuple[int, int], reason: str
) -> TerminalSession:
    if not permissions.may_open(node, user):
        raise Forbidden(f"You may not open terminals on {node.name}. Its owner can grant it.")
    policy = policy_of(node)
    if policy.reason_required and not _says_something(reason):
        raise ReasonMissing(f"{node.name} asks for a reason: say in words what the terminal is for.")
    if len(reason) > REASON_MOST or "\0" in reason:
        raise BadRequest(f"A reason has at most {REASON_MOST} characters, and no NUL among them.")
    check_ready(node, recorder_runs=doors.recorder_runs())
    cols, rows = terminal.clamp(*size)
    with transaction.atomic():
        audit.take_turn()
        _check_quotas(node, user)
        session = TerminalSession.objects.create(
            owner=user,
            owner_name=user.username,
            node=node,
            node_name=node.name,
            node_owner=node.owner,
            api_key=api_key,
            reason=reason.strip(),
            state=SessionState.UNAPPROVED if policy.approval_required else SessionState.OPENING,
            cols=cols,
            rows=rows,
            idle_seconds=policy.idle_seconds,
            keep_seconds=policy.keep_seconds,
            expires_at=timezone.now() + timedelta(seconds=policy.longest_seconds),
        )
        audit.write("asked", session=session, user=user, reason=session.reason)
        if session.state == SessionState.OPENING:
            doors.ring(session)
    return session


def check_ready(node: Node, *, recorder_runs: bool) -> None:
    """Raises Unavailable, Conflict where nobody could have a terminal on this node now."""
    if not recorder_runs:
        raise Unavailable("No recorder runs, and without one no terminal opens: manage.py record_terminals.")
    if node.state != Node.State.ONLINE:
        raise Conflict(_why_offline(node))


def approve(session: TerminalSession, user: User) -> None:
    if session.node is None or not permissions.may_manage(session.node, user):
        raise refusals.forbidden("Only an owner of the node approves terminals on it.", user, session=session)
    if session.owner_id == user.pk:
        raise refusals.forbidden("Somebody else has to approve this.", user, session=session)
    with transaction.atomic():
        audit.take_turn()
        now = timezone.now()
        waiting = TerminalSession.objects.filter(pk=session.pk, state=SessionState.UNAPPROVED)
        expires_at = session.expires_at + (now - session.created_at)  # its longest time begins now
        if not waiting.update(state=SessionState.OPENING, approved_by=user, approved_at=now, expires_at=expires_at):
            raise Conflict("This session does not wait for approval (any more).")
        session.refresh_from_db()
        audit.write("approved", session=session, user=user)
        doors.ring(session)


def refuse(session: TerminalSession, user: User) -> None:
    """In place of an approval. Raises Forbidden, Conflict."""
    if session.node is None or not permissions.may_manage(session.node, user):
        raise refusals.forbidden("Only an owner of the node refuses terminals on it.", user, session=session)
    if session.state != SessionState.UNAPPROVED or not end(session, f"{user.username} refused it.", by=user):
        raise Conflict("This session does not wait for approval (any more).")


def new_ticket(session: TerminalSession, user: User) -> tuple[str, Mode]:
    """For the session's own user to write, for others to watch. Raises Forbidden, Conflict."""
    mode: Mode = "owner" if session.owner_id == user.pk else "observer"
    try:
        check_admission(session, user, mode)
    except Forbidden as error:
        raise refusals.forbidden(error.message, user, session=session) from None
    with transaction.atomic():
        audit.write("ticket", session=session, user=user, mode=mode)
        return tickets.issue(session, user, mode), mode


def check_admission(session: TerminalSession, user: User, mode: Mode) -> None:
    """Whether `user` may be attached now. Raises Conflict when it has ended or is not approved, Forbidden else."""
    if session.state == SessionState.UNAPPROVED:
        raise Conflict("This terminal waits for approval.")
    if session.state not in LIVE:
        raise Conflict(f"This terminal has ended. {session.end_reason}".strip())
    if mode == "observer":
        if not permissions.may_watch(session, user):
            raise Forbidden("You may not watch terminals on this node.")
    elif why := permissions.why_not_any_more(session):
        raise Forbidden(why)


def next_writer(session: TerminalSession) -> int:
    """The number of a client that is let in to write. To the node the highest is the newest, whichever it hears of
    first."""
    with transaction.atomic():
        TerminalSession.objects.filter(pk=session.pk).update(writers=F("writers") + 1)
        session.refresh_from_db(fields=["writers"])
    return session.writers


def end(session: TerminalSession, why: str, *, by: User | None = None) -> bool:
    """Ends it for everybody, its processes too. False if it had ended."""
    with transaction.atomic():
        audit.take_turn()
        going = TerminalSession.objects.filter(pk=session.pk, state__in=UNENDED)
        if not going.update(state=SessionState.ENDED, ended_at=timezone.now(), end_reason=why[:500]):
            return False
        session.refresh_from_db()
        audit.write("ended", session=session, user=by, reason=why)
        doors.end(session, why)
    return True


def end_for(session: TerminalSession, user: User) -> None:
    """Raises Forbidden, Conflict."""
    if session.owner_id != user.pk and (session.node is None or not permissions.may_manage(session.node, user)):
        why = "Only who opened it and owners of the node end a terminal."
        raise refusals.forbidden(why, user, session=session)
    if not end(session, f"{user.username} ended it.", by=user):
        raise Conflict("It has ended already.")


def end_unauthorised(*, user: User | None = None) -> int:
    """Ends what its user may not have any more. For changes of rights, and for the sweep. Returns how many."""
    sessions = TerminalSession.objects.filter(state__in=UNENDED).select_related("node", "owner", "api_key")
    if user is not None:
        sessions = sessions.filter(owner=user)
    count = 0
    for session in sessions:
        with one_of_many(log, f"terminal {session.pk}"):
            if why := permissions.why_not_any_more(session):
                count += end(session, why)
    return count


def grant(*, node: Node, user: User, role: str, by: User) -> TerminalGrant:
    """Sets the role of `user`, whatever it was."""
    if not permissions.may_manage(node, by):
        raise refusals.forbidden(f"Only an owner of {node.name} grants terminals on it.", by, node=node.name)
    with transaction.atomic():
        row = TerminalGrant.objects.filter(node=node, user=user).first() or TerminalGrant(node=node, user=user)
        row.role = role
        save_grant(row, by=by)
    return row


def save_grant(row: TerminalGrant, *, by: User) -> None:
    """For who was found to be allowed to. What the user may not have any more ends."""
    with transaction.atomic():
        audit.take_turn()
        row.granted_by = by
        row.save()
        audit.write("granted", user=by, node=row.node.name, to=row.user.username, role=row.role)


def withdraw(row: TerminalGrant, *, by: User) -> None:
    if not permissions.may_manage(row.node, by):
        why = f"Only an owner of {row.node.name} withdraws grants on it."
        raise refusals.forbidden(why, by, node=row.node.name)
    delete_grant(row, by=by)


def delete_grant(row: TerminalGrant, *, by: User) -> None:
    """For who was found to be allowed to. What the user has open there ends."""
    with transaction.atomic():
        audit.write("withdrawn", user=by, node=row.node.name, to=row.user.username, role=row.role)
        row.delete()


def set_policy(*, node: Node, by: User, **rules: object) -> None:
    if not permissions.may_manage(node, by):
        why = f"Only an owner of {node.name} sets the rules for terminals on it."
        raise refusals.forbidden(why, by, node=node.name)
    with transaction.atomic():
        row, _ = TerminalPolicy.objects.update_or_create(node=node, defaults=rules)
        _audit_rules(row, by)


def save_policy(row: TerminalPolicy, *, by: User) -> None:
    """For who was found to be allowed to."""
    with transaction.atomic():
        row.save()
        _audit_rules(row, by)


def delete_policy(row: TerminalPolicy, *, by: User) -> None:
    """For who was found to be allowed to. From then on the defaults hold."""
    with transaction.atomic():
        row.delete()
        _audit_rules(TerminalPolicy(node=row.node), by)


def _audit_rules(row: TerminalPolicy, by: User) -> None:
    audit.write("rules_set", user=by, node=row.node.name, rules={rule: getattr(row, rule) for rule in RULES})


def _says_something(reason: str) -> bool:
    return any(character.isalnum() and character not in FILLERS for character in reason)


def _why_offline(node: Node) -> str:
    if not node.agentless:
        return f"{node.name} is offline."
    problem = node.ssh.problem or "Nobody has looked at it: manage.py serve_ssh_nodes."
    return f"{node.name} is offline. {problem}"


def _check_quotas(node: Node, user: User) -> None:
    unended = TerminalSession.objects.filter(state__in=UNENDED)
    if unended.filter(node=node).count() >= PER_NODE:
        raise Conflict(f"{node.name} holds {PER_NODE} terminals, which is the most.")
    if unended.filter(owner=user).count() >= PER_USER:
        raise Conflict(f"You have {PER_USER} terminals open, which is the most. End one.")
