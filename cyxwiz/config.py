"""Which server and which key: from the call or flag, else CYXWIZ_URL and CYXWIZ_API_KEY, else the file that
`cyxwiz login` wrote. The file keeps one key per server, and a key never goes to a server it was not stored for.
"""

from __future__ import annotations

import json
import os
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from platformdirs import user_config_path

from cyxwiz.address import checked_url
from cyxwiz.errors import NotConfigured
from cyxwiz.secret import ApiKey

LOGIN = "Run `cyxwiz login --url URL`, or set CYXWIZ_URL and CYXWIZ_API_KEY."


@dataclass(frozen=True)
class Config:
    url: str
    key: ApiKey


@dataclass(frozen=True)
class Stored:
    url: str | None = None
    keys: dict[str, ApiKey] = field(default_factory=dict)


def path() -> Path:
    return user_config_path("cyxwiz", appauthor=False) / "config.toml"


def load(*, url: str | None = None, key: str | ApiKey | None = None) -> Config:
    stored = read_file()
    url = url or os.environ.get("CYXWIZ_URL") or stored.url
    if not url:
        raise NotConfigured(f"Which server? {LOGIN}")
    url = checked_url(url)
    key = key or os.environ.get("CYXWIZ_API_KEY") or stored.keys.get(url)
    if not key:
        raise NotConfigured(f"There is no API key for {url}. Run `cyxwiz login --url {url}`, or set CYXWIZ_API_KEY.")
    return Config(url, ApiKey(key) if isinstance(key, str) else key)


def known_url() -> str | None:
    """The server that is meant when none is named."""
    return os.environ.get("CYXWIZ_URL") or read_file().url


def read_file() -> Stored:
    where = path()
    try:
        text = where.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Stored()
    except (OSError, UnicodeDecodeError) as error:
        raise NotConfigured(f"{where} cannot be read ({error}).") from None
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        document, problem = {}, str(error)  # says line and column, not what stands there
    else:
        problem = ""
    url, keys = document.get("url"), document.get("keys", {})
    if (
        not isinstance(url, str | None)
        or not isinstance(keys, dict)
        or not all(isinstance(k, str) for k in keys.values())
    ):
        problem = "`url` must be text and [keys] a table of texts"
    if problem:
        raise NotConfigured(f"{where} is not valid: {problem}. Correct it, or delete it and run `cyxwiz login`.")
    return Stored(url, {server: ApiKey(key) for server, key in keys.items()})


def store(url: str, key: ApiKey) -> Path:
    """Makes `url` the server that is meant by default; keys of other servers stay."""
    where = path()
    keys = {**read_file().keys, url: key}
    lines = [f"url = {_quoted(url)}", "", "[keys]"]
    lines += [f"{_quoted(server)} = {_quoted(secret.reveal())}" for server, secret in sorted(keys.items())]
    try:
        where.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # mkstemp makes the file with mode 0600, so there is no moment in which others could read it.
        handle, temporary = tempfile.mkstemp(dir=where.parent, prefix=".config-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")
            Path(temporary).replace(where)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise NotConfigured(f"{where} cannot be written ({error.strerror}).") from None
    return where


def _quoted(text: str) -> str:
    """A TOML basic string: for what can stand in a URL or key, the same as JSON's."""
    return json.dumps(text)
