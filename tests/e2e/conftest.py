"""One running system for all end-to-end tests: on the PostgreSQL and Redis of the test run, with a real node."""

from __future__ import annotations

import logging
import os
import pwd
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx2
import numpy as np
import psycopg
import pytest
import redis
from playwright.sync_api import Browser
from psycopg import sql

from tests.e2e.browsers import chromium
from tests.e2e.digits import DIGITS, deploy
from tests.e2e.quickstarts import Quickstart, free_port, started
from tests.e2e.ssh import SshUser
from tests.e2e.terminals import Stack, running

logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line per poll would bury what a failed test has to say


@pytest.fixture(scope="package")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quickstart]:
    """Ended with the last end-to-end test: its workers would hear the doorbells of the other tests."""
    home = tmp_path_factory.mktemp("system") / "home"
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as connection:
        connection.flushall()
        with own_database() as url:
            env = {**os.environ, "DATABASE_URL": url}
            with started(home, "--no-demo", "--port", str(free_port()), env=env) as quickstart:
                quickstart.env = {**env, "CYXWIZ_HOME": str(home), "DJANGO_SETTINGS_MODULE": "cyxwiz_site.settings"}
                yield quickstart
        connection.flushall()


@contextmanager
def own_database() -> Iterator[str]:
    """A fresh one beside pytest-django's, in the same server."""
    parts = urlsplit(os.environ["DATABASE_URL"])
    if not parts.scheme.startswith("postgres"):
        pytest.fail("The end-to-end tests need DATABASE_URL to be a PostgreSQL (see tests/with_services.py).")
    name = f"e2e_{secrets.token_hex(4)}"
    with psycopg.connect(urlunsplit(parts), autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield urlunsplit(parts._replace(path=f"/{name}"))
        finally:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Another system, for terminals, whose processes a test may kill."""
    folder = tmp_path_factory.mktemp("terminals")
    me = pwd.getpwuid(os.getuid()).pw_name
    with own_database() as url, running(folder / "stack", url, user=me) as stack:
        yield stack


@pytest.fixture(scope="package")
def ssh(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> SshUser:
    return olga_by_ssh(stack, tmp_path_factory)


def olga_by_ssh(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> SshUser:
    """The owner of the stack's node, with a key of hers and a gateway that runs."""
    if shutil.which("ssh") is None:
        pytest.skip("There is no ssh client here (openssh-client).")
    stack.start_ssh_gateway()
    return SshUser(stack, tmp_path_factory.mktemp("ssh"), "olga")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="package")
def api(system: Quickstart) -> Iterator[httpx2.Client]:
    with system.api() as client:
        yield client


@pytest.fixture(scope="package")
def heldout() -> tuple[np.ndarray, np.ndarray]:
    """Images and what they show."""
    file = np.load(DIGITS / "heldout.npz")
    return file["images"].astype(np.float32), file["labels"]


@pytest.fixture(scope="package")
def digits(api: httpx2.Client) -> str:
    """The name of a running deployment."""
    with (DIGITS / "digits.onnx").open("rb") as file:
        pushed = api.post("/api/v1/models/digits/versions/", files={"file": ("digits.onnx", file)})
    assert pushed.status_code == 201, pushed.text
    return deploy(api, "digits")


@pytest.fixture(scope="package")
def outsider(system: Quickstart) -> Iterator[httpx2.Client]:
    """Somebody else, who owns nothing."""
    with system.api(system.new_user("otto")) as client:
        yield client


@pytest.fixture
def node_home(tmp_path: Path) -> Path:
    return tmp_path / "node"
