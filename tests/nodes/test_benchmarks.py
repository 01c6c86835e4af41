"""Devices are measured at joining and when somebody asks; figures and flags stand beside what is declared."""

from __future__ import annotations

import pytest
import redis
from django.test import Client
from django.urls import reverse
from msgspec.structs import replace

from nodes.benchmarks import KEPT
from nodes.models import Benchmark
from protocol import names
from protocol.hardware import GIB
from protocol.messages import BenchmarkFacts, Benchmarks, Reading, encode
from tests.nodes.reports import Machine, h200, hardware

CPU = BenchmarkFacts(device="cpu", method="NumPy", seconds=1.2, gflops=80, memory_bytes_per_second=2e10)
SLOW = BenchmarkFacts(
    device="cuda:0",
    method="PyTorch 2.13",
    seconds=2,
    gflops=52_000,
    memory_bytes_per_second=4.2e12,
    host_to_device_bytes_per_second=0.8e9,
    pcie_generation=3,
    pcie_lanes=1,
    loaded_models=2,
)


def devices(person, name: str = "box") -> dict[str, dict]:
    return {device["name"]: device for device in person.get(f"/api/v1/nodes/{name}/").json()["devices"]}


def test_a_node_that_joins_is_asked_until_it_has_told(owner):
    machine = Machine(owner, gpus=[h200()])
    asked = machine.heartbeat().benchmark
    assert asked
    assert machine.heartbeat().benchmark == asked
    assert owner.get("/api/v1/nodes/box/").json()["benchmark_asked_at"]
    assert machine.send_benchmarks(Benchmarks(asked=asked, devices=[CPU, SLOW])).status_code == 204
    assert machine.heartbeat().benchmark == ""
    shown = devices(owner)
    assert shown["cpu"]["benchmark"]["gflops"] == 80
    assert shown["cpu"]["flags"] == []
    card = shown["cuda:0"]
    assert card["benchmark"]["host_to_device_bytes_per_second"] == 0.8e9
    assert (card["peak_gflops"], card["pcie_generation_max"], card["pcie_lanes_max"]) == (66_908, 5, 16)
    [flag] = card["flags"]
    assert "PCIe 3 x1" in flag
    assert "riser" in flag
    assert "2 models were loaded" in flag


@pytest.mark.django_db(transaction=True)  # the doorbell rings after the commit
def test_it_is_measured_again_when_its_owner_asks(owner, team_mate, outsider, admin):
    machine = Machine(owner)
    Machine(admin, "common", shared=True)
    for person in (team_mate, outsider):
        assert person.post("/api/v1/nodes/box/benchmark").status_code == 404
        assert person.post("/api/v1/nodes/common/benchmark").status_code == 403
    assert Client().post("/api/v1/nodes/box/benchmark").status_code == 401
    machine.send_benchmarks(Benchmarks(asked=machine.heartbeat().benchmark, devices=[CPU]))
    inbox = redis.Redis.from_url(machine.registered["broker_url"])
    assert owner.post("/api/v1/nodes/box/benchmark").status_code == 202
    assert inbox.llen(names.node_queue(machine.registered["node_id"])) == 1  # the doorbell
    assert machine.heartbeat().benchmark


def test_what_was_told_for_an_older_asking_or_twice_changes_nothing(owner):
    machine = Machine(owner)
    first = machine.heartbeat().benchmark
    owner.post("/api/v1/nodes/box/benchmark")
    assert machine.send_benchmarks(Benchmarks(asked=first, devices=[CPU])).status_code == 204
    second = machine.heartbeat().benchmark
    assert second > first
    assert Benchmark.objects.count() == 0
    for _ in range(2):
        assert machine.send_benchmarks(Benchmarks(asked=second, devices=[CPU, SLOW])).status_code == 204
    assert Benchmark.objects.count() == 1  # of the device that there is


def test_only_the_newest_are_kept(owner):
    machine = Machine(owner)
    for number in range(KEPT + 3):
        owner.post("/api/v1/nodes/box/benchmark")
        told = replace(CPU, gflops=float(number))
        machine.send_benchmarks(Benchmarks(asked=machine.heartbeat().benchmark, devices=[told]))
    assert Benchmark.objects.count() == KEPT
    assert devices(owner)["cpu"]["benchmark"]["gflops"] == KEPT + 2


