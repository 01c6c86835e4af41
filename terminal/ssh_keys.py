"""Our keys for nodes that are reached by ssh: a pair for each, the private half in a file that nobody else may read."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.conf import settings
from django.db import transaction


def path_of(node_id: UUID) -> Path:
    folder: Path = settings.SSH_NODES_DIR
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / str(node_id)


def make(node_id: UUID, comment: str) -> str:
    """The public half, as a line for authorized_keys."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    with open(os.open(path_of(node_id), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(private)
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return f"{public.decode()} {comment}"


def forget(node_id: UUID) -> None:
    """After this transaction."""
    transaction.on_commit(lambda: path_of(node_id).unlink(missing_ok=True))
