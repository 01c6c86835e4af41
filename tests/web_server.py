"""A real uvicorn around an ASGI application, for tests over real sockets."""

from __future__ import annotations

import socket
import threading

import uvicorn

from cyxwiz_site.http_protocol import OneWrite
from cyxwiz_site.websocket_protocol import Paced
from tests.waiting import until


class Server:
    """An ASGI application under uvicorn, in a thread of its own."""

    def __init__(self, application: object) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            application, loop="uvloop", http=OneWrite, ws=Paced, lifespan="off", log_config=None, access_log=False
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Server:
        self._thread.start()
        until(lambda: self._server.started)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)
