"""API keys: issue, check, revoke. Gateways know the valid ones from Redis, where they are published here."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from hmac import compare_digest

import msgspec
from django.db import transaction
from django.utils import timezone

from accounts import live, scopes
from accounts.models import ApiKey, User
from protocol import credentials, names, routes
from protocol.errors import BadRequest

LAST_USED_STEP = timedelta(minutes=1)  # `last_used_at` is written at most this often


def issue(
    *, user: User, name: str, wanted: Sequence[str] = scopes.ALL, expires_at: datetime | None = None
) -> tuple[ApiKey, str]:
    """The new key's row and its secret text, which cannot be had again."""
    if strange := sorted(set(wanted) - set(scopes.ALL)):
        raise BadRequest(f"Unknown scopes: {', '.join(strange)}. Known: {', '.join(scopes.ALL)}.")
    credential = credentials.new(credentials.API_KEY)
    with transaction.atomic():
        key = ApiKey.objects.create(
            owner=user,
            key_id=credential.id,
            digest=credential.digest,
            name=name,
            scopes=list(wanted),
            expires_at=expires_at,
        )
        transaction.on_commit(lambda: publish(key), robust=True)
    return key, credential.text


def authenticate(text: str) -> ApiKey | None:
    """The valid key that `text` is, or None. Says nothing about why not: that would help only a guesser."""
    credential = credentials.parse(text, credentials.API_KEY)
    if credential is None:
        return None
    key = ApiKey.objects.select_related("owner").filter(key_id=credential.id).first()
    if key is None or not compare_digest(key.digest, credential.digest) or not key.is_valid or not key.owner.is_active:
        return None
    now = timezone.now()
    if key.last_used_at is None or now - key.last_used_at > LAST_USED_STEP:
        ApiKey.objects.filter(pk=key.pk).update(last_used_at=now)
    return key


def revoke(key: ApiKey) -> None:
    with transaction.atomic():
        ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=timezone.now())
        key.refresh_from_db()
        transaction.on_commit(lambda: withdraw(key), robust=True)


def publish(key: ApiKey) -> None:
    live.announce(names.KEYS, {key.digest: _entry(key)})


def withdraw(key: ApiKey) -> None:
    live.announce(names.KEYS, {key.digest: None})


def publish_all() -> None:
    """For the sweep: what Redis lost is published again, what ended otherwise (a user was made inactive) withdrawn."""
    valid = ApiKey.objects.filter(revoked_at=None, owner__is_active=True)
    valid = valid.exclude(expires_at__lte=timezone.now())
    live.make_equal(names.KEYS, {key.digest: _entry(key) for key in valid})


def _entry(key: ApiKey) -> bytes:
    expires_at = key.expires_at.timestamp() if key.expires_at else None
    return msgspec.json.encode(
        routes.Key(key_id=key.key_id, owner_id=key.owner_id, scopes=key.scopes, expires_at=expires_at)
    )
