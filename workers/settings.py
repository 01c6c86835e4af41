"""What one node knows of itself, kept in its home folder. The only reader of the environment on the node.

NODE_HOME/node.json      who this node is, with its secrets (0600); written by `join`
          hardware.json  what the machine was when it was last looked at (see `hardware.watch`)
          blobs/         files by their SHA-256 (see `blobs`)
          attempts/      one folder per running replica or job, removed with it (see `workspace`)
          results/       results that the control plane has not taken yet (see `journal`)
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from protocol.errors import CyxwizError


class BadSetting(CyxwizError):
    code = "bad_setting"


def default_home() -> Path:
    return Path(os.environ.get("NODE_HOME") or "~/.cyxwiz-node").expanduser().resolve()


def choose_home(home: Path | None) -> Home:
    """From now on: what the command line says counts for all that ask for it later."""
    if home is not None:
        os.environ["NODE_HOME"] = str(home.resolve())
    return Home(default_home())


def join_token() -> str | None:
    """So that it need not be on a command line, where every user of the machine can read it."""
    return os.environ.get("CYXWIZ_JOIN_TOKEN")


def log_level() -> str:
    return os.environ.get("LOG_LEVEL", "INFO").upper()


def sandbox_limit() -> int | None:
    """The highest level of the sandbox that the owner wants, for machines where it is in the way."""
    text = os.environ.get("NODE_SANDBOX_LEVEL", "")
    if text not in ("", "0", "1", "2"):
        raise BadSetting(f"NODE_SANDBOX_LEVEL is 0, 1 or 2, not '{text}'.")
    return int(text) if text else None


def library_folders() -> list[Path]:
    """Where the owner has put libraries besides the usual places."""
    return [Path(name) for name in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if name]


def terminal_user() -> str:
    """As whom terminals run on this node. Empty: it gives none."""
    return os.environ.get("NODE_TERMINAL_USER", "")


def terminal_environment() -> dict[str, str]:
    """Of the process that holds a terminal; its shell gets an environment of its own."""
    kept = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")
    packages = Path(__file__).resolve().parents[1]
    return {**{name: os.environ[name] for name in kept if name in os.environ}, "PYTHONPATH": str(packages)}


def runner_environment(folder: Path) -> dict[str, str]:
    """All that a runner may know of our environment: no secret of ours is in it."""
    kept = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")
    packages = Path(__file__).resolve().parents[1]
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "PYTHONPATH": str(packages),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",  # a line printed just before a crash is the one that explains it
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "ORT_DISABLE_TELEMETRY": "1",  # else onnxruntime writes down a device id, to report to its maker
        "USER": "runner",  # or libraries would look it up in /etc/passwd, which they may not read
    }


def probe_environment(folder: Path) -> dict[str, str]:
    """For what asks vendors' libraries: besides, where OpenCL's loader finds its drivers."""
    kept = ("OCL_ICD_VENDORS",)
    return {**{name: os.environ[name] for name in kept if name in os.environ}, **runner_environment(folder)}


def show_only(device: str) -> str:
    """To CUDA's libraries, once loaded in this process: the device "cuda:N" as the only one, or none at all. NVIDIA's
    order is by speed unless asked otherwise; ours is by PCI address. Returns what they call it."""
    kind, _, index = device.partition(":")
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = index if kind == "cuda" else ""
    return "cuda:0" if kind == "cuda" else device


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    node_id: str
    name: str
    url: str
    token: str
    broker_url: str
    queues: list[str]

    def __repr__(self) -> str:  # never the token, nor the password in broker_url
        return f"Identity({self.name}, {self.node_id}, {self.url})"


@dataclass(frozen=True)
class Home:
    path: Path

    @property
    def identity_file(self) -> Path:
        return self.path / "node.json"

    @property
    def blobs(self) -> Path:
        return self.path / "blobs"

    @property
    def attempts(self) -> Path:
        return self.path / "attempts"

    @property
    def results(self) -> Path:
        return self.path / "results"

    @property
    def hardware_file(self) -> Path:
        return self.path / "hardware.json"

    def read(self) -> Identity:
        try:
            return msgspec.json.decode(self.identity_file.read_bytes(), type=Identity)
        except FileNotFoundError:
            raise BadSetting(
                f"{self.path} holds no node. Join first: cyxwiz-node join URL --home {self.path}"
            ) from None
        except (msgspec.DecodeError, OSError) as error:
            raise BadSetting(f"Cannot read {self.identity_file}: {error}") from error

    def write(self, identity: Identity) -> None:
        """All or nothing: a crash leaves the old file or the new one."""
        handle, name = tempfile.mkstemp(dir=self.path, prefix=".node-")  # mkstemp makes it 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(identity)))
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self.identity_file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    @contextmanager
    def ready_to_join(self, *, force: bool) -> Iterator[None]:
        """Proves that the home can be written before a join token is spent; leaves no new folder behind on failure."""
        if self.identity_file.exists() and not force:
            raise BadSetting(f"{self.path} already holds node {self.read().name}. Use --force to join anew.")
        missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
            yield
        except BaseException as error:
            for folder in missing:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
            if isinstance(error, OSError):
                raise BadSetting(f"Cannot write to {self.path}: {error.strerror}") from error
            raise

    @contextmanager
    def only_agent(self) -> Iterator[None]:
        """Two agents that are one node would end each other's replicas."""
        with (self.path / "agent.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise BadSetting(f"An agent already runs on {self.path}.") from None
            yield
