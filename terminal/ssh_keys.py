"""Our own ssh keys: the private halves in files that nobody else may read. A pair for each node that is reached by ssh,
and the gateway's host key (`ssh_gateway.host_key`)."""

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
    new_private(path_of(node_id))
    return f"{public_line(path_of(node_id))} {comment}"


def forget(node_id: UUID) -> None:
    """After this transaction."""
    transaction.on_commit(lambda: path_of(node_id).unlink(missing_ok=True))


def new_private(file: Path) -> None:
    """Raises FileExistsError."""
    private = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    # Whole under another name first: who finds the file may read it at once.
    new = file.with_name(f".{file.name}-{os.getpid()}")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
        output.write(private)
    try:
        os.link(new, file)
    finally:
        new.unlink()


def public_line(private_file: Path) -> str:
    """`ssh-ed25519 AAAA…`"""
    private = serialization.load_ssh_private_key(private_file.read_bytes(), None)
    public = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return public.decode()
