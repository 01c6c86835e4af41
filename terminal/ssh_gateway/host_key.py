"""The gateway's host key: made once, private half for its eyes only, public half for whoever wants to compare it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from django.conf import settings

from terminal import ssh_keys


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
        ssh_keys.new_private(file)
    line = ssh_keys.public_line(file)
    if public_line() != line:
        file.with_suffix(".pub").write_text(f"{line}\n")
    return line
