"""Models that are programs go only where a node's owner allows them and its sandbox suffices."""

from __future__ import annotations

import pytest
from django.db import transaction
from msgspec.structs import replace

from nodes import allocations, joining
from nodes.models import Device, JoinToken, Node
from nodes.placement import Choice, DeviceOffer, Need, NodeOffer, choose, explain
from protocol.formats import PROGRAM_FORMATS
from protocol.hardware import GIB
from protocol.messages import SandboxFacts
from tests.nodes.reports import Machine, hardware

FORMATS = ["onnx", "torchscript"]
NEED = Need(format="torchscript", memory_bytes=GIB)
CAGED = SandboxFacts(1, "level 2: namespaces: Operation not permitted")


def node(name: str, **more: object) -> NodeOffer:
    formats = frozenset({"onnx", *PROGRAM_FORMATS})
    device = DeviceOffer(1, "cpu", "cpu", 8 * GIB)
    return NodeOffer(name, name, True, False, formats, {}, (device,), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("format", sorted(PROGRAM_FORMATS))
def test_a_node_that_does_not_suffice_says_why(format: str):
    nodes = [
        node("wary", sandbox_level=2),
        node("open", allows_programs=True, sandbox_why_not_higher="level 1: Landlock: Function not implemented"),
    ]
    refusals = choose(Need(format=format, memory_bytes=GIB), nodes)
    assert [refusal.code for refusal in refusals] == ["program", "program"]
    told = explain(refusals)
    assert "wary: does not allow program formats" in told
    reason = "(level 1: Landlock: Function not implemented), programs need level 1"
    assert f"open: its sandbox reaches level 0 {reason}" in told
    assert choose(Need(format="onnx", memory_bytes=GIB), nodes) == Choice("open", 1)


def test_a_program_goes_where_it_is_allowed_and_shut_in():
    nodes = [node("a", sandbox_level=2), node("b", allows_programs=True, sandbox_level=1)]
    assert choose(NEED, nodes) == Choice("b", 1)


def place() -> Device | str:
    with transaction.atomic():
        found = allocations.allocate(nodes=Node.objects.all(), need=NEED, holder="replica:1:1")
        return found if isinstance(found, Device) else explain(found)


def test_what_the_node_reports_and_its_owner_allows_decides(owner):
    machine = Machine(owner, formats=FORMATS)
    machine.heartbeat()
    assert "box: does not allow program formats" in str(place())
    assert owner.patch("/api/v1/nodes/box/", {"allows_programs": True}).json()["allows_programs"] is True
    assert "box: its sandbox reaches level 0, programs need level 1" in str(place())
    machine.heartbeat(hardware=replace(hardware(formats=FORMATS), sandbox=CAGED))
    shown = owner.get("/api/v1/nodes/box/").json()
    assert (shown["sandbox_level"], shown["sandbox_why_not_higher"]) == (1, CAGED.why_not_higher)
    assert isinstance(place(), Device)


def test_only_the_owner_allows_programs_and_the_level_is_nobodys_to_set(owner, team_mate, outsider, admin):
    Machine(owner)
    Machine(admin, "common", shared=True)
    allow = {"allows_programs": True}
    for person in (team_mate, outsider):
        assert person.patch("/api/v1/nodes/box/", allow).status_code == 404
        assert person.patch("/api/v1/nodes/common/", allow).status_code == 403
    owner.patch("/api/v1/nodes/box/", {**allow, "sandbox_level": 2})
    assert list(Node.objects.values_list("name", "allows_programs", "sandbox_level").order_by("name")) == [
        ("box", True, 0),
        ("common", False, 0),
    ]


def test_a_join_token_can_allow_them_from_the_start(owner):
    made = owner.post("/api/v1/nodes/join-tokens/", {"allows_programs": True})
    assert made.json()["allows_programs"] is True
    token = JoinToken.objects.get()
    assert token.allows_programs
    row, _ = joining.make_token(user=owner.user)
    assert not row.allows_programs
    assert not Machine(owner).node.allows_programs
    assert Machine(owner, "open", allows_programs=True).node.allows_programs


def test_staff_allow_and_refuse_them_in_the_admin(owner, admin):
    machine = Machine(owner)
    admin.client.force_login(admin.user)
    for action, allowed in (("allow_programs", True), ("refuse_programs", False)):
        body = {"action": action, "_selected_action": [str(machine.node.pk)]}
        assert admin.client.post("/admin/nodes/node/", body, follow=True).status_code == 200
        assert machine.node.allows_programs is allowed
