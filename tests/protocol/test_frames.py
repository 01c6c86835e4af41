"""Frames: what an agent routes by, and what the ends decode."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import frames
from protocol.tensors import Tensor

REPLICA, GATEWAY, ID = b"r" * 16, b"g" * 16, b"i" * 8
TENSOR = st.builds(Tensor, st.text(), st.just("UINT8"), st.lists(st.integers(0, 9), max_size=3), st.binary(max_size=9))


@given(st.integers(0, 2**31), st.lists(TENSOR, max_size=3), st.lists(st.text(), max_size=3))
def test_a_request_and_the_key_under_which_it_is_answered(timeout_ms, inputs, outputs):
    request = frames.Request(timeout_ms, inputs, outputs)
    frame = frames.pack_request(REPLICA, GATEWAY, ID, request)
    assert frame[:16] == REPLICA
    reply_key, read = frames.unpack_request(frame)
    assert reply_key == frame[frames.REPLY_KEY] == GATEWAY + ID
    assert read == request


@given(st.lists(TENSOR, max_size=3), st.text(), st.text(), st.integers(0, 2**40))
def test_a_reply_finds_its_gateway_and_its_request(outputs, code, error, compute_us):
    reply = frames.Reply(outputs, code, error, compute_us)
    frame = frames.pack_reply(GATEWAY + ID, reply)
    assert frames.REPLY_PREFIX.unpack(frame[: frames.REPLY_PREFIX.size]) == (GATEWAY, ID)
    assert frames.unpack_reply(frame) == (ID, reply)


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x93\x01\x02", msgspec.msgpack.encode({"outputs": 1})])
def test_a_frame_that_is_none_is_refused(content):
    with pytest.raises(frames.DecodeError):
        frames.unpack_reply(GATEWAY + ID + content)
    with pytest.raises(frames.DecodeError):
        frames.unpack_request(REPLICA + GATEWAY + ID + content)
