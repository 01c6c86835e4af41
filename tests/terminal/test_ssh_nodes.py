"""Machines without an agent: who may enrol them, what is kept of them, what becomes of one with another host key."""

from __future__ import annotations

import asyncio
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from asgiref.sync import sync_to_async
from django.db import connection, connections
from django.utils import timezone

from nodes import allocations, heartbeats
from nodes.models import Node
from protocol import names, ssh
from protocol.messages import TerminalEnded
from protocol.terminal_orders import Look
from terminal import reports, ssh_keys, ssh_looks, ssh_nodes, ssh_server
from terminal.models import AuditEvent, SshNode, TerminalSession
from terminal.ssh_server import Server
from tests import sshd
from tests.cast import Person
from tests.sshd import ME, Sshd
from tests.terminal.conftest import SESSIONS, opened
from tests.terminal.test_presence import audit_waits, until_waiting
from workers.terminal import looks

pytestmark = [pytest.mark.django_db(transaction=True), sshd.needs_sshd]
SSH_NODES = "/api/v1/terminal/ssh-nodes/"
ATTIC = f"{SSH_NODES}attic/"


@pytest.fixture(autouse=True)
def _folder(settings, tmp_path) -> None:
    settings.SSH_NODES_DIR = tmp_path / "ssh-nodes"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Sshd]:
    with sshd.running(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def about(server: Sshd) -> dict[str, object]:
    return {"name": "attic", "host": "127.0.0.1", "port": server.port, "user": ME, "host_key": server.host_key}


@pytest.fixture
def attic(admin: Person, server: Sshd, about: dict[str, object]) -> SshNode:
    answer = admin.post(SSH_NODES, about)
    assert answer.status_code == 201, answer.content
    server.authorized_keys.write_text(answer.json()["public_key"] + "\n")
    return SshNode.objects.select_related("node").get()


def look(row: SshNode) -> str:
    """As the process that serves these nodes does it."""
    seen = looks.see(Look(str(row.pk), ssh_looks.target_of(row)))
    ssh_nodes.note(row, seen)
    row.refresh_from_db()
    row.node.refresh_from_db()
    return row.node.state


def test_staff_enrol_a_machine_and_get_the_public_half_of_a_key_for_it(admin, attic, about):
    told = admin.get(ATTIC).json()
    assert told["fingerprint"] == ssh.fingerprint(str(about["host_key"]))
    assert (told["state"], told["blocked"]) == ("offline", False)
    file = ssh_keys.path_of(attic.pk)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    private = file.read_text()
    secret = "".join(private.splitlines()[2:4])
    rows = str([list(model.objects.values()) for model in (Node, SshNode, AuditEvent)])
    assert secret not in rows + admin.get(ATTIC).content.decode() + admin.get("/api/v1/nodes/attic/").content.decode()
    event = AuditEvent.objects.latest("id")
    assert (event.what, event.user, event.details["fingerprint"]) == ("ssh_node_enrolled", "ada", told["fingerprint"])


def test_only_staff_enrol_or_have_us_ask_an_address(owner, team_mate, outsider, admin, server, about):
    for person in (owner, team_mate, outsider):
        assert person.post(SSH_NODES, about).status_code == 403
        asked = person.post(f"{SSH_NODES}offered-keys", {"host": "127.0.0.1", "port": server.port})
        assert asked.status_code == 403
    assert not SshNode.objects.exists()
    assert not Node.objects.exists()
    shown = admin.post(f"{SSH_NODES}offered-keys", {"host": "127.0.0.1", "port": server.port})
    assert shown.json() == [{"host_key": server.host_key, "fingerprint": ssh.fingerprint(server.host_key)}]


def test_others_do_not_learn_of_it(admin, outsider, owner, attic):
    for person in (outsider, owner):
        assert person.get(SSH_NODES).json()["results"] == []
        assert person.get(ATTIC).status_code == 404
        assert person.patch(ATTIC, {"host_key": attic.host_key}).status_code == 404
        assert person.post(SESSIONS, {"node": "attic"}).status_code == 404
    grant = {"user": owner.user.username, "role": "owner"}
    assert admin.post("/api/v1/terminal/nodes/attic/grants/", grant).status_code == 200
    assert owner.get(ATTIC).json()["name"] == "attic"
    assert outsider.get(ATTIC).status_code == 404


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("host_key", "ssh-ed25519 AAAA", "no host key"),
        ("host_key", "ssh-ed25519 AAAA…", "no host key"),
        ("host_key", "ssh-dss AAAAB3NzaC1kc3MAAAA=", "no host key"),
        ("host_key", "", "blank"),
        ("host_key", "SHA256:" + "A" * 43, "has no host key with this fingerprint"),
        ("host", "-oProxyCommand=x", "no host name"),
        ("host", "a b", "no host name"),
        ("port", 0, "no port"),
        ("port", 70000, "no port"),
        ("user", "root -x", "no user name"),
        ("name", "Attic!", "no node name"),
    ],
)
def test_nonsense_is_refused_and_leaves_nothing(admin, about, field, value, word):
    answer = admin.post(SSH_NODES, {**about, field: value})
    assert answer.status_code in (400, 409)
    assert word in answer.content.decode()
    assert not Node.objects.exists()
    assert not AuditEvent.objects.exists()


