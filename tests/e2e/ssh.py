"""The stock ssh client, as its users have it: a key of theirs, and the gateway's among the known hosts."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.e2e.terminals import NODE, Stack
from tests.e2e.typist import Typist, typing


class SshUser:
    def __init__(self, stack: Stack, folder: Path, name: str, kind: str = "ed25519") -> None:
        self.stack, self.folder, self.name = stack, folder, name
        self.port = stack.env["SSH_GATEWAY_PORT"]
        self.key = folder / f"{name}-{kind}"
        public = make_key(self.key, kind)
        self.known_hosts = folder / "known_hosts"
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {stack.ssh_host_key()}\n")
        with stack.api(name) as api:
            answer = api.post("/api/v1/ssh-keys/", json={"public_key": public})
        assert answer.status_code == 201, answer.text
        self.key_id = answer.json()["id"]

    def command(self, *words: str, login: str = "", key: Path | None = None) -> list[str]:
        """`words`: first options, each in one word with its value, then what is to run."""
        options = [word for word in words if word.startswith("-")]
        where = f"{login or f'{self.name}+{NODE}'}@127.0.0.1"
        return ["ssh", *self._settings(key), *options, where, *words[len(options) :]]

    def _settings(self, key: Path | None = None) -> list[str]:
        told = [f"Port={self.port}", "IdentitiesOnly=yes", "BatchMode=yes", "StrictHostKeyChecking=yes"]
        told.append(f"UserKnownHostsFile={self.known_hosts}")
        return ["-F", "none", "-i", str(key or self.key), *(word for option in told for word in ("-o", option))]

    def copy(self, file: str, to: str) -> subprocess.CompletedProcess[bytes]:
        command = ["scp", *self._settings(), file, f"{self.name}+{NODE}@127.0.0.1:{to}"]
        return subprocess.run(command, capture_output=True, timeout=60, check=False)

    def run(
        self, *words: str, given: bytes = b"", login: str = "", key: Path | None = None, seconds: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        command = self.command(*words, login=login, key=key)
        return subprocess.run(command, input=given, capture_output=True, timeout=seconds, check=False)

    @contextmanager
    def piped(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """A client on pipes, that does not outlive the test."""
        with subprocess.Popen(self.command(*words), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
            try:
                yield client
            finally:
                client.kill()

    def at_terminal(self, *words: str) -> AbstractContextManager[Typist]:
        return typing(self.command(*words))


def make_key(file: Path, kind: str = "ed25519", *more: str) -> str:
    """The public half."""
    subprocess.run(["ssh-keygen", "-q", "-t", kind, *more, "-N", "", "-C", "somebody@laptop", "-f", file], check=True)
    return file.with_suffix(".pub").read_text()
