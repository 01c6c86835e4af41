"""Reads the control plane's settings from the environment; nonsense is refused with the variable's name.

Every value may also come from a file: `NAME_FILE` is read where `NAME` is not set (for secrets).
"""

import os
from pathlib import Path


class BadSetting(Exception):
    pass


def text(name: str, default: str | None = None) -> str:
    if name in os.environ:
        return os.environ[name]
    if path := os.environ.get(f"{name}_FILE"):
        try:
            return Path(path).read_text().strip()
        except OSError as error:
            raise BadSetting(f"{name}_FILE: cannot read {path}: {error.strerror}") from error
    if default is None:
        raise BadSetting(f"{name} is not set (nor {name}_FILE)")
    return default


def flag(name: str, default: bool) -> bool:
    value = text(name, "true" if default else "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise BadSetting(f"{name} must be true or false, not {value!r}")
    return value in ("true", "1")


def number(name: str, default: int) -> int:
    value = text(name, str(default))
    try:
        return int(value)
    except ValueError:
        raise BadSetting(f"{name} must be a whole number, not {value!r}") from None


def words(name: str, default: str) -> list[str]:
    return [word.strip() for word in text(name, default).split(",") if word.strip()]
