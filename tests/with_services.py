"""Runs a command with a PostgreSQL and a Redis: those of DATABASE_URL and REDIS_URL where set, else own ones on free
ports, in a temporary folder, ended with the command. Installs missing servers by apt when root. With `--sqlite` the
database is a SQLite file.

    python tests/with_services.py [--sqlite] pytest tests/nodes
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

DEADLINE_SECONDS = 30


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` runs
    command = sys.argv[1:]
    environment = dict(os.environ)
    environment.setdefault("SECRET_KEY", secrets.token_hex(32))
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="cyxwiz-test-", ignore_cleanup_errors=True))
        )
        folder.chmod(0o755)
        environment.setdefault("CYXWIZ_HOME", str(folder / "home"))
        if command[0] == "--sqlite":
            command.pop(0)
            environment["DATABASE_URL"] = f"sqlite:///{folder}/db.sqlite3"
        elif "DATABASE_URL" not in environment:
            environment["DATABASE_URL"] = stack.enter_context(postgres(folder / "postgres"))
        if "REDIS_URL" not in environment:
            environment["REDIS_URL"] = stack.enter_context(redis(folder / "redis"))
        return subprocess.run(command, env=environment, check=False).returncode


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    programs = postgres_programs()
    folder.mkdir()
    port = free_port()
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        as_user = {"user": "postgres", "group": "postgres", "extra_groups": [], "cwd": "/"}
    data = folder / "data"
    initdb: list[str | Path] = [
        programs / "initdb",
        "-D",
        data,
        "-U",
        "cyxwiz",
        "--auth=trust",
        "-E",
        "UTF8",
        "--locale=C",
        "--no-sync",
    ]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, **as_user)
    fast = ["fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200"]
    options = [word for setting in [*fast, f"unix_socket_directories={folder}"] for word in ("-c", setting)]
    command: list[str | Path] = [programs / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", *options]
    with (folder.parent / "postgres.log").open("wb") as log, running(command, log, signal.SIGINT, **as_user):
        wait_for([programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)], folder.parent / "postgres.log")
        createdb: list[str | Path] = [
            programs / "createdb",
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "-U",
            "cyxwiz",
            "cyxwiz",
        ]
        subprocess.run(createdb, check=True)
        yield f"postgres://cyxwiz@127.0.0.1:{port}/cyxwiz"


def postgres_programs() -> Path:
    """The folder of the newest PostgreSQL's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if not found:
        install("postgresql")
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    if shutil.which("redis-server") is None:
        install("redis-server")
    folder.mkdir()
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with (folder.parent / "redis.log").open("wb") as log, running(command, log, signal.SIGTERM):
        wait_for(["redis-cli", "-p", str(port), "ping"], folder.parent / "redis.log")
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def running(command: Sequence[str | Path], log: IO[bytes], polite: signal.Signals, **how: Any) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=log, stderr=log, **how)
    try:
        yield
    finally:
        process.send_signal(polite)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(probe: Sequence[str | Path], log: Path) -> None:
    give_up = time.monotonic() + DEADLINE_SECONDS
    while subprocess.run(probe, check=False, capture_output=True).returncode:
        if time.monotonic() > give_up:
            sys.exit(f"{probe[0]} gave no answer in {DEADLINE_SECONDS} s:\n{log.read_text()}")
        time.sleep(0.05)


def install(package: str) -> None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.exit(f"{package} is missing. Install it, or set DATABASE_URL and REDIS_URL to running servers.")
    print(f"Installing {package} …", flush=True)
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=quiet)
    subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", package], check=True, env=quiet)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
