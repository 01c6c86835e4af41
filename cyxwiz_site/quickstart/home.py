"""The folder of one quickstart: its data, its secrets, its logs, and the lock that keeps a second one out.

HOME/lock              flock, with the pid of who holds it
     secret_key        Django's
     credentials.json  of the admin, so that the next start shows the same
     quickstart.json   where everything is; only while it is ready
     ssh/              the key, the host key and the settings with which `ssh -F` finds the local nodes
     logs/  redis/  nodes/<name>/  and what the control plane keeps: db.sqlite3, blobs/, tmp/
"""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)
PROJECT = Path(__file__).resolve().parents[2]


class Refused(Exception):
    """Nothing was started. One line for people: what is wrong and what to do."""


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    admin_user: str = "admin"
    admin_password: str
    api_key: str | None = None


class State(msgspec.Struct, frozen=True, kw_only=True):
    """quickstart.json"""

    url: str
    api_key: str
    admin_user: str
    admin_password: str | None
    redis_url: str
    ssh_port: int
    flower_url: str
    pids: dict[str, int]


@dataclass(frozen=True)
class Home:
    path: Path

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def redis(self) -> Path:
        return self.path / "redis"

    @property
    def state_file(self) -> Path:
        return self.path / "quickstart.json"

    @property
    def ssh(self) -> Path:
        return self.path / "ssh"

    def node(self, name: str) -> Path:
        return self.path / "nodes" / name

    @contextmanager
    def held(self) -> Iterator[None]:
        """Only one quickstart per home. The lock goes with the process, however that ends."""
        try:
            for folder in (self.path, self.logs, self.redis, self.path / "nodes"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (self.path / "lock").open("a+")
        except OSError as error:
            raise Refused(f"Cannot write to {self.path}: {error.strerror}. Choose another with --home.") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.seek(0)
                holder = lock.read().strip() or "not known"
                raise Refused(
                    f"A quickstart already runs on {self.path} (pid {holder}). End it, or choose another --home."
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            self.state_file.unlink(missing_ok=True)  # of a start that was killed
            try:
                yield
            finally:
                self.state_file.unlink(missing_ok=True)
                lock.truncate(0)

    def secret_key(self) -> str:
        file = self.path / "secret_key"
        if not file.exists():
            write_private(file, secrets.token_urlsafe(48).encode())
        return file.read_text()

    def credentials(self) -> Credentials:
        return self.read(self.path / "credentials.json", Credentials) or Credentials(
            admin_password=secrets.token_urlsafe(12)
        )

    def keep_credentials(self, credentials: Credentials) -> None:
        write_private(self.path / "credentials.json", pretty(credentials))

    def publish(self, state: State) -> None:
        write_private(self.state_file, pretty(state))

    @staticmethod
    def read(file: Path, kind: type[T]) -> T | None:
        try:
            return msgspec.json.decode(file.read_bytes(), type=kind)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise Refused(f"{file} is damaged ({error}). Delete it and start again.") from error


def default_home() -> Path:
    return Path(os.environ.get("CYXWIZ_HOME") or PROJECT / ".cyxwiz")


def pretty(content: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(content)) + b"\n"


def write_private(file: Path, content: bytes) -> None:
    """For this user's eyes only, and whole or not at all."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "wb") as new:
            new.write(content)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
