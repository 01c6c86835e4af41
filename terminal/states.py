"""The states of a terminal session. No I/O."""

from __future__ import annotations

from enum import StrEnum


class SessionState(StrEnum):
    UNAPPROVED = "unapproved"  # waits for a second person
    OPENING = "opening"  # the node's doorbell has rung
    OPEN = "open"  # the node has it, also while nobody is attached
    ENDED = "ended"


LIVE = (SessionState.OPENING, SessionState.OPEN)
UNENDED = (SessionState.UNAPPROVED, *LIVE)
