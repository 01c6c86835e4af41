"""What somebody names, where they may see it. That they named what they may not is in the audit; what they are answered
is the same as for what there is not."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import Http404

from accounts.models import User
from nodes.models import Node
from terminal import permissions, refusals
from terminal.models import SessionQuerySet, TerminalSession


def visible_sessions(user: User) -> SessionQuerySet:
    rows = TerminalSession.objects.visible_to(user)
    return rows.select_related("node", "owner", "api_key", "approved_by")


def session(user: User, id: UUID) -> TerminalSession:
    """Raises Http404."""
    if (found := visible_sessions(user).filter(pk=id).first()) is not None:
        return found
    if (hidden := TerminalSession.objects.filter(pk=id).first()) is not None:
        refusals.refused("They may not see this terminal.", user, session=hidden)
    raise Http404


def node(user: User, name: str, **how: Any) -> Node:
    """`how` they came, for the audit. Raises Http404."""
    if (found := permissions.known_nodes(user).filter(name=name).first()) is not None:
        return found
    if Node.objects.filter(name=name).exists():
        refusals.refused("They may not see this node.", user, node=name, **how)
    raise Http404
