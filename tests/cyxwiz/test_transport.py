"""What the client does when the network or the server behind it fails. The servers here are broken ones."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cyxwiz.errors import BadInput, CyxwizApiError, NotConfigured, NotUnderstood, Unreachable
from cyxwiz.secret import ApiKey
from cyxwiz.transport import Transport
from tests.with_services import free_port

OK = b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\n{"a": 1}'
CUT = b'HTTP/1.1 200 OK\r\nContent-Length: 800\r\n\r\n{"a'


class Server:
    """Answers each connection with the next of `answers`, and keeps what it was asked."""

    def __init__(self, answers: list[bytes]) -> None:
        self.asked: list[str] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, args=(answers,))
        self._thread.start()

    def _serve(self, answers: list[bytes]) -> None:
        for answer in answers:
            connection, _ = self._listening.accept()
            with connection:
                request = connection.recv(65536)
                if not request:
                    return
                self.asked.append(request.decode())
                connection.sendall(answer)

    def close(self) -> None:
        if self._thread.is_alive():
            socket.create_connection(self._listening.getsockname()).close()
        self._thread.join(5)
        self._listening.close()


@contextmanager
def serving(*answers: bytes) -> Iterator[tuple[Server, Transport]]:
    server = Server(list(answers))
    transport = Transport(server.url, ApiKey("cyx_1_2"), timeout=5, retry_delays=[0, 0])
    try:
        yield server, transport
    finally:
        transport.close()
        server.close()


def test_what_changes_nothing_is_asked_again():
    with serving(b"", CUT, OK) as (server, transport):
        assert transport.json("GET", "/x") == {"a": 1}
        assert len(server.asked) == 3
        assert all("Authorization: Bearer cyx_1_2\r\n" in request for request in server.asked)


def test_in_the_end_it_gives_up():
    with serving(b"", b"", b"", OK) as (server, transport):
        with pytest.raises(Unreachable, match="broke"):
            transport.json("GET", "/x")
        assert len(server.asked) == 3


def test_what_may_have_happened_is_not_asked_again_unless_it_may_be():
    with serving(b"", OK) as (server, transport):
        with pytest.raises(Unreachable):
            transport.json("POST", "/x", body={})
        assert len(server.asked) == 1
        assert transport.json("POST", "/x", body={}) == {"a": 1}
    with serving(b"", OK) as (_, transport):
        assert transport.json("POST", "/x", body={}, repeatable=True) == {"a": 1}


def test_what_never_arrived_is_always_sent_again():
    transport = Transport(f"http://127.0.0.1:{free_port()}", None, retry_delays=[0, 0])
    with pytest.raises(Unreachable, match="No CyxWiz server answers") as caught:
        transport.json("POST", "/x", body={})
    assert not caught.value.sent


def test_a_server_that_is_silent_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        transport = Transport(f"http://127.0.0.1:{listening.getsockname()[1]}", None, timeout=0.1, retry_delays=[])
        with pytest.raises(Unreachable, match="in time") as caught:
            transport.json("GET", "/x")
        assert caught.value.slow


def test_an_answer_of_something_else_is_named():
    page = b"<html>hello</html>"
    html = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(page), page)
    with serving(html, OK) as (_, transport):
        with pytest.raises(NotUnderstood, match="Is this a CyxWiz server"):
            transport.json("GET", "/x")
        with pytest.raises(NotUnderstood, match="Is this a CyxWiz server"):
            list(transport.pages("/x"))


def test_a_redirect_is_not_followed_with_the_key():
    moved = b"HTTP/1.1 301 Moved\r\nLocation: https://new.example/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with serving(moved) as (_, transport), pytest.raises(NotConfigured, match="points to https"):
        transport.json("GET", "/x")


def test_pages_stay_with_the_server_that_was_asked():
    def page(body: bytes) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)

    first = page(b'{"results": [{"n": 1}], "next": "http://evil.example/list?page=2&page_size=1"}')
    with serving(first, page(b'{"results": [{"n": 2}], "next": null}')) as (server, transport):
        assert [item["n"] for item in transport.pages("/list")] == [1, 2]
        assert server.asked[1].startswith("GET /list?page=2&page_size=1 ")


@pytest.mark.parametrize(
    ("body", "code", "detail"),
    [
        (b'{"error": "no such model"}', "http_404", "no such model"),
        (b'{"code": "not_found", "detail": "gone", "request_id": "r1"}', "not_found", "gone"),
        (b"<h1>404</h1>", "http_404", "answered 404"),
    ],
)
def test_refusals_of_every_kind_are_read(body, code, detail):
    head = b"HTTP/1.1 404 Not Found\r\nX-Request-Id: r1\r\nConnection: close\r\nContent-Length: "
    with serving(head + str(len(body)).encode() + b"\r\n\r\n" + body) as (_, transport):
        with pytest.raises(CyxwizApiError, match=detail) as caught:
            transport.json("GET", "/x")
        assert (caught.value.code, caught.value.request_id) == (code, "r1")


def answer(status: str, body: bytes, length: int) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n".encode() + body


def test_a_download_that_breaks_goes_on_where_it_stopped(tmp_path):
    target = tmp_path / "result.npz"
    with serving(answer("200 OK", b"abc", 8), answer("206 Partial Content", b"defgh", 5)) as (server, transport):
        transport.download("/x", target)
        assert "Range" not in server.asked[0]
        assert "Range: bytes=3-\r\n" in server.asked[1]
    assert target.read_bytes() == b"abcdefgh"
    with serving(answer("200 OK", b"abc", 8), answer("200 OK", b"abcdefgh", 8)) as (_, transport):
        transport.download("/x", target)  # from a server that knows no ranges
    assert target.read_bytes() == b"abcdefgh"


def test_a_download_is_there_whole_or_not_at_all(tmp_path):
    target = tmp_path / "result.npz"
    refused = answer("409 Conflict", b'{"code": "conflict", "detail": "not yet"}', 41)
    with serving(refused) as (_, transport), pytest.raises(CyxwizApiError, match="not yet"):
        transport.download("/x", target)
    with serving(*[answer("200 OK", b"abc", 8)] * 3) as (_, transport), pytest.raises(Unreachable, match="broke"):
        transport.download("/x", target)
    assert list(tmp_path.iterdir()) == []
    with serving() as (_, transport), pytest.raises(BadInput, match="cannot be written"):
        transport.download("/x", tmp_path / "nosuch" / "result.npz")
