"""`cyxwiz nodes …` against a real server."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse
from msgspec.structs import replace

from cyxwiz.cli.output import size
from nodes.models import Allocation, JoinToken, Node
from protocol.hardware import GIB
from protocol.messages import SandboxFacts
from tests import factories

pytestmark = pytest.mark.django_db(transaction=True)


def test_nodes_are_listed_with_their_sandbox_and_why_it_is_no_better(cyxwiz, logged_in, machine):
    reason = "level 2: a namespace of processes cannot be made: Operation not permitted"
    machine.heartbeat(hardware=replace(machine.facts, sandbox=SandboxFacts(1, reason)))
    listed = cyxwiz("nodes", "ls")
    assert "level 1" in listed.out
    assert f"box: its sandbox reaches level 1 only: {reason}" in listed.err
    assert cyxwiz("nodes", "ls", "--json").json[0]["sandbox_why_not_higher"] == reason


def test_what_a_node_cannot_run_is_shown_with_the_reason(cyxwiz, logged_in, machine, owner, admin):
    reason = "llama-cpp-python is not installed"
    assert f"cannot run gguf: {reason}" in cyxwiz("nodes", "show", "box").out
    assert owner.get("/api/v1/nodes/box/").json()["refusals"] == {"gguf": reason}
    browser = Client()
    browser.force_login(admin.user)
    page = browser.get(reverse("admin:nodes_node_change", args=[machine.node.pk])).content.decode()
    assert reason in page


def test_what_explains_placement_is_shown(cyxwiz, logged_in, machine, owner, admin):
    Node.objects.update(shared=True, allows_programs=True)
    machine.heartbeat(
        hardware=replace(machine.facts, sandbox=SandboxFacts(1, "no namespaces")),
        memory_others_bytes={"cpu": 2 * GIB},
    )
    for person, name in ((owner, "mine"), (admin, "theirs")):
        factories.version(person.user)
        assert person.post("/api/v1/deployments/", {"name": name, "model": "digits"}).status_code == 201
    mine, theirs = Allocation.objects.order_by("pk").values_list("memory_bytes", flat=True)
    shown = cyxwiz("nodes", "show", "box").out
    assert "of olga, shared with everybody" in shown
    assert "sandbox level 1, no higher: no namespaces" in shown
    assert "models that are programs: allowed" in shown
    lines = [line.split("  ") for line in shown.splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert ["used by others", "2.0 GiB"] in cells
    assert ["free to promise", size(6 * GIB - mine - theirs)] in cells
    assert ["cpu", "deployment", "mine", size(mine)] in cells
    assert ["cpu", "-", "others", size(theirs)] in cells
    assert "theirs" not in shown


def test_a_node_that_is_offline_measures_when_it_is_back(cyxwiz, logged_in, machine):
    machine.heartbeat()
    assert "in some seconds" in cyxwiz("nodes", "benchmark", "box").err
    assert "in some seconds" in cyxwiz("nodes", "show", "box").err
    Node.objects.update(state="offline")
    assert "when it is back (it is offline)" in cyxwiz("nodes", "benchmark", "box").err
    assert "when it is back (it is offline)" in cyxwiz("nodes", "show", "box").err


def test_its_owner_allows_programs_and_takes_it_back(cyxwiz, logged_in, machine):
    assert "box allows models that are programs." in cyxwiz("nodes", "set", "box", "--programs").err
    assert Node.objects.get().allows_programs
    assert "level 0, programs" in cyxwiz("nodes", "ls").out
    assert cyxwiz("nodes", "set", "box", "--no-programs", "--json").json["allows_programs"] is False
    assert not Node.objects.get().allows_programs
    assert cyxwiz("nodes", "set", "nowhere", "--programs").code != 0


def test_a_token_for_a_node_that_allows_programs(cyxwiz, logged_in):
    assert "join" in cyxwiz("nodes", "token", "--programs").out
    assert JoinToken.objects.get().allows_programs
