"""Fixtures for every test. PostgreSQL and Redis are real (see `with_services`)."""

from __future__ import annotations

import pytest
import redis

from accounts import live
from tests.cast import Person, person


@pytest.fixture
def empty_redis() -> redis.Redis:
    connection = live.connection()
    connection.flushall()
    return connection


@pytest.fixture(autouse=True)
def _home(settings, tmp_path) -> None:
    settings.BLOBS_DIR = tmp_path / "blobs"


@pytest.fixture
def owner(db, empty_redis) -> Person:
    return person("olga")


@pytest.fixture
def team_mate(db, empty_redis) -> Person:
    return person("tom")


@pytest.fixture
def outsider(db, empty_redis) -> Person:
    return person("otto")


@pytest.fixture
def admin(db, empty_redis) -> Person:
    return person("ada", staff=True)
