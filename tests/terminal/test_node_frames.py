"""What a node says is passed on in the one form that clients know, or not at all."""

from __future__ import annotations

import pytest

from protocol import terminal
from protocol.terminal import BadFrame, Exit, Notice
from terminal.node_frames import checked
from tests.terminal.odd_frames import ODD, U16, attached

GOOD = (
    terminal.pack_out(0, b"\xff"),
    terminal.pack_out(2**52, bytes(terminal.OUT_MOST_BYTES), terminal.ERR),
    terminal.SEQUENCE.pack(terminal.INACK, 7),
    terminal.SIZE.pack(terminal.RESIZE, 80, 24),
    terminal.encode(terminal.EXIT, Exit(offset=7, code=255)),
    terminal.encode(terminal.EXIT, Exit(offset=0, reason="Its owner ended it: “ü”.")),
    terminal.encode(terminal.NOTICE, Notice(kind="joined", text="olga (owner)")),
    bytes([terminal.END]) + b"It was ended.",
    attached(3, 5, 2),
)


@pytest.mark.parametrize("frame", ODD, ids=lambda frame: repr(frame[:40]))
def test_what_is_not_well_formed_is_refused(frame: bytes) -> None:
    with pytest.raises(BadFrame):
        checked(frame)


@pytest.mark.parametrize("frame", GOOD, ids=lambda frame: f"{frame[0]:#04x}")
def test_what_nodes_say_is_passed_on_as_it_is(frame: bytes) -> None:
    assert checked(frame) == frame


@pytest.mark.parametrize(("told", "passed_on"), [((0, 0), (2, 1)), ((U16, U16), (500, 300)), ((80, 0), (80, 1))])
def test_sizes_are_those_that_screens_can_draw(told: tuple[int, int], passed_on: tuple[int, int]) -> None:
    frame = terminal.SIZE.pack(terminal.RESIZE, *told)
    assert checked(frame) == terminal.SIZE.pack(terminal.RESIZE, *passed_on)
    at = (bytes(16), True, 0, 0, 0, *told, True, 0)
    clamped = terminal.unpack(terminal.ATTACHED_FRAME, checked(terminal.ATTACHED_FRAME.pack(terminal.ATTACHED, *at)))
    assert clamped[5:7] == passed_on


def test_what_more_there_is_in_json_is_not_passed_on() -> None:
    frame = bytes([terminal.NOTICE]) + b' {"more":[1],"text":"x","kind":"gap"}'
    assert checked(frame) == terminal.encode(terminal.NOTICE, Notice(kind="gap", text="x"))
