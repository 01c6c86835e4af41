"""Who may open, watch and manage terminals on a node. Asked again for as long as a session lives."""

from __future__ import annotations

from django.db.models import Q
from django.utils import timezone

from accounts.models import User
from nodes.models import Node, NodeQuerySet
from terminal.models import TerminalGrant, TerminalSession
from terminal.states import SessionState

Role = TerminalGrant.Role
NODE_REMOVED = "The node was removed."
USER_REMOVED = "Its user was removed."
EXPIRED = "It has reached its longest time."


def known_nodes(user: User) -> NodeQuerySet:
    """Those of the fleet that the user sees, and those with a grant."""
    granted = TerminalGrant.objects.filter(user=user).values("node")
    return Node.objects.visible_to(user) | Node.objects.filter(pk__in=granted)


def managed_nodes(user: User) -> NodeQuerySet:
    return _nodes_with(user, Role.OWNER)


def openable_nodes(user: User) -> NodeQuerySet:
    return _nodes_with(user, Role.OWNER, Role.OPERATOR)


def role_on(node: Node, user: User) -> Role | None:
    if not user.is_active:
        return None
    if node.owner_id == user.pk:
        return Role.OWNER
    role = TerminalGrant.objects.filter(node=node, user=user).values_list("role", flat=True).first()
    return Role(role) if role else None


def may_open(node: Node, user: User) -> bool:
    return role_on(node, user) in (Role.OWNER, Role.OPERATOR)


def may_watch(session: TerminalSession, user: User) -> bool:
    return session.node is not None and role_on(session.node, user) in (Role.OWNER, Role.OBSERVER)


def may_manage(node: Node, user: User) -> bool:
    """Grants, rules, approvals, ending others' sessions."""
    return role_on(node, user) == Role.OWNER


def may_read_recording(session: TerminalSession, user: User) -> bool:
    """Who used a terminal cannot take it from the node's owner by that the node is removed."""
    if session.owner_id == user.pk:
        return True
    return session.node_owner_id == user.pk if session.node is None else may_manage(session.node, user)


def why_not_any_more(session: TerminalSession) -> str:
    """Why the session's own user may not have it (any longer), or nothing."""
    user, key = session.owner, session.api_key
    if session.node is None:
        return NODE_REMOVED
    if user is None:
        return USER_REMOVED
    if not user.is_active or not may_open(session.node, user):
        return "The right to a terminal on this node was withdrawn."
    if key is not None and not key.is_valid:
        return "The API key that opened it is not valid any more."
    if session.state != SessionState.UNAPPROVED and session.expires_at <= timezone.now():
        return EXPIRED
    return ""


def _nodes_with(user: User, *roles: Role) -> NodeQuerySet:
    granted = TerminalGrant.objects.filter(user=user, role__in=roles).values("node")
    return Node.objects.filter(Q(owner=user) | Q(pk__in=granted))
