"""Zip archives of strangers: what is in them, found out with bounded work, and nothing that means two things.

`zipfile` reads them; before it may, the size of the directory is looked at, and after it the rules hold: no name twice,
none that leads out of its folder, no link, no secret overlap (one run of bytes read as many files), no encryption, and
what the directory says of a file its own header says, too.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from protocol.errors import ModelRefused

MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
MEMBERS_LIMIT = 10_000
TOO_MANY = f"The archive has more than {MEMBERS_LIMIT:,} files."
DIRECTORY_LIMIT_BYTES = 8 * 1024**2  # zipfile reads it whole
NAME_LIMIT = 255
CHUNK_BYTES = 1024**2
# Weights hardly become smaller; what unpacks to far more than it was is made to fill a disk.
EXPANSION = 20
EXPANSION_FREE_BYTES = 16 * 1024**2

# .ZIP File Format Specification, 4.3.16: end of central directory; 4.3.15 and 4.3.14: of zip64; 4.3.7: local header
END = struct.Struct("<4s4H2LH")
END_LOCATOR_64 = struct.Struct("<4sLQL")
END_64 = struct.Struct("<4sQ2H2L4Q")
LOCAL = struct.Struct("<4s5H3L2H")
ENCRYPTED = 0x1
LONGEST_COMMENT = 65535


class Zip:
    """Open for reading; see `opened`."""

    def __init__(self, file: BinaryIO, archive: zipfile.ZipFile) -> None:
        self._file = file
        self.size_bytes = file.seek(0, os.SEEK_END)
        self._archive = archive
        self.members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
        self._starts: dict[str, int] = {}
        self._check()

    @property
    def names(self) -> list[str]:
        return list(self.members)

    def size(self, name: str) -> int:
        return self.members[name].file_size

    def start(self, name: str) -> int:
        """Where in the file the bytes of a member begin."""
        return self._starts[name]

    @property
    def is_stored(self) -> bool:
        """Whether all members lie in it as they are."""
        return all(info.compress_type == zipfile.ZIP_STORED for info in self.members.values())

    def read(self, name: str, limit_bytes: int) -> bytes:
        if self.size(name) > limit_bytes:
            raise ModelRefused(f"{name!r} in the archive has more than {limit_bytes:,} bytes.")
        return b"".join(self.stream(name))

    def stream(self, name: str) -> Iterator[bytes]:
        try:
            with self._archive.open(name) as member:
                left = self.size(name)
                while left and (chunk := member.read(min(CHUNK_BYTES, left))):
                    left -= len(chunk)
                    yield chunk
                if left or member.read(1):  # the last read compares the checksum as well
                    raise ModelRefused(f"{name!r} in the archive has not the size that its directory gives.")
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise ModelRefused(f"{name!r} in the archive cannot be read: {error}.") from error

    def _check(self) -> None:
        infos = self._archive.infolist()
        if len(infos) > MEMBERS_LIMIT:  # whatever number its end gives: zipfile does not look at that
            raise ModelRefused(TOO_MANY)
        if len({info.filename for info in infos}) != len(infos):
            raise ModelRefused("The archive has two files of the same name.")
        if sum(info.file_size for info in infos) > EXPANSION * self.size_bytes + EXPANSION_FREE_BYTES:
            raise ModelRefused(f"The archive unpacks to more than {EXPANSION} times its size.")
        end = 0
        for info in sorted(infos, key=lambda info: info.header_offset):
            _check_name(info)
            if info.header_offset < end:
                raise ModelRefused(f"{info.filename!r} in the archive lies on the bytes of another file.")
            self._starts[info.filename] = start = _start(self._file, info)
            end = start + info.compress_size
        if end > self.size_bytes:
            raise ModelRefused("The archive is cut off.")


@contextmanager
def opened(source: Path | BinaryIO) -> Iterator[Zip]:
    """Refuses what is no archive that can be trusted."""
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file, _read(file) as archive:
        yield Zip(file, archive)


def _read(file: BinaryIO) -> zipfile.ZipFile:
    _check_directory(file)
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, UnicodeDecodeError, struct.error) as error:
        raise ModelRefused(f"This is not a valid zip archive: {error}.") from error


def is_zip(head: bytes) -> bool:
    return head.startswith(MAGIC)


def _check_directory(file: BinaryIO) -> None:
    """Its size, found where zipfile finds it."""
    size = file.seek(0, 2)
    tail_start = max(size - LONGEST_COMMENT - END.size, 0)
    file.seek(tail_start)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < END.size:
        raise ModelRefused("This is not a valid zip archive: its directory is missing; perhaps it was cut off.")
    _, _, _, _, members, directory_bytes, _, _ = END.unpack_from(tail, at)
    locator_at = tail_start + at - END_LOCATOR_64.size
    if locator_at >= END_64.size:
        file.seek(locator_at - END_64.size)
        before = file.read(END_64.size + END_LOCATOR_64.size)
        if before[END_64.size :].startswith(b"PK\x06\x07") and before.startswith(b"PK\x06\x06"):
            *_, members, directory_bytes, _ = END_64.unpack_from(before)
    if members > MEMBERS_LIMIT or directory_bytes > DIRECTORY_LIMIT_BYTES:
        raise ModelRefused(TOO_MANY)


def _check_name(info: zipfile.ZipInfo) -> None:
    name = info.filename
    path = PurePosixPath(name)
    if (
        not name.isprintable()
        or len(name) > NAME_LIMIT
        or "\\" in info.orig_filename
        or "\0" in info.orig_filename
        or path.is_absolute()
        or ".." in path.parts
        or str(path) != name.rstrip("/")
    ):
        raise ModelRefused(f"A file in the archive is called {name[:80]!r}, which is no path inside a folder.")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise ModelRefused(f"{name!r} in the archive is a link.")
    if info.flag_bits & ENCRYPTED:
        raise ModelRefused(f"{name!r} in the archive is encrypted.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ModelRefused(f"{name!r} in the archive is compressed in a way other than deflate.")
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        raise ModelRefused(f"{name!r} in the archive has two sizes.")


def _start(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where its bytes begin. Its own header must agree with the directory: readers differ in which they believe."""
    file.seek(info.header_offset)
    header = file.read(LOCAL.size)
    if len(header) < LOCAL.size or not header.startswith(b"PK\x03\x04"):
        raise ModelRefused(f"The directory of the archive points to no file for {info.filename!r}.")
    _, _, _, method, _, _, _, _, _, name_bytes, extra_bytes = LOCAL.unpack(header)
    start = info.header_offset + LOCAL.size + name_bytes + extra_bytes
    name = file.read(name_bytes)
    if method != info.compress_type or name.decode(errors="replace") != info.orig_filename:
        raise ModelRefused(f"{info.filename!r} in the archive is another file by its own header.")
    return start