def test_what_could_not_be_measured_says_why_and_is_not_flagged(owner):
    machine = Machine(owner, gpus=[h200()])
    failed = BenchmarkFacts(device="cuda:0", method="", seconds=0, unknown={"method": "no answer within 60 s"})
    machine.send_benchmarks(Benchmarks(asked=machine.heartbeat().benchmark, devices=[failed]))
    card = devices(owner)["cuda:0"]
    assert card["benchmark"]["unknown"] == {"method": "no answer within 60 s"}
    assert card["flags"] == []


def test_only_a_node_tells(owner, admin):
    body = encode(Benchmarks(asked="x", devices=[]))
    for headers in ({}, {"Authorization": f"Bearer {admin.key}"}):
        answer = Client(headers=headers).post("/api/node/v1/benchmarks", body, content_type="application/json")
        assert answer.status_code == 401


def test_a_device_that_is_built_in_later_is_measured(owner):
    machine = Machine(owner)
    machine.send_benchmarks(Benchmarks(asked=machine.heartbeat().benchmark, devices=[CPU]))
    assert machine.heartbeat(hardware=hardware()).benchmark == ""
    assert machine.heartbeat(hardware=hardware(gpus=[h200()])).benchmark


def test_gpus_have_queues_of_their_class_and_all_their_facts_are_shown(owner, team_mate, outsider):
    wordy = h200(vendor="V" * 100, refusals={"onnx": "this onnxruntime is built without CUDA"})
    machine = Machine(owner, gpus=[wordy])
    assert "cyx.class.cuda-140g" in machine.registered["queues"]
    card = devices(owner)["cuda:0"]
    for field in wordy.__struct_fields__:
        expected = "V" * 64 if field == "vendor" else getattr(wordy, field)
        assert card[field] == expected, field
    assert card["formats"] == ["fake"]
    for person in (team_mate, outsider):
        assert person.get("/api/v1/nodes/box/").status_code == 404


def test_readings_change_what_is_shown(owner):
    machine = Machine(owner, gpus=[h200()])
    hot = Reading(memory_available_bytes=GIB, temperature_celsius=88, power_watts=690)
    machine.heartbeat(readings={"cuda:0": hot, "cuda:7": hot}, disk_free_bytes=7 * GIB)
    card = devices(owner)["cuda:0"]
    assert (card["memory_available_bytes"], card["temperature_celsius"], card["power_watts"]) == (GIB, 88, 690)
    assert owner.get("/api/v1/nodes/box/").json()["disk_free_bytes"] == 7 * GIB
    machine.heartbeat(readings={"cuda:0": Reading()})  # not readable any more: the last value is not the truth
    assert devices(owner)["cuda:0"]["temperature_celsius"] is None


def test_a_list_of_nodes_makes_no_query_per_device(owner, django_assert_max_num_queries):
    for number in range(4):
        machine = Machine(owner, f"n{number}", gpus=[h200(), h200(name="cuda:1")])
        machine.send_benchmarks(Benchmarks(asked=machine.heartbeat().benchmark, devices=[CPU, SLOW]))
    with django_assert_max_num_queries(8):
        assert len(owner.get("/api/v1/nodes/").json()["results"]) == 4


def test_staff_see_devices_beside_their_benchmarks_and_ask_for_new_ones(owner, admin):
    machine = Machine(owner, gpus=[h200()])
    machine.send_benchmarks(Benchmarks(asked=machine.heartbeat().benchmark, devices=[CPU, SLOW]))
    browser = Client()
    browser.force_login(admin.user)
    page = browser.get(reverse("admin:nodes_node_change", args=[machine.node.pk])).content.decode()
    for words in ("NVIDIA H200", "140.0", "52,000 GFLOP/s", "66,908 GFLOP/s", "34 °C", "1 x16 of 5 x16", "riser"):
        assert words in page, words
    asked = {"action": "benchmark", "_selected_action": [str(machine.node.pk)]}
    browser.post(reverse("admin:nodes_node_changelist"), asked)
    assert machine.heartbeat().benchmark
