"""What belongs to somebody else: every address that names a thing, and every list, asked by who has no right to it."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import redis

from models_registry import blobs
from protocol import names
from terminal import ssh_nodes
from tests import factories
from tests.accounts.test_ssh_keys import ed
from tests.architecture.test_views import ALL
from tests.cast import Person
from tests.nodes.reports import Machine

pytestmark = pytest.mark.django_db(transaction=True)

LISTS = sorted(address for address in ALL if address.startswith("api/v1/") and "<" not in address)
NAMING = sorted(a for a in ALL if "<" in a and a.startswith(("api/v1/", "terminal/")))
NO_LISTS = {"api/v1/terminal/ssh-nodes/offered-keys", "api/v1/terminal/ssh-gateway"}
# Names of models are each owner's own: pushing makes one of one's own.
OWN = {"api/v1/models/<str:name>/versions/"}
IMAGE = {"name": "image", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3v1QYPvJ6v6Jc1hQ9l4H5z0Jm9q0m0y0m3t5x6b7c8"

Fill = Callable[[str], str]


@pytest.fixture
def fill(owner: Person, empty_redis: redis.Redis, settings, tmp_path) -> Fill:
    """The path of an address with things of the owner in it."""
    settings.SSH_NODES_DIR, settings.RECORDINGS_DIR = tmp_path / "ssh-nodes", tmp_path
    empty_redis.set(names.TERMINAL_RECORDER, "1")
    Machine(owner).heartbeat()
    version = factories.version(owner.user)
    file = blobs.path(version.files.get().blob)
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(version.size_bytes))
    deployed = owner.post("/api/v1/deployments/", {"name": "digits", "model": "digits"})
    assert deployed.status_code == 201, deployed.content
    job = owner.post("/api/v1/jobs/", {"model": "digits", "inputs": [IMAGE]})
    assert job.status_code in (201, 202), job.content
    dataset = owner.client.post("/api/v1/jobs/datasets/", b'{"image": [0]}\n', content_type="application/x-ndjson")
    assert dataset.status_code == 201, dataset.content
    session = owner.post("/api/v1/terminal/sessions/", {"node": "box"})
    assert session.status_code == 201, session.content
    owner.post("/api/v1/nodes/join-tokens/", {})
    owner.user.is_staff = True  # for this once
    about = {"host": "attic.example", "port": 22, "user": "ops", "host_key": HOST_KEY}
    ssh_nodes.enrol(by=owner.user, name="attic", **about)
    grant = owner.post("/api/v1/terminal/nodes/box/grants/", {"user": "olga", "role": "owner"})
    assert grant.status_code == 200, grant.content
    key = owner.post("/api/v1/ssh-keys/", {"public_key": ed()})
    assert key.status_code == 201, key.content
    values = {
        "api/v1/models/": {"name": version.model.name, "number": "1"},
        "api/v1/deployments/": {"name": "digits"},
        "api/v1/jobs/datasets/": {"id": dataset.json()["id"]},
        "api/v1/jobs/": {"id": job.json()["id"]},
        "api/v1/nodes/": {"name": "box"},
        "api/v1/ssh-keys/": {"pk": key.json()["id"]},
        "api/v1/terminal/nodes/": {"name": "box", "username": "olga"},
        "api/v1/terminal/ssh-nodes/": {"name": "attic"},
        "api/v1/terminal/": {"id": session.json()["id"]},
        "terminal/nodes/": {"name": "box"},
        "terminal/": {"id": session.json()["id"]},
    }

    def path(address: str) -> str:
        prefix = max((prefix for prefix in values if address.startswith(prefix)), key=len)
        return "/" + re.sub(r"<(?:\w+:)?(\w+)>", lambda found: str(values[prefix][found[1]]), address)

    return path


def test_no_address_gives_or_changes_what_is_somebody_elses(owner, team_mate, outsider, fill):
    for person in (owner, team_mate, outsider):
        person.client.force_login(person.user)  # for the pages
    before = {address: shown(owner, fill(address)) for address in NAMING}
    assert {a for a in NAMING if before[a][0] == 200} > {"terminal/<uuid:id>/", "api/v1/jobs/<uuid:id>/"}
    for stranger in (team_mate, outsider):
        for address in NAMING:
            for method in ("GET", "POST", "PATCH", "PUT", "DELETE"):
                if address in OWN and method == "POST":
                    continue
                answer = stranger.client.generic(method, fill(address), "{}", content_type="application/json")
                assert answer.status_code in (403, 404, 405), (method, address, answer.status_code, answer.content)
    assert {address: shown(owner, fill(address)) for address in NAMING} == before


def shown(person: Person, path: str) -> tuple[int, bytes]:
    """What the owner is answered, without what differs each time."""
    answer = person.get(path)
    if answer.status_code != 200 or not path.startswith("/api/") or answer.streaming:
        return answer.status_code, b""
    return answer.status_code, re.sub(rb"[\d-]+T[\d:.]+Z", b"", answer.content)


@pytest.mark.parametrize("address", sorted(set(LISTS) - NO_LISTS))
def test_lists_show_an_outsider_nothing(owner, team_mate, outsider, fill, address):
    assert owner.get(f"/{address}").json()["results"], "There is nothing to see."
    for stranger in (team_mate, outsider):
        assert stranger.get(f"/{address}").json()["results"] == []
