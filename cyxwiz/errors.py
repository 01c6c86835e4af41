"""What can go wrong in the client. Each message is for people: what happened, and what to do.

CyxwizError
├── CyxwizApiError      the server refused; it has `status`, `code`, `detail` and `request_id`
├── Unreachable         there was no server, or no whole answer from it
├── NotUnderstood       the answer is not what this client knows
├── NotConfigured       no address or no key
├── BadInput            what was given cannot be used
├── DeploymentFailed    a deployment that was waited for will not run
├── JobFailed           a job that was waited for did not succeed
└── TimedOut            something that was waited for is not there yet
"""

from __future__ import annotations


class CyxwizError(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class CyxwizApiError(CyxwizError):
    """`code` is stable and made for programs, `detail` for people; quote `request_id` when asking for help."""

    def __init__(self, *, status: int, code: str, detail: str, request_id: str = "") -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.request_id = request_id

    def __repr__(self) -> str:
        return f"CyxwizApiError({self.status} {self.code}: {self.detail!r}, request_id={self.request_id!r})"


class Unreachable(CyxwizError):
    """`sent` is False when the request surely never arrived, so that repeating it can do no harm."""

    def __init__(self, message: str, *, sent: bool = True, slow: bool = False) -> None:
        super().__init__(message)
        self.sent = sent
        self.slow = slow


class NotUnderstood(CyxwizError):
    pass


class NotConfigured(CyxwizError):
    pass


class BadInput(CyxwizError):
    pass


class DeploymentFailed(CyxwizError):
    pass


class JobFailed(CyxwizError):
    pass


class TimedOut(CyxwizError):
    """`for_room` when the wait was for a machine with room, not for the work itself."""

    def __init__(self, message: str, *, for_room: bool = False) -> None:
        super().__init__(message)
        self.for_room = for_room
