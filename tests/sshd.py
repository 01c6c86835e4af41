"""A real OpenSSH server on a free port of this machine, for whoever runs the tests."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.quickstarts import free_port
from tests.waiting import until

PROGRAM = shutil.which("sshd") or "/usr/sbin/sshd"
ME = pwd.getpwuid(os.getuid()).pw_name
needs_sshd = pytest.mark.skipif(not Path(PROGRAM).exists(), reason="There is no sshd: apt install openssh-server.")


class Sshd:
    """Keys are read for every connection, so they may be exchanged while it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.authorized_keys = folder / "authorized_keys"
        self.authorized_keys.touch()
        self.new_host_key()

    def new_host_key(self, kind: str = "ed25519") -> None:
        file = self.folder / "host_key"
        for old in (file, file.with_suffix(".pub")):
            old.unlink(missing_ok=True)
        make_key(file, kind)

    @property
    def host_key(self) -> str:
        return " ".join((self.folder / "host_key.pub").read_text().split()[:2])

    def start(self, **more: str) -> None:
        options = {
            "Port": str(self.port),
            "ListenAddress": "127.0.0.1",
            "HostKey": str(self.folder / "host_key"),
            "AuthorizedKeysFile": str(self.authorized_keys),
            "PidFile": "none",
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "StrictModes": "no",  # temporary folders are everybody's
            "PrintMotd": "no",
            "AcceptEnv": "LANG LC_*",
            **more,
        }
        config = self.folder / "sshd_config"
        config.write_text("".join(f"{name} {value}\n" for name, value in options.items()))
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where it shuts itself in before anybody is known
        log = (self.folder / "sshd.log").open("ab")
        command = [PROGRAM, "-D", "-e", "-f", str(config)]
        self.process = subprocess.Popen(command, stderr=log, start_new_session=True)
        log.close()
        until(self._listens, "sshd listens", context=lambda: (self.folder / "sshd.log").read_text())

    def stop(self) -> None:
        """The server and all connections that it holds."""
        for child in self.children():
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self.process.kill()
        self.process.wait(10)

    def children(self) -> list[int]:
        """Of each connection, what holds it; the shells are below these."""
        return [
            int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False


def make_key(file: Path, kind: str = "ed25519") -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "", "-f", str(file)], check=True)


@contextmanager
def running(folder: Path) -> Iterator[Sshd]:
    folder.mkdir(parents=True, exist_ok=True)
    sshd = Sshd(folder)
    sshd.start()
    try:
        yield sshd
    finally:
        sshd.stop()
