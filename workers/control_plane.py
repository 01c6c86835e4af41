"""The node API of the control plane, over HTTPS. Every refusal is one of `protocol.errors`, in its own words; no answer
is `Unavailable`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode

import httpx2
import msgspec

from protocol import messages, oip
from protocol.errors import BY_CODE, CyxwizError, Failed, Unavailable
from protocol.messages import HEARTBEAT_SECONDS

PATH = "/api/node/v1"

M = TypeVar("M", bound=messages.Message)


class ControlPlane:
    def __init__(self, url: str, token: str | None = None) -> None:
        self._client = httpx2.Client(
            base_url=url.rstrip("/") + PATH,
            timeout=httpx2.Timeout(30, connect=5),
            headers={"User-Agent": "cyxwiz-node"},
            follow_redirects=False,  # the token is for this address only
        )
        self._token = token

    def use_token(self, token: str) -> None:
        self._token = token

    def close(self) -> None:
        self._client.close()

    def register(self, registration: messages.Registration) -> messages.Registered:
        return messages.decode(self._post("/register", messages.encode(registration)), messages.Registered)

    def heartbeat(
        self, heartbeat: messages.Heartbeat, timeout_seconds: float = HEARTBEAT_SECONDS
    ) -> messages.DesiredState:
        body = self._post("/heartbeat", messages.encode(heartbeat), timeout=timeout_seconds)
        return messages.decode(body, messages.DesiredState)

    def accept(self, job_id: str) -> messages.JobSpec:
        """Raises Conflict when the job is not for us. Never repeated: the answer that got lost may have been yes."""
        return messages.decode(self._post(f"/jobs/{job_id}/accept", b""), messages.JobSpec)

    def send_result(self, job_id: str, fence: int, body: Path, header_bytes: int, peak: messages.MemoryPeak) -> None:
        """`header_bytes`: 0 for the result over a data set, which is a file as it is."""
        peaks = {f"peak_{name}": value for name, value in msgspec.structs.asdict(peak).items() if value is not None}
        about = {"fence": fence, **peaks}
        with body.open("rb") as file:
            size = body.stat().st_size
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
            if header_bytes:
                headers[oip.HEADER] = str(header_bytes)
            chunks = iter(lambda: file.read(1 << 20), b"")
            self._post(f"/jobs/{job_id}/result?{urlencode(about)}", chunks, headers=headers)

    def send_failure(self, job_id: str, failure: messages.JobFailure) -> None:
        self._post(f"/jobs/{job_id}/failure", messages.encode(failure))

    def accept_terminal(self, session_id: str) -> messages.TerminalSpec:
        """Raises Conflict when it does not wait (any more)."""
        return messages.decode(self._post(f"/terminals/{session_id}/accept", b""), messages.TerminalSpec)

    def terminal_ended(self, session_id: str, ended: messages.TerminalEnded) -> None:
        self._post(f"/terminals/{session_id}/ended", messages.encode(ended))

    def send_benchmarks(self, benchmarks: messages.Benchmarks) -> None:
        self._post("/benchmarks", messages.encode(benchmarks))

    @contextmanager
    def blob(self, sha256: str, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """(where the bytes begin, the bytes): at `start`, or at 0 from a server that knows no ranges."""
        headers = self._headers({"Range": f"bytes={start}-", "Accept-Encoding": "identity"} if start else {})
        with _translated(), self._client.stream("GET", f"/blobs/{sha256}", headers=headers) as response:
            _check(response)
            yield (start if response.status_code == 206 else 0), response.iter_bytes(1 << 20)

    def _post(
        self,
        path: str,
        body: bytes | Iterator[bytes],
        headers: dict[str, str] | None = None,
        timeout: float | None = None,
    ) -> bytes:
        with _translated():
            response = self._client.post(
                path,
                content=body,
                headers=self._headers({"Content-Type": "application/json", **(headers or {})}),
                timeout=self._client.timeout if timeout is None else timeout,
            )
            _check(response)
            return response.content

    def _headers(self, more: dict[str, str]) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}", **more} if self._token else more


class _Problem(msgspec.Struct):
    code: str = ""
    detail: str = ""


def _check(response: httpx2.Response) -> None:
    """Raises what the control plane means by an answer that is no success."""
    if response.is_success:
        return
    response.read()
    try:
        problem = msgspec.json.decode(response.content, type=_Problem)
    except msgspec.DecodeError:
        problem = _Problem()
    words = problem.detail or f"The control plane answered {response.status_code} {response.reason_phrase}."
    if problem.code in BY_CODE:
        raise BY_CODE[problem.code](words)
    # From something between us and the control plane, which knows no codes.
    by_status = {kind.status: kind for kind in CyxwizError.__subclasses__()}
    raise by_status.get(response.status_code, Unavailable if response.status_code > 500 else Failed)(words)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except httpx2.TransportError as error:
        reason = str(error) or type(error).__name__
        raise Unavailable(f"The control plane does not answer: {reason}") from error
    except httpx2.InvalidURL as error:
        raise Failed(f"The control plane's address is not valid: {error}") from error
