"""Fixtures for every test. PostgreSQL and Redis are real (see `with_services`)."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest
import redis

from accounts import live
from tests.cast import Person, person

# What a quickstart on SQLite rests on. `-m sqlite` runs those of these tests that touch a database, without what is
# marked `postgres`.
SQLITE_FOLDERS = {"accounts", "nodes", "models_registry", "deployments", "jobs", "cyxwiz_site", "quickstart"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks come from the folder."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder == "e2e":
            item.add_marker(pytest.mark.e2e)
        if folder in SQLITE_FOLDERS and _touches_a_database(item) and not item.get_closest_marker("postgres"):
            item.add_marker(pytest.mark.sqlite)


def _touches_a_database(item: pytest.Item) -> bool:
    fixtures = {"db", "transactional_db"} & set(getattr(item, "fixturenames", ()))
    return bool(fixtures or item.get_closest_marker("django_db"))


# No deadline: the machine is shared, and a slow moment is no fault.
hypothesis.settings.register_profile("shared-machine", deadline=None, database=None)
hypothesis.settings.load_profile("shared-machine")


@pytest.fixture
def empty_redis() -> redis.Redis:
    connection = live.connection()
    connection.flushall()
    return connection


@pytest.fixture(autouse=True)
def _home(settings, tmp_path) -> None:
    settings.BLOBS_DIR = tmp_path / "blobs"
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # the slow ones are slow on purpose


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
