"""The stock ssh client, as its users have it: a key of theirs, and the gateway's among the known hosts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.terminals import NODE, Stack

needs_ssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="There is no ssh client here (openssh-client).")


class SshUser:
    def __init__(self, stack: Stack, folder: Path, name: str, kind: str = "ed25519") -> None:
        self.stack, self.folder, self.name = stack, folder, name
        folder.mkdir(exist_ok=True)
        self.key = folder / f"{name}-{kind}"
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", f"{name}@laptop", "-f", self.key], check=True)
        port = stack.env["SSH_GATEWAY_PORT"]
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {stack.ssh_host_key()}\n")
        with stack.api(name) as api:
            answer = api.post("/api/v1/ssh-keys/", json={"public_key": self.key.with_suffix(".pub").read_text()})
        assert answer.status_code == 201, answer.text
        self.id = answer.json()["id"]

    def command(self, *words: str, login: str = "") -> list[str]:
        port = self.stack.env["SSH_GATEWAY_PORT"]
        told = ["-F", "none", "-i", str(self.key), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-p", port]
        told += ["-o", f"UserKnownHostsFile={self.folder / 'known_hosts'}", "-o", "StrictHostKeyChecking=yes"]
        options = [word for word in words if word.startswith("-")]
        rest = words[len(options) :]
        return ["ssh", *told, *options, login or f"{self.name}+{NODE}@127.0.0.1", *rest]

    def run(
        self, *words: str, given: bytes | None = b"", login: str = "", seconds: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self.command(*words, login=login), input=given, capture_output=True, timeout=seconds, check=False
        )
