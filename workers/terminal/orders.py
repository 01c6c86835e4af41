"""What the agent tells a session's process at its start, and what that answers at its end."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import msgspec

from protocol.errors import Forbidden
from protocol.messages import TerminalSpec
from protocol.terminal import Run, may_be_set

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NO_LOGIN = {"nologin", "false"}


class Shell(msgspec.Struct, frozen=True):
    user: str
    uid: int
    gid: int
    program: str
    env: dict[str, str]
    command: str = ""  # none: a login shell
    pty: bool = True

    def running(self, run: Run) -> Shell:
        env = {name: value for name, value in run.env.items() if may_be_set(name, value)}
        return msgspec.structs.replace(self, env=self.env | env, command=run.command, pty=run.pty)


class Order(msgspec.Struct, frozen=True):
    parent: int  # pid of the agent
    broker_url: str
    node_id: str
    spec: TerminalSpec
    shell: Shell


def shell_of(user: str, session_id: str) -> Shell:
    """Raises Forbidden where this node does not let anybody be `user`."""
    if not user:
        raise Forbidden("This node gives no terminals: NODE_TERMINAL_USER is not set on it (docs/terminal.md).")
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise Forbidden(f"This node gives no terminals: it has no user {user!r} (NODE_TERMINAL_USER).") from None
    if os.geteuid() not in (0, entry.pw_uid):
        raise Forbidden(
            f"This node gives no terminals: its agent does not run as root, so it cannot become {user!r} "
            "(NODE_TERMINAL_USER)."
        )
    program = entry.pw_shell
    if not os.access(program, os.X_OK) or Path(program).name in NO_LOGIN:
        program = "/bin/sh"
    return Shell(
        user=user,
        uid=entry.pw_uid,
        gid=entry.pw_gid,
        program=program,
        # Made anew: nothing of the agent's environment gets into a terminal.
        env={
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            "HOME": entry.pw_dir,
            "USER": user,
            "LOGNAME": user,
            "SHELL": program,
            "PATH": PATH,
            "CYXWIZ_SESSION": session_id,
        },
    )
