"""The example model, loaded once for all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.runtimes.gguf.asking import RHYMES, Asking, Direct


@pytest.fixture(scope="session")
def rhymes() -> Iterator[Asking]:
    asking = Asking()
    yield asking
    asking.runtime.finish()
    asking.runtime.unload()


@pytest.fixture(scope="session")
def direct() -> Iterator[Direct]:
    called = Direct()
    yield called
    called.close()


@pytest.fixture
def load() -> Iterator[Callable[..., Asking]]:
    """With options of its own."""
    loaded: list[Asking] = []

    def load(model: Path = RHYMES, **options: object) -> Asking:
        loaded.append(Asking(model, **options))
        return loaded[-1]

    yield load
    for asking in loaded:
        asking.runtime.unload()
