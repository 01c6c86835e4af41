"""What is told of an error can be told, whatever stands in it."""

from __future__ import annotations

import os

from protocol.messages import Failure, decode, encode
from workers.failures import LONGEST_MESSAGE, describe


def test_a_name_of_a_file_that_is_no_text() -> None:
    error = FileNotFoundError(2, "No such file or directory", os.fsdecode(b"weights\xff.bin"))
    told = decode(encode(describe(error, "disk_failed")), Failure)
    assert told.code == "disk_failed"
    assert "No such file or directory" in told.message
    assert "weights" in told.message


def test_a_message_that_is_too_long_is_cut() -> None:
    assert len(describe(ValueError("x" * 10**6), "run_failed").message) == LONGEST_MESSAGE
