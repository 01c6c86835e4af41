"""How a probe says that it cannot tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class CannotTell(Exception):
    """The reason, for people."""


def attempt(field: str, probe: Callable[[], T], unknown: dict[str, str]) -> T | None:
    """What `probe` finds; None, and the reason in `unknown`, where it finds nothing."""
    try:
        return probe()
    except CannotTell as error:
        unknown[field] = str(error)
    except Exception as error:  # whatever a strange machine makes of a probe, the other facts still count
        unknown[field] = f"The probe failed: {type(error).__name__}: {error}"
    return None
