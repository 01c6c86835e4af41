"""Requests to one CyxWiz server: the key goes along, errors become ours, what may safely be repeated is.

Errors are raised outside the `except` blocks, so that no frame of the HTTP library, whose locals hold the
Authorization header, hangs on what the caller sees.
"""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import httpx2
import msgspec

from cyxwiz import __version__
from cyxwiz.address import checked_url
from cyxwiz.errors import BadInput, CyxwizApiError, CyxwizError, NotConfigured, NotUnderstood, Unreachable
from cyxwiz.secret import ApiKey

SAFE_TO_REPEAT = frozenset({"GET", "HEAD", "PUT", "DELETE"})
RETRY_DELAYS = (0.2, 1.0)  # seconds before each further try
CONNECT_TIMEOUT = 5.0
UPLOAD_TIMEOUT = 600.0  # the server checks a large file before it answers
JSON = "application/json"

NAMED = re.compile(r"/api/v1/(model|deployment|job|node)s/([^/]+)/(?:versions/(\d+)/)?")

R = TypeVar("R")
Params = Mapping[str, str | int | None]


def read(raw: object, kind: type[R]) -> R:
    """`raw` as the dataclass `kind`, which keeps the original in its field `raw`. Unknown fields are ignored, so that a
    newer server does not break an older client."""
    try:
        return msgspec.convert({**raw, "raw": raw} if isinstance(raw, dict) else raw, kind)
    except msgspec.ValidationError as error:
        why = str(error)
    raise NotUnderstood(
        f"The server describes a {kind.__name__} in a way this client does not know ({why}). Update it."
    )


class KeyAuth(httpx2.Auth):
    def __init__(self, key: ApiKey) -> None:
        self._key = key

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._key.reveal()}"
        yield request