def test_a_look_that_breaks_is_no_error_of_the_api(admin, about, monkeypatch):
    monkeypatch.setattr(ssh_looks, "COMMAND", ("false",))
    address = {"host": about["host"], "port": about["port"]}
    assert admin.post(f"{SSH_NODES}offered-keys", address).status_code == 503
    assert admin.post(SSH_NODES, about | {"host_key": "SHA256:x"}).status_code == 503


def test_a_fingerprint_will_do_and_a_name_is_taken_once(admin, server, about):
    by_fingerprint = {**about, "host_key": ssh.fingerprint(server.host_key)}
    assert admin.post(SSH_NODES, by_fingerprint).json()["host_key"] == server.host_key
    assert admin.post(SSH_NODES, about).status_code == 409


def test_it_is_online_while_it_is_there_and_says_why_it_is_not(admin, attic, server, machine):
    assert look(attic) == "online"
    assert admin.get(ATTIC).json()["problem"] == ""
    keys = server.authorized_keys.read_text()
    server.authorized_keys.write_text("")
    assert look(attic) == "offline"
    refused = admin.post(SESSIONS, {"node": "attic"})
    assert refused.status_code == 409
    assert "authorized_keys" in refused.json()["detail"]
    server.authorized_keys.write_text(keys)
    server.stop()
    assert look(attic) == "offline"
    assert "Nobody answers" in admin.get(ATTIC).json()["problem"]
    server.start()
    assert look(attic) == "online"


def test_another_host_key_blocks_it_until_an_owner_enrols_that(admin, outsider, attic, server, machine, empty_redis):
    look(attic)
    session = admin.post(SESSIONS, {"node": "attic"}).json()["id"]
    reports.accept(session_id=session, node=attic.node)
    server.new_host_key()
    assert look(attic) == "offline"
    told = admin.get(ATTIC).json()
    assert (told["blocked"], told["changed_key"]) == (True, server.host_key)
    assert "another host key" in told["problem"]
    row = TerminalSession.objects.get(pk=session)
    assert (row.state, "blocked" in row.end_reason) == ("ended", True)
    changed = AuditEvent.objects.get(what="host_key_changed")
    assert changed.details["offered"] == ssh.fingerprint(server.host_key)
    assert "another host key" in admin.post(SESSIONS, {"node": "attic"}).json()["detail"]
    ssh_nodes.note(attic, looks.Seen(str(attic.pk), "ok"))  # a look that was under way meanwhile
    assert Node.objects.get(pk=attic.pk).state == "offline"
    assert ssh_server._wanted() == ([], [])  # nobody speaks to it

    assert outsider.patch(ATTIC, {"host_key": server.host_key}).status_code == 404
    assert admin.patch(ATTIC, {"host_key": server.host_key}).json()["blocked"] is False
    attic.refresh_from_db()
    assert ssh_server._wanted() == ([attic], [])
    assert look(attic) == "online"
    assert AuditEvent.objects.filter(what="host_key_enrolled", user="ada").exists()


