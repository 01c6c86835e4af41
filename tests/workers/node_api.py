"""A control plane that speaks the node API over real HTTP, without a database;
the test decides what a node is told."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl

import msgspec

from protocol import messages, names
from protocol.messages import DesiredState, Failure, File, Heartbeat, JobSpec, MemoryPeak

NODE_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
JOIN_TOKEN = "cyxj_good"


class NodeApi:
    def __init__(self, broker_url: str) -> None:
        self.broker_url = broker_url
        self.token = "cyxn_first"
        self.desired = DesiredState()
        self.blobs: dict[str, bytes] = {}
        self.jobs: dict[str, JobSpec] = {}  # that may be accepted
        self.asked: list[str] = []  # jobs that the node wanted to accept
        self.heartbeats: list[Heartbeat] = []
        self.registrations: list[messages.Registration] = []
        self.results: dict[str, tuple[bytes, int]] = {}
        self.benchmarks: list[messages.Benchmarks] = []
        self.failures: dict[str, Failure] = {}
        self.peaks: dict[str, MemoryPeak] = {}  # by job
        self.requests: Counter[str] = Counter()
        self.down = False  # cuts every connection
        self.knows_ranges = True
        self.cut_after: int | None = None  # bytes of a blob, once per blob request
        self.results_down = 0  # or the status with which they are refused
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=[0.05], daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def file(self, content: bytes, path: str = "model.onnx") -> File:
        sha256 = hashlib.sha256(content).hexdigest()
        self.blobs[sha256] = content
        return File(path=path, sha256=sha256, size_bytes=len(content))

    def phases(self) -> dict[str, str]:
        """As last heard."""
        return {f"{r.id}:{r.fence}": r.phase for r in self.heartbeats[-1].replicas} if self.heartbeats else {}


class _Handler(BaseHTTPRequestHandler):
    api: NodeApi
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self._body()
        path = self.path.removeprefix("/api/node/v1")
        if self._unavailable(path):
            return
        if path == "/register":
            self._register(messages.decode(body, messages.Registration))
        elif self.headers.get("Authorization") != f"Bearer {self.api.token}":
            self._problem(401, "not_authenticated", "This node token is not valid.")
        elif path == "/heartbeat":
            self._heartbeat(messages.decode(body, Heartbeat))
        elif path == "/benchmarks":
            self._benchmarks(messages.decode(body, messages.Benchmarks))
        elif path.startswith("/jobs/"):
            self._job(path, body)
        else:
            self._problem(404, "not_found", "There is nothing at this address.")

    def do_GET(self) -> None:
        path = self.path.removeprefix("/api/node/v1")
        if self._unavailable(path):
            return
        content = self.api.blobs.get(path.removeprefix("/blobs/"))
        if self.headers.get("Authorization") != f"Bearer {self.api.token}" or content is None:
            self._problem(404, "not_found", "No replica or job of this node needs this blob.")
            return
        start = 0
        if (wanted := self.headers.get("Range")) and self.api.knows_ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        self.api.requests[f"blob from {start}"] += 1
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cut, self.api.cut_after = self.api.cut_after, None
        self.wfile.write(content[start:] if cut is None else content[start : start + cut])
        if cut is not None:
            self.close_connection = True

    def _register(self, registration: messages.Registration) -> None:
        if registration.token != JOIN_TOKEN:
            self._problem(401, "not_authenticated", "This join token is unknown, used or expired.")
            return
        self.api.registrations.append(registration)
        self._answer(
            messages.Registered(
                node_id=NODE_ID,
                name=registration.name or "tester",
                token=self.api.token,
                broker_url=self.api.broker_url,
                queues=[names.node_queue(NODE_ID), names.class_queue("cpu")],
            ),
            201,
        )

    def _heartbeat(self, heartbeat: Heartbeat) -> None:
        self.api.heartbeats.append(heartbeat)
        desired = self.api.desired
        self._answer(desired)
        if desired.token:
            self.api.token = desired.token
            self.api.desired = msgspec.structs.replace(self.api.desired, token=None)

    def _benchmarks(self, told: messages.Benchmarks) -> None:
        self.api.benchmarks.append(told)
        if self.api.desired.benchmark == told.asked:
            self.api.desired = msgspec.structs.replace(self.api.desired, benchmark="")
        self._send(204, b"", "application/json")

    def _job(self, path: str, body: bytes) -> None:
        _, _, job_id, action = path.split("/")
        action, _, query = action.partition("?")
        if action == "accept":
            self.api.asked.append(job_id)
            spec = self.api.jobs.pop(job_id, None)
            if spec is None:
                self._problem(409, "conflict", "This job does not wait any more.")
                return
            held = messages.Held(id=spec.id, fence=spec.fence)
            self.api.desired = msgspec.structs.replace(self.api.desired, jobs=[*self.api.desired.jobs, held])
            self._answer(spec)
            return
        if self.api.results_down:
            self._send(self.api.results_down, b"", "text/plain")
            return
        if action == "result":
            about = {key: int(value) for key, value in parse_qsl(query)}
            assert about.pop("fence")
            self.api.peaks[job_id] = MemoryPeak(**{key.removeprefix("peak_"): value for key, value in about.items()})
            self.api.results[job_id] = (body, int(self.headers.get("Inference-Header-Content-Length", 0)))
        else:
            failed = messages.decode(body, messages.JobFailure)
            self.api.failures[job_id], self.api.peaks[job_id] = failed.failure, failed.peak
        self._answer(None)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            raise AssertionError("Send the length: not every proxy lets chunked bodies through.")
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _unavailable(self, path: str) -> bool:
        self.api.requests[path.partition("?")[0]] += 1
        if self.api.down:
            self.close_connection = True
        return self.api.down

    def _answer(self, message: messages.Message | None, status: int = 200) -> None:
        self._send(status, messages.encode(message) if message else b"", "application/json")

    def _problem(self, status: int, code: str, detail: str) -> None:
        self._send(status, msgspec.json.encode({"code": code, "detail": detail}), "application/problem+json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