class Transport:
    def __init__(
        self, url: str, key: ApiKey | None, *, timeout: float = 60.0, retry_delays: Sequence[float] = RETRY_DELAYS
    ) -> None:
        self.url = checked_url(url)
        self._retry_delays = tuple(retry_delays)
        self._timeout = httpx2.Timeout(timeout, connect=CONNECT_TIMEOUT)
        self._http = httpx2.Client(
            auth=KeyAuth(key) if key else None,
            headers={"User-Agent": f"cyxwiz/{__version__}", "Accept": f"{JSON}, application/problem+json"},
        )

    def __repr__(self) -> str:
        return f"<Transport {self.url}>"

    def close(self) -> None:
        self._http.close()

    def json(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool | None = None,
    ) -> Any:
        """The answer's JSON, None if it is empty."""
        content = None if body is None else msgspec.json.encode(body)
        given = {**({"Content-Type": JSON} if content is not None else {}), **(headers or {})}
        response = self.send(method, path, params=params, content=content, headers=given, repeatable=repeatable)
        return decoded(response)

    def pages(self, path: str, params: Params | None = None) -> Iterator[dict[str, Any]]:
        """Every item of a paginated list."""
        while True:
            page = self.json("GET", path, params=params)
            if isinstance(page, list):
                yield from page
                return
            if not isinstance(page, dict) or not isinstance(page.get("results"), list):
                raise NotUnderstood(f"{self.url}{path} did not answer with a list. Is this a CyxWiz server?")
            yield from page["results"]
            if not page.get("next"):
                return
            # Only its query: behind a proxy the server may not know its own address, and the key stays with ours.
            params = dict(parse_qsl(urlsplit(page["next"]).query))

    def upload(
        self, path: str, chunks: Iterable[bytes], *, size: int, params: Params, headers: Mapping[str, str] | None = None
    ) -> Any:
        """Streams a request body of `size` bytes."""
        given = {"Content-Type": "application/octet-stream", "Content-Length": str(size), **(headers or {})}
        timeout = httpx2.Timeout(UPLOAD_TIMEOUT, connect=CONNECT_TIMEOUT)
        return decoded(self.send("POST", path, params=params, content=chunks, headers=given, timeout=timeout))

    def download(self, path: str, target: Path) -> None:
        """Into `target`, through a file beside it. What breaks goes on where it stopped."""
        part = target.with_name(f"{target.name}.part")
        try:
            with part.open("wb") as file:
                for delay in (*self._retry_delays, None):
                    outcome = self._continue(path, file)
                    if outcome is None:
                        break
                    if delay is None or not isinstance(outcome, Unreachable):
                        raise outcome
                    time.sleep(delay)
            part.replace(target)
        except OSError as error:
            why = BadInput(f"{target} cannot be written: {error.strerror or error}.")
        else:
            return
        finally:
            part.unlink(missing_ok=True)
        raise why

    def _continue(self, path: str, file: BinaryIO) -> CyxwizError | None:
        had = file.tell()
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"} | ({"Range": f"bytes={had}-"} if had else {})
        request = self._http.build_request("GET", self.url + path, headers=headers, timeout=self._timeout)
        outcome = self._once(request, stream=True)
        if not isinstance(outcome, httpx2.Response):
            return outcome
        try:
            if had and outcome.status_code != 206:
                file.seek(0)
                file.truncate()
            for chunk in outcome.iter_raw():  # as it comes: what is held back would be lost when it breaks
                file.write(chunk)
        except httpx2.HTTPError as error:
            return Unreachable(f"The connection to {self.url} broke ({_words(error)}).")
        finally:
            outcome.close()
        return None

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        content: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool | None = None,
        timeout: httpx2.Timeout | None = None,
    ) -> httpx2.Response:
        """The answer, if it is a good one. Repeated when the connection failed and repeating can do no harm."""
        if repeatable is None:
            repeatable = method in SAFE_TO_REPEAT
        request = self._http.build_request(
            method,
            self.url + path,
            params={name: value for name, value in (params or {}).items() if value is not None} or None,
            content=content,
            headers=dict(headers or {}),
            timeout=timeout or self._timeout,
        )
        streamed = not isinstance(content, bytes | None)
        for delay in (*self._retry_delays, None):
            outcome = self._once(request)
            if isinstance(outcome, httpx2.Response):
                return outcome
            again = isinstance(outcome, Unreachable) and not streamed and (repeatable or not outcome.sent)
            if delay is None or not again:
                raise outcome
            time.sleep(delay)
        raise AssertionError("the loop ends by return or raise")

    def _once(self, request: httpx2.Request, *, stream: bool = False) -> httpx2.Response | CyxwizError:
        try:
            response = self._http.send(request, stream=stream)
            if stream and not response.is_success:
                response.read()
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            return Unreachable(
                f"No CyxWiz server answers at {self.url} ({_words(error)}). Is it running, and is the address right?",
                sent=False,
            )
        except httpx2.TimeoutException as error:
            return Unreachable(f"{self.url} did not answer in time ({_words(error)}).", slow=True)
        except httpx2.HTTPError as error:
            return Unreachable(f"The connection to {self.url} broke ({_words(error)}).")
        return response if response.is_success else refusal(response)


def at(collection: str, name: str) -> str:
    """The path of one thing of a collection."""
    if not name or "/" in name or not name.strip("."):
        raise BadInput(f"{name!r} is no name. Names have letters, digits, '-', '_' and '.'.")
    return f"{collection}{quote(name, safe='')}/"


def decoded(response: httpx2.Response) -> Any:
    if not response.content:
        return None
    try:
        return msgspec.json.decode(response.content)
    except msgspec.DecodeError:
        pass
    raise NotUnderstood(f"{response.url.copy_with(query=None)} did not answer with JSON. Is this a CyxWiz server?")


def refusal(response: httpx2.Response) -> CyxwizError:
    """What the server's error answer says: RFC 9457 problem details from the API, `{"error": …}` from /v2."""
    if response.is_redirect:
        where = response.headers.get("Location", "elsewhere")
        return NotConfigured(f"{response.url} is not the server's address: it points to {where}. Use that one.")
    try:
        body = msgspec.json.decode(response.content)
    except msgspec.DecodeError:
        body = None
    if not isinstance(body, dict):
        body = {}
    detail = body.get("detail") or body.get("error") or f"The server answered {response.status_code}, without a reason."
    if response.status_code == 404 and (named := NAMED.search(response.url.raw_path.decode())):
        # The server says only that there is nothing at this address.
        kind, name, version = named.groups()
        detail = f"You have no {f'version {version} of a ' if version else ''}{kind} {unquote(name)!r}."
    return CyxwizApiError(
        status=response.status_code,
        code=str(body.get("code") or f"http_{response.status_code}"),
        detail=str(detail),
        request_id=str(body.get("request_id") or response.headers.get("X-Request-Id", "")),
    )


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
