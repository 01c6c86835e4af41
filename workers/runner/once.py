"""Runs over files of inputs, one for each job. Inputs and result go by disk, so they never pass through the agent."""

from __future__ import annotations

import socket
import time
import traceback
from pathlib import Path

from msgspec.structs import replace

from protocol import oip
from protocol.errors import RunFailed
from workers import wire
from workers.failures import describe
from workers.runner import over_rows
from workers.runner.orders import Finished, Progress, Run, decode, tell
from workers.runtimes.arrays import to_array, to_tensor
from workers.runtimes.base import Inputs, Runtime

PROGRESS_SECONDS = 0.5


def serve(sock: socket.socket, reader: wire.FrameReader, runtime: Runtime, arrived: list[tuple[int, bytes]]) -> None:
    """Until the agent closes the socket."""
    while arrived or (arrived := reader.read()):
        for _, frame in arrived:
            tell(sock, run(runtime, decode(frame, Run), _Told(sock)))
        arrived = []


def run(runtime: Runtime, task: Run, progress: over_rows.Progress) -> Finished:
    try:
        if task.over_rows is not None:
            over_rows.run(runtime, task.over_rows, Path(task.inputs), Path(task.result), progress)
            return Finished()
        return Finished(header_bytes=_run(runtime, task))
    except Exception as error:
        failure = describe(error, RunFailed.code)
        if failure.code == RunFailed.code:
            traceback.print_exc()
        return Finished(failure=failure)


class _Told:
    """Progress for the agent, not too often."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._at = time.monotonic()

    def __call__(self, rows_done: int) -> None:
        if time.monotonic() - self._at > PROGRESS_SECONDS:
            self._at = time.monotonic()
            tell(self._sock, Progress(rows_done))


def _run(runtime: Runtime, task: Run) -> int:
    """How long the JSON of the result is."""
    request = oip.read_request(Path(task.inputs).read_bytes(), task.inputs_header_bytes, runtime.inputs)
    if runtime.inputs:
        oip.check_inputs(request, runtime.inputs)
        oip.check_outputs(request, runtime.outputs)
    arrays = {tensor.name: to_array(tensor) for tensor in request.inputs}
    found = runtime.run([Inputs(arrays, request.output_names)])[0]
    # A result is kept in binary form whatever the request asked for; JSON is made of it when somebody wants to see it.
    binary = replace(
        request, binary_output=True, outputs=[oip.RequestedOutput(name, binary=True) for name in request.output_names]
    )
    body, header_bytes = oip.write_response(
        binary,
        model_name=task.model,
        model_version="",
        outputs=[to_tensor(name, array) for name, array in found.items()],
    )
    Path(task.result).write_bytes(body)
    return len(body) if header_bytes is None else header_bytes
