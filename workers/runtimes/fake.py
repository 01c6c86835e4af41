"""The runtime for trying out a fleet without a model: it gives back its inputs, and misbehaves on request.

Options of the deployment:  load_seconds, fail_load, exit_on_load, out_of_memory, sleep_seconds (for every request)
Commands, in a BYTES input named `command`:  "sleep 0.5", "fail WORDS", "bad WORDS", "exit 3", "abort", "print WORDS";
and to try the sandbox:  "allocate BYTES", "litter FILES", "threads NUMBER", "flood" (prints for ever), "babble"
(answers nobody, for ever)
"""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

from protocol import options as known_options
from protocol.errors import BadRequest, LoadFailed, RunFailed
from protocol.frames import LENGTH
from protocol.tensors import TensorSpec
from workers.runtimes.base import Arrays, Artifact, Inputs

COMMAND = "command"
BABBLE_BYTES = 1024**2
LITTER_BYTES = 512 * 1024
LEAST_STACK_BYTES = 32 * 1024


class FakeRuntime:
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []

    def __init__(self) -> None:
        self._sleep_seconds = 0.0

    def load(self, artifact: Artifact) -> None:
        options = {name: known_options.read("fake", artifact.options, name) for name in known_options.BY_FORMAT["fake"]}
        self._sleep_seconds = options["sleep_seconds"]
        print(f"fake model loading from {len(artifact.files)} files", flush=True)
        time.sleep(options["load_seconds"])
        if options["exit_on_load"] is not None:
            os._exit(options["exit_on_load"])
        if options["out_of_memory"]:
            raise MemoryError("The fake model wants more memory than there is.")
        if options["fail_load"] is not None:
            raise LoadFailed(options["fail_load"])

    def run(self, batch: list[Inputs]) -> list[Arrays]:
        return [self._run(inputs) for inputs in batch]

    def _run(self, inputs: Inputs) -> Arrays:
        if self._sleep_seconds:
            time.sleep(self._sleep_seconds)
        if COMMAND in inputs.arrays:
            for command in inputs.arrays[COMMAND].flat:
                _obey(*str(command).partition(" ")[::2])
        if strange := [name for name in inputs.wanted if name not in inputs.arrays]:
            raise BadRequest(f"The model has no output '{strange[0]}'.")
        return {name: inputs.arrays[name] for name in inputs.wanted or inputs.arrays}

    def unload(self) -> None:
        pass


def _obey(verb: str, rest: str) -> None:
    match verb:
        case "sleep":
            time.sleep(float(rest))
        case "fail":
            raise RunFailed(rest)
        case "bad":
            raise BadRequest(rest)
        case "exit":
            os._exit(int(rest))
        case "abort":
            os.abort()
        case "print":
            print(rest, flush=True)
        case "allocate":
            bytes(int(rest))
        case "litter":
            for number in range(int(rest)):
                Path(f"litter-{number}").write_bytes(b"x" * LITTER_BYTES)
        case "threads":
            threading.stack_size(LEAST_STACK_BYTES)
            for _ in range(int(rest)):
                threading.Thread(target=time.sleep, args=[60], daemon=True).start()
        case "flood":
            while True:
                print("water " * 100)
        case "babble":
            agent = next(fd for fd in range(3, 256) if "/socket:" in os.path.realpath(f"/proc/self/fd/{fd}"))
            with socket.socket(fileno=os.dup(agent)) as sock:
                while True:
                    sock.sendall(LENGTH.pack(BABBLE_BYTES) + bytes(BABBLE_BYTES))
        case _:
            raise BadRequest(f"The fake model knows no command '{verb}'.")
