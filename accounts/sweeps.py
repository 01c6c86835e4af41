"""What sweeps share: they serve many owners, and what is wrong with a row of one must not stop the others."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_of_many(log: logging.Logger, what: object) -> Iterator[None]:
    """An error within is logged with `what` it is about, and ends there. Transactions begin within as well, so that
    nothing of it is left half done."""
    try:
        yield
    except Exception:
        log.exception("Failed for %s; the others are served", what)
