"""Fixtures of the tests of jobs."""

from __future__ import annotations

import pytest

from tests import factories
from tests.nodes.reports import Machine


@pytest.fixture
def version(owner):
    return factories.version(owner.user)


@pytest.fixture
def machine(owner) -> Machine:
    machine = Machine(owner)
    machine.heartbeat()
    return machine
