"""Downloads: whole, in ranges, conditional; from the blob store to the socket without the file in memory."""

from __future__ import annotations

import hashlib
import os

import pytest

from tests.models_registry.samples import linear
from tests.models_registry.test_models_api import push

LINEAR = linear(features=40, classes=30).SerializeToString()
SIZE = len(LINEAR)
ETAG = f'"{hashlib.sha256(LINEAR).hexdigest()}"'
FILE = "/api/v1/models/linear/versions/1/file"


@pytest.fixture
def pushed(owner):
    assert push(owner, LINEAR).status_code == 201
    return owner


def test_the_whole_file(pushed):
    answer = pushed.get(FILE)
    assert answer.status_code == 200
    assert answer.getvalue() == LINEAR
    assert answer["Content-Length"] == str(SIZE)
    assert answer["Content-Type"] == "application/octet-stream"
    assert answer["ETag"] == ETAG
    assert answer["Accept-Ranges"] == "bytes"
    assert answer["Content-Disposition"] == 'attachment; filename="linear-1.onnx"'


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=100-", 100, SIZE),
        ("bytes=-10", SIZE - 10, SIZE),
        (f"bytes=-{SIZE * 2}", 0, SIZE),
        (f"bytes=5-{SIZE * 2}", 5, SIZE),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
    ],
)
def test_one_range(pushed, wanted, start, end):
    answer = pushed.get(FILE, headers={"Range": wanted})
    assert answer.status_code == 206
    assert answer["Content-Range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert answer["Content-Length"] == str(end - start)
    assert answer.getvalue() == LINEAR[start:end]


@pytest.mark.parametrize("wanted", [f"bytes={SIZE}-", f"bytes={SIZE + 5}-{SIZE + 9}", "bytes=-0"])
def test_a_range_outside_the_file(pushed, wanted):
    answer = pushed.get(FILE, headers={"Range": wanted})
    assert answer.status_code == 416
    assert answer["Content-Range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize("wanted", ["bytes=0-1,5-6", "bytes=9-3", "bytes=-", "bytes=x-y", "lines=1-2", "bytes=٣-٤"])
def test_a_range_that_we_do_not_serve_gives_the_whole_file(pushed, wanted):
    answer = pushed.get(FILE, headers={"Range": wanted})
    assert answer.status_code == 200
    assert answer.getvalue() == LINEAR


def test_if_range_goes_on_only_with_the_same_file(pushed):
    part = {"Range": "bytes=5-"}
    assert pushed.get(FILE, headers=part | {"If-Range": ETAG}).status_code == 206
    for other in ('"0"', f"W/{ETAG}", "Tue, 01 Sep 2026 00:00:00 GMT"):
        assert pushed.get(FILE, headers=part | {"If-Range": other}).status_code == 200


def test_if_none_match_saves_the_download(pushed):
    for known in (ETAG, f"W/{ETAG}", f'"0", {ETAG}', "*"):
        answer = pushed.get(FILE, headers={"If-None-Match": known})
        assert answer.status_code == 304
        assert answer["ETag"] == ETAG
    assert pushed.get(FILE, headers={"If-None-Match": '"0"'}).status_code == 200


def test_head_tells_the_size_and_sends_nothing(pushed):
    answer = pushed.client.head(FILE, headers={"Range": "bytes=10-19"})
    assert answer.status_code == 206
    assert answer["Content-Length"] == "10"
    assert answer.content == b""


def test_whatever_is_accepted_gets_the_file_and_errors_are_json(pushed, outsider):
    accept = {"Accept": "application/x-onnx"}
    assert pushed.get(FILE, headers=accept).status_code == 200
    refused = outsider.get(FILE, headers=accept)
    assert refused.status_code == 404
    assert refused["Content-Type"] == "application/problem+json"


def test_an_answer_closes_its_file(pushed):
    before = open_files()
    answer = pushed.get(FILE)
    assert open_files() == before + 1
    assert answer.getvalue() == LINEAR  # at its end the server closes the answer
    assert open_files() == before


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))
