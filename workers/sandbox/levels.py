"""Which level of the sandbox this machine really gives: found by attempts, in a process of its own, once."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import msgspec

from confinement import kernel
from protocol.messages import SandboxFacts
from workers import settings
from workers.sandbox import namespaces, probes
from workers.sandbox.cage import HIGHEST

ANSWER_SECONDS = 30


@cache
def reached() -> SandboxFacts:
    """The highest level at which nothing got out, and why the next one is not reached."""
    limit = settings.sandbox_limit()
    why = ""
    for level in range(HIGHEST, 0, -1):
        if limit is not None and level > limit:
            reason = f"the node's owner has set NODE_SANDBOX_LEVEL to {limit}"
        else:
            reason = attempt(level)
        if not reason:
            return SandboxFacts(level, why)
        why = f"level {level}: {reason}"
    return SandboxFacts(0, "; ".join(filter(None, [why, attempt(0)])))


def attempt(level: int) -> str:
    """Why this level is not reached, or nothing."""
    if not kernel.IS_LINUX and level > 0:
        return "it needs Linux"
    try:
        outcome = probe(level)
    except OSError as error:
        return f"a namespace of processes cannot be made: {error.strerror}"
    except (subprocess.SubprocessError, msgspec.DecodeError) as error:
        return f"the self-test did not answer: {error}"
    if outcome.failure:
        return outcome.failure
    return f"from inside one can {', '.join(outcome.succeeded)}" if outcome.succeeded else ""


def probe(level: int | None) -> probes.Outcome:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cyxwiz-self-test-")))
        scratch, outside = folder / "scratch", folder / "outside"
        scratch.mkdir()
        outside.mkdir()
        secret = outside / "secret"
        secret.write_text("secret")
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        targets = probes.Targets(
            level=level,
            scratch=str(scratch),
            secret=str(secret),
            outside=str(outside),
            home=str(_agents_folder()),
            port=listener.getsockname()[1],
            pid=os.getpid(),
            namespaces={kind: probes.namespace(kind) for kind in probes.KINDS} if kernel.IS_LINUX else {},
        )
        command = [sys.executable, "-P", "-m", "workers.sandbox.probes", msgspec.json.encode(targets).decode()]
        if level is not None and level >= 2:
            stack.enter_context(namespaces.of_processes())
        answer = subprocess.run(  # noqa: S603  (our own program)
            command,
            cwd=scratch,
            env=settings.runner_environment(scratch),
            check=True,
            capture_output=True,
            timeout=ANSWER_SECONDS,
        )
    return msgspec.json.decode(answer.stdout, type=probes.Outcome)


def _agents_folder() -> Path:
    """Before there is one, that in which it will be."""
    home = settings.default_home()
    return next(folder for folder in (home, *home.parents) if folder.is_dir())
