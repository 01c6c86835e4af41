"""TerminalGrant, TerminalPolicy, TerminalSession, TerminalTicket, SshNode, AuditEvent."""

from __future__ import annotations

import uuid
from typing import Any, NoReturn, Self

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.core.validators import BaseValidator, MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from accounts.models import ApiKey, User
from accounts.ownership import Owned, OwnedQuerySet
from nodes.models import Node
from protocol import ssh
from protocol.errors import Conflict
from terminal.states import UNENDED, SessionState

DAY = 86_400  # seconds


def _between(least: int, most: int) -> list[BaseValidator]:
    return [MinValueValidator(least), MaxValueValidator(most)]


class TerminalGrant(models.Model):
    """What a user may do with terminals on a node. The node's owner may do all without one."""

    class Role(models.TextChoices):
        OWNER = "owner", "owner: all of this, gives grants, approves, ends, reads recordings"
        OPERATOR = "operator", "operator: opens terminals"
        OBSERVER = "observer", "observer: watches those of others"

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="terminal_grants")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    role = models.CharField(max_length=10, choices=Role)
    granted_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+", editable=False
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["node", "user"]
        constraints = [models.UniqueConstraint(fields=["node", "user"], name="terminal_grant_of_user")]

    def __str__(self) -> str:
        return f"{self.user} is {self.role} on {self.node}"


class TerminalPolicy(models.Model):
    """Rules for terminals on a node. Without a row these defaults hold."""

    node = models.OneToOneField(Node, on_delete=models.CASCADE, related_name="terminal_policy")
    approval_required = models.BooleanField(default=False, help_text="An owner who is not the asker must agree.")
    reason_required = models.BooleanField(default=False)
    idle_seconds = models.PositiveIntegerField(
        default=900, validators=_between(10, DAY), help_text="Without input; then the session ends."
    )
    longest_seconds = models.PositiveIntegerField(default=8 * 3600, validators=_between(60, 7 * DAY))
    keep_seconds = models.PositiveIntegerField(
        default=300, validators=_between(0, DAY), help_text="How long a shell lives on without a client."
    )

    class Meta:
        verbose_name_plural = "terminal policies"

    def __str__(self) -> str:
        return f"terminals on {self.node}"


class SshNode(models.Model):
    """How a node without an agent is reached. The host key is the only one that is taken; our private key is a file
    (see `ssh_keys`)."""

    node = models.OneToOneField(Node, on_delete=models.CASCADE, primary_key=True, related_name="ssh")
    host = models.CharField(max_length=255)
    port = models.PositiveIntegerField(default=22)
    user = models.CharField(max_length=32, help_text="As whom terminals run there.")
    host_key = models.TextField(help_text="As `ssh-keyscan` shows it, without the name: ssh-ed25519 AAAA…")
    public_key = models.TextField(editable=False, help_text="Ours, for that user's authorized_keys.")
    changed_key = models.TextField(
        blank=True,
        editable=False,
        help_text="Another host key that it showed: it is blocked until an owner enrols one.",
    )
    problem = models.TextField(blank=True, editable=False, help_text="Why it is offline.")
    looked_at = models.DateTimeField(null=True, editable=False)
    enrolled_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+", editable=False
    )
    enrolled_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["node__name"]
        verbose_name = "ssh node"

    def __str__(self) -> str:
        return f"{self.node.name} ({self.user}@{self.host}:{self.port})"

    @property
    def fingerprint(self) -> str:
        return ssh.fingerprint(self.host_key)

    @property
    def is_blocked(self) -> bool:
        return bool(self.changed_key)


class SessionQuerySet(OwnedQuerySet):
    def visible_to(self, user: User | AnonymousUser) -> Self:
        """Own sessions; those on nodes that one owns (or did until they were removed), or may watch by a grant."""
        if not user.is_authenticated:
            return self.none()
        watched = TerminalGrant.objects.filter(
            user=user, role__in=[TerminalGrant.Role.OWNER, TerminalGrant.Role.OBSERVER]
        )
        of_ones_nodes = Q(node__owner=user) | Q(node=None, node_owner=user) | Q(node__in=watched.values("node"))
        return self.filter(Q(owner=user) | of_ones_nodes)


