"""Nodes without an agent, reached by ssh: staff enrol them, with the host key that they know to be the machine's.

Only staff, because whoever chooses an address has us speak to it from inside our network
(docs/decisions/012-agentless-nodes.md).
"""

from __future__ import annotations

import re
from typing import Any

from django.db import transaction
from django.utils import timezone

from accounts.models import User
from nodes import heartbeats
from nodes import services as nodes
from protocol import ssh
from protocol.errors import BadRequest, Conflict, Forbidden
from protocol.terminal_orders import Seen
from terminal import audit, services, ssh_keys, ssh_looks
from terminal.models import SshNode, TerminalSession
from terminal.states import UNENDED

HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,253}[A-Za-z0-9])?")  # a name, an IPv4 or IPv6 address
LOGIN = re.compile(r"[a-z_][a-z0-9_.-]{0,31}")


def enrol(*, by: User, name: str, host: str, port: int, user: str, host_key: str) -> SshNode:
    """`host_key`: the key, or its fingerprint; then the machine is asked for its keys. Nothing else is asked of it."""
    _check_staff(by)
    check_target(host, port, user)
    key = _key(host_key, host, port)
    with transaction.atomic():
        node = nodes.add_agentless(name=name, owner=by, hostname=host)
        row = SshNode(node=node, host=host, port=port, user=user, host_key=key, enrolled_by=by)
        audit.write("ssh_node_enrolled", user=by, node=name, **_about(row))
        row.public_key = ssh_keys.make(node.pk, f"cyxwiz-{name}")
        row.save()
    return row


def pin(row: SshNode, host_key: str, *, by: User) -> None:
    """Takes another host key from now on: the machine was set up anew. For who was found to own the node."""
    row.host_key = _key(host_key, row.host, row.port)
    row.changed_key = row.problem = ""
    row.looked_at = None
    with transaction.atomic():
        row.save()
        audit.write("host_key_enrolled", user=by, node=row.node.name, **_about(row))


def offered_keys(*, by: User, host: str, port: int) -> list[str]:
    """What a machine says its host keys are. To be compared with what is known of it, not to be believed."""
    _check_staff(by)
    check_address(host, port)
    return ssh_looks.offered_keys(host, port)


def check_target(host: str, port: int, user: str) -> None:
    check_address(host, port)
    if not LOGIN.fullmatch(user):
        raise BadRequest(f"{user!r} is no user name.")


def check_address(host: str, port: int) -> None:
    if not HOST.fullmatch(host):
        raise BadRequest(f"{host!r} is no host name or address.")
    if not 0 < port < 65536:
        raise BadRequest(f"{port} is no port.")


def note(row: SshNode, seen: Seen) -> None:
    """What was seen when somebody looked at the node as it was in `row`."""
    as_it_was = SshNode.objects.filter(pk=row.pk, host_key=row.host_key, changed_key="")
    changed_key = seen.offered[0] if seen.outcome == "changed_key" else ""
    with transaction.atomic():
        if not as_it_was.update(problem=seen.text, changed_key=changed_key, looked_at=timezone.now()):
            return  # removed, blocked, or enrolled anew meanwhile
        if seen.outcome == "ok":
            heartbeats.saw(row.node)
            return
        heartbeats.lost_sight(row.node, seen.text)
        if changed_key:
            audit.write(
                "host_key_changed",
                node=row.node.name,
                **_about(row),
                offered=ssh.fingerprint(changed_key),
            )
            for session in TerminalSession.objects.filter(node=row.node, state__in=UNENDED).select_related("node"):
                services.end(session, f"{row.node.name} is blocked. {seen.text}")


def _check_staff(by: User) -> None:
    if not by.is_staff:
        raise Forbidden("Only staff enrol machines that are reached by ssh.")


def _key(text: str, host: str, port: int) -> str:
    if not text.strip().startswith(ssh.FINGERPRINT_PREFIX):
        return ssh.check_host_key(text)
    shown = ssh_looks.offered_keys(host, port)
    for key in shown:
        if ssh.fingerprint(key) == text.strip():
            return key
    fingerprints = ", ".join(ssh.fingerprint(key) for key in shown)
    raise Conflict(f"{host} has no host key with this fingerprint; it shows {fingerprints}.")


def _about(row: SshNode) -> dict[str, Any]:
    return {"host": row.host, "port": row.port, "login": row.user, "fingerprint": row.fingerprint}
