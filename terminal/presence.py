"""That somebody is attached, for the audit: it says `attached` and `left` in pairs, whenever they go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from channels.db import database_sync_to_async
from django.db import Error as DatabaseError

P = ParamSpec("P")
T = TypeVar("T")


class Presence:
    def __init__(self) -> None:
        self._noting: asyncio.Future[object] | None = None

    async def begin(self, note: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """What `note` returns, which writes the row. It does so also where we are cancelled meanwhile."""
        noting = asyncio.ensure_future(database_sync_to_async(note)(*args, **named))
        self._noting = noting
        return await asyncio.shield(noting)

    async def has_begun(self) -> bool:
        """Whether there is a row, once that is known."""
        if self._noting is None:
            return False
        try:
            await asyncio.shield(self._noting)
        except DatabaseError:
            return False
        return True
