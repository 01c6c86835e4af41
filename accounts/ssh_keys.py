"""Public keys with which people come in by ssh: add, find. A key belongs to one account only."""

from __future__ import annotations

import base64
from datetime import timedelta

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from django.db import IntegrityError, transaction
from django.utils import timezone

from accounts.models import SshKey, User
from protocol import ssh
from protocol.errors import BadRequest, Conflict

RSA_LEAST_BITS = 3072
MOST_CHARACTERS = 16_384
PER_USER = 50
LAST_USED_STEP = timedelta(minutes=1)  # `last_used_at` is written at most this often
REGISTERED = "This ssh key is registered already; a key belongs to one account only."


def add(*, user: User, text: str, name: str = "") -> SshKey:
    """As `read`, and kept."""
    key = read(user=user, text=text, name=name)
    try:
        with transaction.atomic():
            key.save()
    except IntegrityError:
        raise Conflict(REGISTERED) from None
    return key


def read(*, user: User, text: str, name: str = "") -> SshKey:
    """`text` is the line of a `.pub` file; without a name the comment in it is one. Raises BadRequest, Conflict."""
    kind, encoded, comment = _parse(text)
    if SshKey.objects.filter(owner=user).count() >= PER_USER:
        raise Conflict(f"This account has {PER_USER} ssh keys, which is the most. Delete one.")
    key = SshKey(owner=user, type=kind, public_key=encoded, fingerprint=ssh.fingerprint(f"{kind} {encoded}"))
    if SshKey.objects.filter(fingerprint=key.fingerprint).exists():
        raise Conflict(REGISTERED)
    key.name = (name or comment or kind)[:100]
    return key


def find(username: str, line: str) -> SshKey | None:
    """The key in `line`, if it opens the account of that name. One query, whether there is such an account or not."""
    keys = SshKey.objects.select_related("owner")
    found: SshKey | None = keys.filter(
        fingerprint=ssh.fingerprint(line), owner__username=username, owner__is_active=True
    ).first()
    return found


def used(key: SshKey) -> None:
    now = timezone.now()
    if key.last_used_at is None or now - key.last_used_at > LAST_USED_STEP:
        SshKey.objects.filter(pk=key.pk).update(last_used_at=now)


def _parse(text: str) -> tuple[str, str, str]:
    """(type, base64, comment)"""
    lines = text.strip().splitlines()
    if "PRIVATE KEY" in text:
        raise BadRequest("This is a private key. Keep it to yourself; what is wanted here is the .pub file beside it.")
    if len(lines) != 1 or len(text) > MOST_CHARACTERS:
        raise BadRequest("This is no ssh public key: give the one line of a .pub file.")
    kind, encoded, comment, *_ = [*lines[0].split(None, 2), "", "", ""]
    if kind not in ssh.KEY_TYPES:
        raise BadRequest(f"{kind[:40]!r} is no type of key that is taken here. Those are {', '.join(ssh.KEY_TYPES)}.")
    try:
        key = load_ssh_public_key(f"{kind} {encoded}".encode())
    except (ValueError, UnsupportedAlgorithm):
        raise BadRequest(f"This is no ssh public key: what follows {kind} is damaged.") from None
    if isinstance(key, RSAPublicKey) and key.key_size < RSA_LEAST_BITS:
        raise BadRequest(f"This RSA key has {key.key_size} bits; the least is {RSA_LEAST_BITS}. Better: ed25519.")
    assert isinstance(key, RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey)
    # As bytes and not as it was written, so that one key has one fingerprint.
    return kind, base64.b64encode(base64.b64decode(encoded)).decode(), comment.strip()
