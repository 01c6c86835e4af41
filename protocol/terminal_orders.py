"""What the process of one terminal is told at its start, and what the process that looks at ssh servers is asked and
answers. Both run `workers.terminal`; they are started by a node's agent, or by the control plane for nodes without one.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from protocol.messages import TerminalSpec
from protocol.terminal import Run


class Shell(msgspec.Struct, frozen=True, tag=True):
    """A shell on this machine."""

    user: str
    uid: int
    gid: int
    program: str
    env: dict[str, str]
    command: str = ""  # none: a login shell
    pty: bool = True

    def running(self, run: Run) -> Shell:
        env = self.env | run.allowed_env()
        return msgspec.structs.replace(self, env=env, command=run.command, pty=run.pty)


class SshTarget(msgspec.Struct, frozen=True, tag=True):
    """A shell on another machine, by ssh."""

    host: str
    port: int
    user: str
    host_key: str  # the only one that is taken; see `ssh`
    key_file: str  # our private key


class Order(msgspec.Struct, frozen=True):
    parent: int  # pid of whoever starts the process
    broker_url: str
    node_id: str
    spec: TerminalSpec
    opens: Shell | SshTarget


class Look(msgspec.Struct, frozen=True):
    """Can one get in there? Without a `host_key`: which keys does it offer?"""

    id: str
    target: SshTarget


class Seen(msgspec.Struct, frozen=True):
    id: str
    outcome: Literal["ok", "changed_key", "refused", "down"]
    text: str = ""  # for people
    offered: list[str] = []  # host keys
