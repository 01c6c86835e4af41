"""Takes the frames for a session out of its Redis list. What is lost between Redis and us, its sender sends again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

from redis.exceptions import RedisError

from workers import broker
from workers.backoff import Backoff

log = logging.getLogger(__name__)

WAIT_SECONDS = 2
MOST_AT_ONCE = 256


def listen(url: str, inbox: str, heard: Callable[[bytes], None]) -> None:
    """For as long as the process lives."""
    threading.Thread(target=_run, args=(url, inbox, heard), name="inlet", daemon=True).start()


def _run(url: str, inbox: str, heard: Callable[[bytes], None]) -> None:
    for frames in batches(url, inbox):
        for frame in frames:
            heard(frame)


def batches(url: str, inbox: str) -> Iterator[list[bytes]]:
    """For ever: what has come, every two seconds perhaps nothing."""
    connection = broker.Connection(url, answer_seconds=WAIT_SECONDS + 8)
    pop = connection.pack([("BLPOP", inbox, WAIT_SECONDS), ("LPOP", inbox, MOST_AT_ONCE)])
    backoff = Backoff(0.05, 2)
    while True:
        try:
            connection.send(pop)
            first = connection.read()
            more = connection.read()
        except RedisError as error:
            connection.close()
            if backoff.is_first:
                log.warning("Redis does not answer: %s", error)
            threading.Event().wait(backoff.seconds())
            yield []
            continue
        backoff.reset()
        yield [frame for frame in [*([first[1]] if first else []), *(more or ())] if frame]