def test_no_model_is_placed_on_it_and_no_doorbell_rings(admin, attic, machine, empty_redis: redis.Redis):
    look(attic)
    assert [offer.name for offer in allocations.offers(Node.objects.all(), {})] == ["box"]
    assert admin.post("/api/v1/nodes/attic/benchmark").status_code in (404, 409)
    admin.post("/api/v1/nodes/attic/drain")
    assert admin.post(SESSIONS, {"node": "attic"}).status_code == 201
    assert not empty_redis.exists(names.node_queue(str(attic.pk)))


def test_it_is_removed_as_every_node_is_and_its_key_with_it(admin, attic, machine):
    look(attic)
    session = admin.post(SESSIONS, {"node": "attic"}).json()["id"]
    assert admin.delete("/api/v1/nodes/attic/").status_code == 204
    assert not ssh_keys.path_of(attic.pk).exists()
    assert TerminalSession.objects.get(pk=session).state == "ended"


def test_silence_of_machines_without_agents_does_not_stop_placement(attic, machine):
    look(attic)
    Node.objects.filter(agentless=True).update(last_heartbeat_at=timezone.now() - heartbeats.LEASE * 2)
    heartbeats.sweep()
    assert Node.objects.get(pk=attic.pk).state == "offline"
    assert heartbeats.brake() == ""


def test_in_the_admin(admin, server, about):
    admin.client.force_login(admin.user)
    address = "/admin/terminal/sshnode/"
    wrong = admin.client.post(f"{address}add/", {**about, "host_key": "ssh-ed25519 AAAA", "name": "X!"})
    assert wrong.content.decode().count("errorlist") >= 2
    made = admin.client.post(f"{address}add/", about, follow=True).content.decode()
    assert "ssh-ed25519" in made
    row = SshNode.objects.get()
    page = f"{address}{row.pk}/change/"
    assert row.public_key in admin.client.get(page).content.decode()
    SshNode.objects.update(changed_key=row.host_key, problem="It showed another host key")
    admin.client.post(page, {"host_key": row.host_key})
    row.refresh_from_db()
    assert (row.is_blocked, row.problem) == (False, "")
    assert AuditEvent.objects.latest("id").what == "host_key_enrolled"


def test_a_host_key_is_read_however_it_was_copied(server: Sshd) -> None:
    key = server.host_key
    for text in (key, f"  {key}\n", f"{key} root@attic", f"[127.0.0.1]:2022 {key}", f"attic,10.0.0.7 {key} comment"):
        assert ssh.check_host_key(text) == key
    folder = Path(server.folder)
    assert ssh.fingerprint(key) in _keygen(folder / "host_key.pub")


def _keygen(file: Path) -> str:

    return subprocess.run(["ssh-keygen", "-lf", str(file)], capture_output=True, text=True, check=True).stdout


def test_an_end_in_an_outage_of_the_database_is_told_afterwards(admin, attic, machine, monkeypatch) -> None:
    assert look(attic) == "online"
    session = TerminalSession.objects.get(pk=opened(admin, node="attic")["id"])
    reports.accept(session_id=session.pk, node=attic.node)

    async def ends(*_: object) -> TerminalEnded:
        return TerminalEnded(code=3, output_bytes=7)

    monkeypatch.setattr(Server, "_run", ends)

    async def course() -> None:
        served = Server()
        served._held[session.pk] = None
        with audit_waits() as go_on:
            held = asyncio.create_task(served._hold(session, attic))
            await asyncio.to_thread(until_waiting, 1)
            await asyncio.to_thread(hang_up_on_who_waits)
            await asyncio.to_thread(until_waiting, 1)
            go_on()
            await asyncio.wait_for(held, 20)
        await sync_to_async(connections.close_all)()  # of the thread that wrote rows

    asyncio.run(course())
    session.refresh_from_db()
    assert (session.state, session.exit_code, session.output_bytes) == ("ended", 3, 7)


def hang_up_on_who_waits() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    connection.close()
