"""Readings are told when they changed much, or after a minute, so that heartbeats stay small."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from protocol.messages import HEARTBEAT_SECONDS, Heartbeat, Reading, encode
from workers.hardware import readings
from workers.hardware.readings import Readings

GIB = 1024**3
TOTAL = {"cuda:0": 24 * GIB}
COLD = Reading(memory_available_bytes=20 * GIB, temperature_celsius=40, power_watts=50)


@pytest.fixture
def told() -> Readings:
    found = Readings()
    assert found.news({"cuda:0": COLD}, TOTAL) == {"cuda:0": COLD}
    found.tell({"cuda:0": COLD})
    return found


@pytest.mark.parametrize(
    ("change", "is_news"),
    [
        ({}, False),
        ({"temperature_celsius": 44}, False),
        ({"temperature_celsius": 46}, True),
        ({"temperature_celsius": None}, True),
        ({"power_watts": 65}, False),
        ({"power_watts": 300}, True),
        ({"memory_available_bytes": 20 * GIB - GIB // 10}, False),
        ({"memory_available_bytes": 19 * GIB}, True),
    ],
)
def test_what_changed_much_is_news(told: Readings, change: dict[str, float], is_news: bool):
    now = {"cuda:0": replace(COLD, **change)}
    assert told.news(now, TOTAL) == (now if is_news else {})


def test_after_a_minute_everything_is(told: Readings, monkeypatch: pytest.MonkeyPatch):
    assert told.news({"cuda:0": COLD}, TOTAL) == {}
    monkeypatch.setattr(readings, "TELL_SECONDS", 0.0)
    assert told.news({"cuda:0": COLD}, TOTAL) == {"cuda:0": COLD}


def test_the_heartbeats_of_a_node_with_eight_wild_cards_stay_small():
    """What is read once a minute cannot change more often; RAM is read, and may be told, every time."""
    found, sent, dice = Readings(), 0, random.Random(1)
    cards: dict[str, Reading] = {}
    for beat in range(60 // HEARTBEAT_SECONDS):
        if beat == 0:
            cards = {f"cuda:{n}": Reading(dice.randrange(140 * GIB), dice.uniform(30, 90), 500.0) for n in range(8)}
        now = {**cards, "cpu": Reading(dice.randrange(512 * GIB))}
        news = found.news(now, dict.fromkeys(now, 512 * GIB))
        found.tell(news)
        sent += len(encode(Heartbeat(boot_id="b" * 32, disk_free_bytes=10**12, readings=news)))
    assert sent < 3000
