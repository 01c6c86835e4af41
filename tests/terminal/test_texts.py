"""Texts that no database takes, or that are far too long, in every place where one may be given."""

from __future__ import annotations

import base64
import json

import pytest

from protocol import terminal
from terminal.models import AuditEvent, TerminalSession
from tests.cast import Person
from tests.terminal.conftest import GRANTS, POLICY, SESSIONS, opened

pytestmark = pytest.mark.django_db(transaction=True)
NODES = "/api/v1/terminal/ssh-nodes/"
TEXTS = {"NUL": "a\0b", "half of a pair": "a\ud800b", "long": "x" * 10**6}
NESTED = b"[" * 20_000 + b"]" * 20_000
KEY = "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(32)).decode()


def answer(method: str, person: Person, path: str, body: dict[str, str]) -> int:
    """With what is no Unicode spelt as JSON can."""
    call = getattr(person.client, method)
    return int(call(path, json.dumps(body), content_type="application/json").status_code)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize(
    ("path", "field", "given"),
    [
        (SESSIONS, "node", {}),
        (SESSIONS, "reason", {"node": "box"}),
        (SESSIONS, "cols", {"node": "box"}),
        (GRANTS, "user", {"role": "operator"}),
        (GRANTS, "role", {"user": "tom"}),
        (NODES, "name", {"host": "127.0.0.1", "user": "ops", "host_key": KEY}),
        (NODES, "host", {"name": "attic", "user": "ops", "host_key": KEY}),
        (NODES, "user", {"name": "attic", "host": "127.0.0.1", "host_key": KEY}),
        (NODES, "host_key", {"name": "attic", "host": "127.0.0.1", "user": "ops"}),
        (f"{NODES}offered-keys", "host", {}),
    ],
)
def test_the_api_refuses_them(admin, machine, path: str, field: str, given: dict[str, str], text: str) -> None:
    machine.node.owner = admin.user
    machine.node.save()
    assert answer("post", admin, path, {**given, field: text}) in (400, 404)
    assert not TerminalSession.objects.exists()


@pytest.mark.parametrize("text", ["a%00b", "%ED%A0%80", "x" * 10**4], ids=TEXTS.keys())
@pytest.mark.parametrize("query", ["node_name", "state", "page", "page_size"])
def test_so_do_lists(owner, query: str, text: str) -> None:
    assert owner.get(f"{SESSIONS}?{query}={text}").status_code in (200, 400, 404)


def test_so_does_the_policy(owner, machine) -> None:
    for text in TEXTS.values():
        assert answer("patch", owner, POLICY, {"idle_seconds": text}) == 400


def test_so_does_the_page_that_asks_for_a_reason(owner, machine) -> None:
    owner.client.force_login(owner.user)
    assert owner.client.post("/terminal/nodes/box/", {"reason": "a\0b"}).status_code == 400
    assert not TerminalSession.objects.exists()


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("more", [{"run": {"command": "TEXT"}}, {"cols": "TEXT"}, {"TEXT": "TEXT", "ticket": ["TEXT"]}])
def test_so_does_the_first_frame(more: dict[str, object], text: str) -> None:
    said = json.dumps({"version": 1, "cols": 80, "rows": 24, "ticket": "a", **more})
    with pytest.raises(terminal.BadFrame):
        terminal.decode_hello(bytes([terminal.HELLO]) + said.replace('"TEXT"', json.dumps(text)).encode())


def test_json_in_json_without_end_is_refused_as_well() -> None:
    with pytest.raises(terminal.BadFrame):
        terminal.decode_hello(
            bytes([terminal.HELLO]) + b'{"version": 1, "cols": 80, "rows": 24, "more": ' + NESTED + b"}"
        )


@pytest.mark.parametrize(
    "said",
    [b'{"reason": "\xff"}', b'{"more": ' + NESTED + b"}", b'{"code": 1099511627776}', b'{"code": -1}'],
    ids=["no UTF-8", "nested", "large", "small"],
)
def test_so_is_what_a_node_says(owner, machine, said: bytes) -> None:
    path = f"/api/node/v1/terminals/{opened(owner)['id']}/ended"
    assert machine.client.post(path, said, content_type="application/json").status_code == 400


def test_of_a_long_reason_that_a_node_gives_the_beginning_is_kept(owner, machine) -> None:
    assert machine.ended(opened(owner)["id"], reason=TEXTS["long"]) == 204
    assert TerminalSession.objects.get().end_reason == "x" * 500
    assert AuditEvent.objects.get(what="ended").details["reason"] == "x" * 500
