"""The errors that cross a boundary: each has a stable `code`, an HTTP status, and says if trying again helps.

CyxwizError
├── BadRequest          400  bad_request
│   └── ContextExceeded 400  context_length_exceeded
├── NotAuthenticated    401  not_authenticated
├── Forbidden           403  forbidden
├── NotFound            404  not_found
├── Conflict            409  conflict
├── TooLarge            413  too_large
├── Unprocessable       422  unprocessable
│   ├── ModelRefused    422  model_refused
│   └── NothingRunsIt   422  unsupported_format
├── Failed              500  failed
│   ├── LoadFailed      500  load_failed
│   └── RunFailed       500  run_failed
├── Unsupported         501  unsupported
├── Unavailable         503  unavailable
│   ├── QueueFull       503  queue_full
│   ├── NoReplica       503  no_replica
│   └── ReplicaLost     503  replica_lost
├── TimedOut            504  timed_out
└── OutOfSpace          507  insufficient_storage
"""

from typing import ClassVar


class CyxwizError(Exception):
    """`message` is for people: what is wrong, where, what to do."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class BadRequest(CyxwizError):
    code, status = "bad_request", 400


class ContextExceeded(BadRequest):
    """More text than the model's context holds."""

    code = "context_length_exceeded"


class NotAuthenticated(CyxwizError):
    code, status = "not_authenticated", 401


class Forbidden(CyxwizError):
    code, status = "forbidden", 403


class NotFound(CyxwizError):
    code, status = "not_found", 404


class Conflict(CyxwizError):
    code, status = "conflict", 409


class TooLarge(CyxwizError):
    code, status = "too_large", 413


class Unprocessable(CyxwizError):
    code, status = "unprocessable", 422


class ModelRefused(Unprocessable):
    code = "model_refused"


class NothingRunsIt(Unprocessable):
    """What is kept, but has no runtime."""

    code = "unsupported_format"


class Failed(CyxwizError):
    code, status = "failed", 500


class LoadFailed(Failed):
    code = "load_failed"


class RunFailed(Failed):
    code = "run_failed"


class Unsupported(CyxwizError):
    code, status = "unsupported", 501


class Unavailable(CyxwizError):
    """Try again after `retry_after_seconds`."""

    code, status, retryable = "unavailable", 503, True
    retry_after_seconds: ClassVar[int] = 1


class QueueFull(Unavailable):
    code = "queue_full"


class NoReplica(Unavailable):
    code = "no_replica"
    retry_after_seconds = 2


class ReplicaLost(Unavailable):
    code = "replica_lost"


class TimedOut(CyxwizError):
    code, status, retryable = "timed_out", 504, True


class OutOfSpace(CyxwizError):
    """RFC 4918, section 11.5."""

    code, status = "insufficient_storage", 507


def _leaves(root: type[CyxwizError]) -> dict[str, type[CyxwizError]]:
    return {root.code: root} | {code: cls for sub in root.__subclasses__() for code, cls in _leaves(sub).items()}


BY_CODE = _leaves(CyxwizError)
