"""What the fake runtime is told to do is told in possible words."""

from __future__ import annotations

import pytest

from protocol import options
from protocol.errors import BadRequest

NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize("name", ["load_seconds", "sleep_seconds"])
@pytest.mark.parametrize("value", [-1, -0.5, NAN, INFINITE, 10**30, 86_401, True, "5", [5]])
def test_seconds(name, value):
    with pytest.raises(BadRequest, match=f"option {name} must be a number of seconds from 0 to 86400, not"):
        options.check("fake", {name: value})


@pytest.mark.parametrize(
    ("name", "value", "must"),
    [
        ("exit_on_load", 256, "a whole number from 0 to 255"),
        ("exit_on_load", True, "a whole number"),
        ("exit_on_load", 1.5, "a whole number"),
        ("out_of_memory", "yes", "true or false"),
        ("out_of_memory", 1, "true or false"),
        ("fail_load", 5, "printable"),
        ("fail_load", "\0", "printable"),
        ("fail_load", "\ud800", "printable"),
        ("fail_load", "x" * 1001, "at most 1000"),
    ],
)
def test_the_others(name, value, must):
    with pytest.raises(BadRequest, match=f"option {name} must be .*{must}"):
        options.check("fake", {name: value})


def test_what_is_possible_is_read_as_given():
    given = {"load_seconds": 0, "sleep_seconds": 0.01, "fail_load": "broken", "exit_on_load": 0, "out_of_memory": True}
    assert {name: options.read("fake", given, name) for name in given} == given
    assert [options.read("fake", {}, name) for name in given] == [0, 0, None, None, False]
