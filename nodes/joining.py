"""A machine joins: a join token is exchanged, once, for a node token and a broker user."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from datetime import timedelta
from hmac import compare_digest

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from accounts.models import User
from nodes import broker_users, hardware
from nodes.models import JoinToken, Node
from protocol import credentials, names
from protocol.errors import BadRequest, Conflict, Forbidden, NotAuthenticated
from protocol.messages import Registered, Registration

JOIN_TOKEN_LIFE = timedelta(minutes=15)
NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")


def make_token(
    *,
    user: User,
    node_name: str = "",
    shared: bool = False,
    allows_programs: bool = False,
    labels: Mapping[str, str] | None = None,
) -> tuple[JoinToken, str]:
    """The token's row and its secret text, which cannot be had again."""
    if shared and not user.is_staff:
        raise Forbidden("Only staff may add nodes that run everybody's models. Leave out `shared`.")
    if node_name:
        check_name(node_name)
    credential = credentials.new(credentials.JOIN_TOKEN)
    token = JoinToken.objects.create(
        owner=user,
        token_id=credential.id,
        digest=credential.digest,
        node_name=node_name,
        shared=shared,
        allows_programs=allows_programs,
        labels=dict(labels or {}),
        expires_at=timezone.now() + JOIN_TOKEN_LIFE,
    )
    return token, credential.text


def register(registration: Registration) -> Registered:
    """Raises NotAuthenticated for a token that is unknown, used or expired; Conflict where the name is taken."""
    credential = credentials.new(credentials.NODE_TOKEN)
    broker_password = secrets.token_hex(32)
    with transaction.atomic():
        token = _take(registration.token)
        name = _name(token, registration)
        try:
            with transaction.atomic():
                node = Node(
                    owner=token.owner,
                    name=name,
                    shared=token.shared,
                    allows_programs=token.allows_programs,
                    labels={**registration.labels, **token.labels},
                    token_id=credential.id,
                    token_digest=credential.digest,
                    token_issued_at=timezone.now(),
                    broker_password_digest=credentials.digest(broker_password),
                )
                hardware.store(node, registration.hardware)
        except IntegrityError as error:
            raise Conflict(f"There is a node named {name!r} already. Choose another with --name.") from error
        JoinToken.objects.filter(pk=token.pk).update(used_by=node)
        # Inside the transaction: without its broker user the node could not work, so then it has not joined.
        broker_users.grant(node)
    return Registered(
        node_id=str(node.pk),
        name=node.name,
        token=credential.text,
        broker_url=broker_users.url_for(node, broker_password, settings.NODE_REDIS_URL),
        queues=queues(node),
    )


def queues(node: Node) -> list[str]:
    """The Celery queues this node listens to."""
    return [names.node_queue(str(node.pk)), *(names.class_queue(name) for name in node.hardware_classes)]


def check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise BadRequest(f"{name!r} is no node name: 1 to 63 of a-z, 0-9, '-', '.'; a letter or digit at both ends.")


def _take(text: str) -> JoinToken:
    """Marks the token used; of several machines that come with the same one, one gets it."""
    credential = credentials.parse(text, credentials.JOIN_TOKEN)
    token = JoinToken.objects.select_related("owner").filter(token_id=credential.id).first() if credential else None
    if credential is None or token is None or not compare_digest(token.digest, credential.digest):
        raise NotAuthenticated("This join token is not known. Make a new one: `cyxwiz nodes token`.")
    now = timezone.now()
    if not JoinToken.objects.filter(pk=token.pk, used_at=None, expires_at__gt=now).update(used_at=now):
        state = "was used already" if token.used_at else "has expired"
        raise NotAuthenticated(f"This join token {state}. Make a new one: `cyxwiz nodes token`.")
    return token


def _name(token: JoinToken, registration: Registration) -> str:
    wished = registration.name or token.node_name or registration.hardware.hostname.lower().split(".")[0]
    if token.node_name and wished != token.node_name:
        raise Forbidden(f"This join token is for a node named {token.node_name!r}, not {wished!r}.")
    check_name(wished)
    return wished