class TerminalSession(Owned):
    """One shell on one node, asked for by one user; the row outlives both. Its bytes are not here: see `recordings`."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(  # type: ignore[assignment]
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )
    owner_name = models.CharField("user", max_length=150)
    node = models.ForeignKey(Node, null=True, on_delete=models.SET_NULL, related_name="terminal_sessions")
    node_name = models.CharField(max_length=63)
    node_owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="Reads the recording when the node is removed, too.",
    )
    api_key = models.ForeignKey(ApiKey, null=True, on_delete=models.SET_NULL, related_name="+")
    reason = models.CharField(max_length=500, blank=True, help_text="Why it was asked for.")
    state = models.CharField(max_length=10, choices=[(s, s) for s in SessionState], editable=False)
    cols = models.PositiveSmallIntegerField()
    rows = models.PositiveSmallIntegerField()
    writers = models.PositiveIntegerField(default=0, editable=False, help_text="How many were let in to write.")
    idle_seconds = models.PositiveIntegerField()
    keep_seconds = models.PositiveIntegerField()
    approved_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    approved_at = models.DateTimeField(null=True)
    opened_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    end_reason = models.CharField(max_length=500, blank=True)
    exit_code = models.IntegerField(null=True)
    output_bytes = models.PositiveBigIntegerField(null=True)
    recording_digest = models.CharField(max_length=64, blank=True, help_text="Last link of the file's chain.")
    recording_deleted_at = models.DateTimeField(null=True)

    objects = SessionQuerySet.as_manager()  # type: ignore[misc]

    class Meta(Owned.Meta):
        ordering = ["-created_at"]
        constraints = [models.CheckConstraint(condition=Q(state__in=list(SessionState)), name="terminal_state_known")]
        indexes = [models.Index(fields=["node"], condition=Q(state__in=list(UNENDED)), name="terminal_live_on_node")]

    def __str__(self) -> str:
        return f"terminal {str(self.pk)[:8]} on {self.node_name}"


class TerminalTicket(models.Model):
    """A secret for one websocket to one session. A ticket works once, within 30 seconds; a resume token until its
    successor was used. Only a digest is stored."""

    class Kind(models.TextChoices):
        TICKET = "ticket"
        RESUME = "resume"

    session = models.ForeignKey(TerminalSession, on_delete=models.CASCADE, related_name="tickets")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    kind = models.CharField(max_length=6, choices=Kind)
    mode = models.CharField(max_length=8)
    line = models.UUIDField(default=uuid.uuid4, help_text="A ticket and the resume tokens that came of it.")
    digest = models.CharField(max_length=64, unique=True)
    expires_at = models.DateTimeField(db_index=True)
    used_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"{self.kind} of {self.user} for {self.session}"


class AuditQuerySet(models.QuerySet[Any]):
    def update(self, **_: Any) -> NoReturn:
        raise Conflict("Audit events are never changed.")

    def delete(self) -> NoReturn:
        raise Conflict("Audit events are never deleted.")


class AuditEvent(models.Model):
    """Something that somebody did, or was refused. Rows are only added, each holding the digest of the one before; on
    PostgreSQL a trigger refuses all else. No foreign keys: it outlives what it tells of."""

    id = models.BigIntegerField(primary_key=True, editable=False)  # 1, 2, 3, … without a gap
    at = models.DateTimeField()
    what = models.CharField(max_length=32)
    session = models.UUIDField(null=True, db_index=True)
    node = models.CharField(max_length=63, blank=True)
    user = models.CharField(max_length=150, blank=True)
    details = models.JSONField(default=dict)
    digest = models.CharField(max_length=64)

    objects = AuditQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.id} {self.what}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise Conflict("Audit events are never changed.")
        super().save(*args, force_insert=True, **{name: v for name, v in kwargs.items() if name != "force_insert"})

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise Conflict("Audit events are never deleted.")
