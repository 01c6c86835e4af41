"""What the process that checks an upload is asked, and what it answers."""

from __future__ import annotations

from typing import Any

import msgspec

from protocol.tensors import Signature


class Limits(msgspec.Struct, frozen=True):
    wall_seconds: float
    cpu_seconds: int
    memory_bytes: int  # address space, besides that of the files


class Request(msgspec.Struct, frozen=True):
    files: dict[str, str]  # name in the model's folder -> path; of a single file any name
    is_folder: bool
    declared: Signature | None
    limits: Limits


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A folder to be unpacked first, a refusal, or the format that was recognised."""

    is_folder: bool = False
    refused: str = ""
    code: str = ""
    format: str = ""
    metadata: dict[str, Any] = {}
    files: dict[str, str] = {}
