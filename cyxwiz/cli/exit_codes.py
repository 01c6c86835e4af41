"""The exit codes of `cyxwiz`, for scripts: 0 means done, the rest say why not."""

from __future__ import annotations

from enum import IntEnum

from cyxwiz.errors import BadInput, CyxwizApiError, CyxwizError, NotConfigured, TimedOut, Unreachable


class ExitCode(IntEnum):
    OK = 0
    ERROR = 1
    USAGE = 2
    AUTH = 3  # no key, a wrong key, or one that may not do this
    NOT_FOUND = 4
    CONFLICT = 5  # it exists already, or its state does not allow this
    NO_CAPACITY = 6  # no node has room, a queue is full, too many requests
    TIMEOUT = 7
    INTERRUPTED = 130


BY_STATUS = {
    401: ExitCode.AUTH,
    403: ExitCode.AUTH,
    404: ExitCode.NOT_FOUND,
    408: ExitCode.TIMEOUT,
    409: ExitCode.CONFLICT,
    429: ExitCode.NO_CAPACITY,
    503: ExitCode.NO_CAPACITY,
    504: ExitCode.TIMEOUT,
}


def exit_code(error: CyxwizError) -> ExitCode:
    if isinstance(error, CyxwizApiError):
        return BY_STATUS.get(error.status, ExitCode.ERROR)
    if isinstance(error, NotConfigured):
        return ExitCode.AUTH
    if isinstance(error, BadInput):
        return ExitCode.USAGE
    if isinstance(error, TimedOut):
        return ExitCode.NO_CAPACITY if error.for_room else ExitCode.TIMEOUT
    if isinstance(error, Unreachable) and error.slow:
        return ExitCode.TIMEOUT
    return ExitCode.ERROR
