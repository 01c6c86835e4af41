"""The terminal in a real browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.e2e.browsers import Person, chromium, opened
from tests.e2e.terminals import Stack


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def olga(browser: Browser, stack: Stack) -> Iterator[Person]:
    """The owner of the node. At the end her browser must have had nothing to complain about."""
    person = Person(browser, stack.url, "olga").log_in()
    yield person
    person.context.close()
    assert person.complaints == []
    assert person.foreign == []


def test_what_is_typed_comes_back(olga: Person) -> None:
    screen = opened(olga)
    screen.run("echo $((6*7))-is-the-answer")
    screen.shows("42-is-the-answer")
