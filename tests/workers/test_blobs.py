"""The node's cache of files, fetched from a real HTTP server that misbehaves on request."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest
from msgspec.structs import replace

from protocol.messages import File
from tests.waiting import until
from tests.workers.node_api import NodeApi
from workers.blobs import BlobCache
from workers.control_plane import ControlPlane
from workers.failures import AttemptFailed, Stopped
from workers.workspace import workspace

CONTENT = os.urandom(3_000_000)


def fetch(cache: BlobCache, file: File, stopped: threading.Event | None = None) -> Path:
    return cache.fetch(file, lambda _: None, stopped or threading.Event())


def left(tmp_path: Path) -> list[str]:
    return [path.suffix for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_file_is_fetched_once_and_its_progress_told(node_api: NodeApi, cache: BlobCache):
    file = node_api.file(CONTENT)
    heard: list[int] = []
    path = cache.fetch(file, heard.append, threading.Event())
    assert path.read_bytes() == CONTENT
    assert heard == sorted(heard)
    assert heard[-1] == len(CONTENT)
    assert fetch(cache, file) == path
    assert node_api.requests["blob from 0"] == 1


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_cut_download_goes_on(node_api: NodeApi, cache: BlobCache, knows_ranges: bool):
    file = node_api.file(CONTENT)
    node_api.cut_after = 1_500_000
    node_api.knows_ranges = knows_ranges
    assert fetch(cache, file).read_bytes() == CONTENT
    starts = [name for name in node_api.requests if name.startswith("blob from")]
    assert len(starts) == (2 if knows_ranges else 1)
    assert node_api.requests["blob from 0"] == (1 if knows_ranges else 2)


def test_it_waits_for_a_control_plane_that_is_away(node_api: NodeApi, cache: BlobCache):
    file = node_api.file(CONTENT)
    node_api.down = True
    found: list[Path] = []
    thread = threading.Thread(target=lambda: found.append(fetch(cache, file)))
    thread.start()
    until(lambda: node_api.requests.total() >= 2)
    node_api.down = False
    thread.join(15)
    assert found[0].read_bytes() == CONTENT


def test_wrong_bytes_are_not_kept(node_api: NodeApi, cache: BlobCache, tmp_path: Path):
    file = node_api.file(CONTENT)
    node_api.blobs[file.sha256] = CONTENT[::-1]
    with pytest.raises(AttemptFailed, match="not those of sha256") as failed:
        fetch(cache, file)
    assert failed.value.failure.code == "blob_mismatch"
    assert node_api.requests["blob from 0"] == 2  # tried once more
    assert left(tmp_path) == []


def test_too_many_bytes_are_not_kept(node_api: NodeApi, cache: BlobCache, tmp_path: Path):
    file = replace(node_api.file(CONTENT), size_bytes=1000)
    with pytest.raises(AttemptFailed, match="not those"):
        fetch(cache, file)
    assert left(tmp_path) == []


def test_half_of_a_wrong_file_does_not_spoil_the_right_one(node_api: NodeApi, cache: BlobCache, tmp_path: Path):
    file = node_api.file(CONTENT)
    part = tmp_path / "cache" / file.sha256[:2] / f"{file.sha256}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"left of a crash")
    assert fetch(cache, file).read_bytes() == CONTENT
    assert left(tmp_path) == [""]


def test_a_refusal_is_told_in_the_control_planes_words(node_api: NodeApi, cache: BlobCache):
    unknown = File(path="m.onnx", sha256="0" * 64, size_bytes=1)
    with pytest.raises(AttemptFailed, match=r"m.onnx could not be fetched. No replica or job of this node"):
        fetch(cache, unknown)


def test_a_name_that_is_no_digest_never_becomes_a_path(cache: BlobCache):
    with pytest.raises(AttemptFailed, match="not a SHA-256"):
        fetch(cache, File(path="m", sha256="../../etc/passwd", size_bytes=1))


def test_bytes_that_change_on_disk_are_noticed(node_api: NodeApi, cache: BlobCache):
    file = node_api.file(CONTENT)
    path = fetch(cache, file)
    path.chmod(0o600)
    path.write_bytes(b"x" + CONTENT[1:])
    assert fetch(cache, file).read_bytes() == CONTENT
    assert node_api.requests["blob from 0"] == 2


def test_bytes_that_change_and_keep_their_dates_are_noticed(node_api: NodeApi, cache: BlobCache):
    file = node_api.file(CONTENT)
    path = fetch(cache, file)
    before = path.stat()
    path.chmod(0o600)
    path.write_bytes(b"x" + CONTENT[1:])
    path.chmod(0o444)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    assert fetch(cache, file).read_bytes() == CONTENT
    assert node_api.requests["blob from 0"] == 2


def test_what_lends_a_file_does_not_cost_reading_it_again(
    node_api: NodeApi, cache: BlobCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = node_api.file(CONTENT)
    fetch(cache, file)
    monkeypatch.setattr(hashlib, "file_digest", None)  # what reads it again needs that
    with workspace(tmp_path / "attempts", "one", cache) as one, workspace(tmp_path / "attempts", "two", cache) as two:
        for folder in (one, two):
            folder.add("m.onnx", fetch(cache, file))
    assert fetch(cache, file).stat().st_nlink == 1


def test_another_agent_start_trusts_only_what_it_has_read(
    node_api: NodeApi, control_plane: ControlPlane, tmp_path: Path
):
    file = node_api.file(CONTENT)
    fetch(BlobCache(tmp_path / "cache", control_plane), file)
    again = BlobCache(tmp_path / "cache", control_plane)
    assert fetch(again, file).read_bytes() == CONTENT
    assert node_api.requests["blob from 0"] == 1


def test_two_who_want_the_same_file_share_one_download(node_api: NodeApi, cache: BlobCache):
    file = node_api.file(CONTENT)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch(cache, file))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert [path.read_bytes() == CONTENT for path in found] == [True] * 8
    assert node_api.requests["blob from 0"] == 1


def test_a_download_that_nobody_wants_ends(node_api: NodeApi, cache: BlobCache):
    file = node_api.file(CONTENT)
    node_api.down = True
    stopped = threading.Event()
    ended: list[bool] = []

    def wait() -> None:
        with pytest.raises(Stopped):
            fetch(cache, file, stopped)
        ended.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: node_api.requests.total())
    stopped.set()
    thread.join(5)
    assert ended == [True]
