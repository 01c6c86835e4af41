"""Archives of strangers: what is read, and what is refused and why."""

from __future__ import annotations

import io
import struct
import time
import warnings
import zipfile
from pathlib import Path

import pytest

from models_registry.formats import zipped
from protocol.errors import ModelRefused


def packed(members: dict[str, bytes] | list[tuple[str | zipfile.ZipInfo, bytes]], method: int = zipfile.ZIP_STORED):
    """The bytes of an archive."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names given twice
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for name, data in members.items() if isinstance(members, dict) else members:
                archive.writestr(name, data, compress_type=method)
    return buffer.getvalue()


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "archive.zip"
    path.write_bytes(data)
    return path


def refusal(tmp_path: Path, data: bytes) -> str:
    path = written(tmp_path, data)
    with pytest.raises(ModelRefused) as caught:
        read_all(path)
    return caught.value.message


def read_all(path: Path) -> None:
    with zipped.opened(path) as archive:
        for name in archive.names:
            for _ in archive.stream(name):
                pass


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_was_packed_is_read(tmp_path, method):
    content = {"a.txt": b"one", "folder/b.bin": bytes(range(256)) * 9000, "empty": b""}
    with zipped.opened(written(tmp_path, packed(content, method))) as archive:
        assert {name: archive.read(name, 10**7) for name in archive.names} == content
        assert archive.is_stored == (method == zipfile.ZIP_STORED)


def test_stored_bytes_lie_where_it_says(tmp_path):
    path = written(tmp_path, packed({"first": b"x" * 100, "second": b"hello"}))
    with zipped.opened(path) as archive:
        start = archive.start("second")
    assert path.read_bytes()[start : start + 5] == b"hello"


def test_a_member_over_its_limit_is_not_read(tmp_path):
    path = written(tmp_path, packed({"large": b"x" * 1001}))
    with zipped.opened(path) as archive, pytest.raises(ModelRefused, match="more than 1,000 bytes"):
        archive.read("large", 1000)


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a/../../b", "a//b", "./a", "..", "a\x01b", "a" * 300])
def test_names_that_lead_out(tmp_path, name):
    assert "no path inside a folder" in refusal(tmp_path, packed({name: b"x"}))


def test_a_backslash_is_no_way_out(tmp_path):
    assert "no path" in refusal(tmp_path, packed({"..?..?x": b"x"}).replace(b"..?..?x", b"..\\..\\x"))


def test_two_files_of_one_name(tmp_path):
    assert "same name" in refusal(tmp_path, packed([("model", b"good"), ("model", b"evil")]))


def test_a_link(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    assert "is a link" in refusal(tmp_path, packed([(link, b"/etc/passwd")]))


def test_a_bomb(tmp_path):
    bomb = packed({"zeros": bytes(64 * 1024**2)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 100_000
    started = time.monotonic()
    assert "more than 20 times" in refusal(tmp_path, bomb)
    assert time.monotonic() - started < 2


def test_a_bomb_that_lies_about_its_size(tmp_path):
    """By the directory it is small; what comes out of it is cut at that."""
    size = 64 * 1024**2
    data = packed({"zeros": bytes(size)}, zipfile.ZIP_DEFLATED).replace(struct.pack("<L", size), struct.pack("<L", 100))
    assert "has not the size" in refusal(tmp_path, data) or "cannot be read" in refusal(tmp_path, data)


def test_more_files_than_a_model_has(tmp_path):
    assert "more than 10,000 files" in refusal(tmp_path, packed({f"f{i}": b"" for i in range(10_001)}))


def test_more_files_than_its_end_says(tmp_path):
    data = bytearray(packed({f"f{i}": b"" for i in range(10_001)}))
    end = data.rfind(b"PK\x05\x06")
    data[end + 8 : end + 12] = struct.pack("<2H", 1, 1)
    assert "more than 10,000 files" in refusal(tmp_path, bytes(data))


def test_a_directory_that_claims_to_be_huge(tmp_path):
    data = bytearray(packed({"a": b"x"}))
    end = data.rfind(b"PK\x05\x06")
    data[end + 12 : end + 16] = struct.pack("<L", 2**31)
    assert "more than 10,000 files" in refusal(tmp_path, bytes(data))


def test_overlapping_files(tmp_path):
    """Two entries of the directory that point to the same bytes."""
    data = packed({"a": b"x" * 50, "b": b"y" * 50})
    directory = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", directory + 4)
    broken = bytearray(data)
    broken[second + 42 : second + 46] = struct.pack("<L", 1)
    words = refusal(tmp_path, bytes(broken))
    assert "on the bytes of another" in words or "points to no file" in words


def test_a_header_that_names_another_file(tmp_path):
    data = packed({"good.txt": b"x"})
    at = data.index(b"good.txt")
    assert "another file by its own header" in refusal(tmp_path, data[:at] + b"evil.txt" + data[at + 8 :])


def test_a_header_that_compresses_otherwise(tmp_path):
    data = bytearray(packed({"a": b"x"}))
    data[8:10] = struct.pack("<H", zipfile.ZIP_DEFLATED)
    assert "another file by its own header" in refusal(tmp_path, bytes(data))


def test_an_encrypted_file(tmp_path):
    data = bytearray(packed({"a": b"x"}))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    assert "is encrypted" in refusal(tmp_path, bytes(data))


def test_a_changed_byte_is_found(tmp_path):
    assert "Bad CRC" in refusal(tmp_path, packed({"a": b"hello"}).replace(b"hello", b"hallo"))


@pytest.mark.parametrize("left", [10, 60, 100])
def test_one_that_was_cut_off(tmp_path, left):
    whole = packed({"a": b"x" * 100})
    assert "zip archive" in refusal(tmp_path, whole[:left])
