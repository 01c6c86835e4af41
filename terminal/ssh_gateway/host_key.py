"""The gateway's host key: made once, private half for its eyes only, public half for whoever wants to compare it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.conf import settings


def private_file() -> Path:
    return Path(settings.CYXWIZ_HOME) / "ssh_host_ed25519_key"


def public_line() -> str | None:
    """`ssh-ed25519 AAAA…`; None where no gateway was ever started."""
    try:
        return private_file().with_suffix(".pub").read_text().strip()
    except FileNotFoundError:
        return None


def ensure() -> str:
    """The public line of the key, which is made where there is none. Two who start at once have the same."""
    file = private_file()
    with contextlib.suppress(FileExistsError):
        key = Ed25519PrivateKey.generate()
        encoded = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        # Whole under another name first: who finds the file may read it at once.
        new = file.with_name(f".{file.name}-{os.getpid()}")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
            output.write(encoded)
        try:
            os.link(new, file)
        finally:
            new.unlink()
    private = serialization.load_ssh_private_key(file.read_bytes(), None)
    public = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    line = public.decode()
    if public_line() != line:
        file.with_suffix(".pub").write_text(f"{line}\n")
    return line
