"""Frames: what an agent routes by, and what the ends decode."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import frames
from protocol.tensors import Tensor
from protocol.text import Chunk, Embed, Generate

REPLICA, GATEWAY, ID = b"r" * 16, b"g" * 16, b"i" * 8
KEY = GATEWAY + ID
TENSOR = st.builds(Tensor, st.text(), st.just("UINT8"), st.lists(st.integers(0, 9), max_size=3), st.binary(max_size=9))
REQUEST = st.builds(
    frames.Request, st.integers(0, 2**31), st.lists(TENSOR, max_size=3), st.lists(st.text(), max_size=3)
)
GENERATE = st.builds(Generate, timeout_ms=st.integers(0, 2**31), prompt=st.none() | st.text(), stop=st.lists(st.text()))
EMBED = st.builds(Embed, timeout_ms=st.integers(0, 2**31), inputs=st.lists(st.text()))


@given(REQUEST | GENERATE | EMBED)
def test_a_request_and_the_key_under_which_it_is_answered(body):
    frame = frames.pack_request(REPLICA, GATEWAY, ID, body)
    assert frame[:16] == REPLICA
    reply_key, read = frames.unpack_request(frame)
    assert reply_key == frame[frames.REPLY_KEY] == KEY
    assert read == body


def test_a_cancel_names_its_request_and_nothing_else():
    frame = frames.pack_cancel(REPLICA, GATEWAY, ID)
    assert frame[frames.KIND] == frames.CANCEL
    assert frame[frames.REPLY_KEY] == KEY
    with pytest.raises(frames.DecodeError):
        frames.unpack_request(frame)


@given(st.lists(TENSOR, max_size=3), st.integers(0, 2**40))
def test_a_reply_finds_its_gateway_and_its_request(outputs, compute_us):
    reply = frames.Reply(outputs, compute_us)
    frame = frames.pack_reply(KEY, reply)
    assert frame[:16] == GATEWAY
    assert frame[frames.REQUEST_ID] == ID
    assert frame[frames.STATUS] == frames.LAST
    assert frames.unpack_reply(frame) == reply


@given(st.text(), st.text())
def test_an_error_is_one_whatever_was_asked(code, message):
    frame = frames.pack_error(KEY, frames.Error(code, message))
    for expected in (frames.Reply, Chunk):
        assert frames.unpack_reply(frame, expected) == frames.Error(code, message)


def test_a_piece_of_text_says_that_more_follows():
    frame = frames.pack_reply(KEY, Chunk("Hel"), more=True)
    assert frame[frames.STATUS] == frames.MORE
    assert frames.unpack_reply(frame, Chunk) == Chunk("Hel")


@pytest.mark.parametrize("content", [b"", b"\x00", b"\x00\xc1", b"\x00\x93\x01\x02", b"\x09"])
def test_a_frame_that_is_none_is_refused(content):
    with pytest.raises(frames.DecodeError):
        frames.unpack_reply(KEY + content)
    with pytest.raises(frames.DecodeError):
        frames.unpack_request(REPLICA + KEY + content)


def test_a_reply_of_another_shape_is_refused():
    with pytest.raises(frames.DecodeError):
        frames.unpack_reply(KEY + b"\x00" + msgspec.msgpack.encode({"outputs": 1}))
