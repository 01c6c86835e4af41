"""The two ends that time brings a terminal, and the warning before each: the same for every door."""

from __future__ import annotations

from django.utils import timezone

from terminal import permissions
from terminal.models import TerminalSession

WARN_SECONDS = 60.0


def why_over(session: TerminalSession, idle_seconds: float) -> str:
    """Why it has to end now, or nothing. `idle_seconds`: since the last input."""
    if _seconds_left(session) <= 0:
        return permissions.EXPIRED
    return f"No input came for {session.idle_seconds} s." if idle_seconds >= session.idle_seconds else ""


def warnings(session: TerminalSession, idle_seconds: float) -> dict[str, str]:
    """For each kind of notice what to tell now, or nothing: it is too early (again)."""
    longest_seconds = (session.expires_at - (session.approved_at or session.created_at)).total_seconds()
    return {
        "idle": _warning(session.idle_seconds - idle_seconds, session.idle_seconds, "unless something is typed"),
        "expires": _warning(_seconds_left(session), longest_seconds, "when it has reached its longest time"),
    }


def _warning(left: float, whole: float, when: str) -> str:
    return f"The terminal ends in {max(0, left):.0f} s {when}." if left <= min(WARN_SECONDS, whole / 2) else ""


def _seconds_left(session: TerminalSession) -> float:
    return (session.expires_at - timezone.now()).total_seconds()
