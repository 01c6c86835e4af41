"""A node that is online, of which `owner` is the owner, and a recorder that runs, so far as Redis can tell."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from protocol import names
from protocol.messages import TerminalEnded, TerminalSpec, decode, encode
from terminal import recorder, recordings
from terminal.broker import Broker
from terminal.cast import Cast
from terminal.models import TerminalSession
from tests.cast import Person
from tests.nodes.reports import Machine


class TerminalMachine(Machine):
    def accept(self, session_id: str) -> TerminalSpec | int:
        answer = self.client.post(f"/api/node/v1/terminals/{session_id}/accept", content_type="application/json")
        return decode(answer.content, TerminalSpec) if answer.status_code == 200 else answer.status_code

    def ended(self, session_id: str, **said: object) -> int:
        body = encode(TerminalEnded(**said))  # type: ignore[arg-type]
        path = f"/api/node/v1/terminals/{session_id}/ended"
        return self.client.post(path, body, content_type="application/json").status_code


@pytest.fixture
def machine(owner: Person, empty_redis: redis.Redis) -> TerminalMachine:
    empty_redis.set(names.TERMINAL_RECORDER, "1")
    machine = TerminalMachine(owner)
    machine.heartbeat()
    return machine


@pytest.fixture
def session(owner: Person, machine: TerminalMachine, settings, tmp_path: Path) -> TerminalSession:
    settings.RECORDINGS_DIR = tmp_path
    return TerminalSession.objects.get(pk=opened(owner)["id"])


SESSIONS = "/api/v1/terminal/sessions/"
GRANTS = "/api/v1/terminal/nodes/box/grants/"
POLICY = "/api/v1/terminal/nodes/box/policy"


def opened(person: Person, **more: object) -> dict[str, str]:
    answer = person.post(SESSIONS, {"node": "box", **more})
    assert answer.status_code == 201, answer.content
    return dict(answer.json())


def grant(owner: Person, person: Person, role: str) -> None:
    answer = owner.post(GRANTS, {"user": person.user.username, "role": role})
    assert answer.status_code == 200, answer.content


async def close(broker: Broker) -> None:
    connection = broker._connection
    assert connection
    connection.abort()
    await connection.lost


def new_cast(path: Path) -> Cast:
    return Cast(path, cols=80, rows=24, timestamp=1, title="t")


def recorded(session: TerminalSession, *, lines: int = 10) -> None:
    """As the recorder does, 15 bytes of output in each line."""
    one = new_cast(recordings.path_of(session.pk))
    for at in range(lines):
        one.output(at, b"secret things\r\n")
        one.checkpoint()
    one.close()
    recorder._finished(session, one.digest, one.offset)
