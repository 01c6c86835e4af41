"""Whether models run on this machine's GPU as they do on its CPU: `python -m benchmarks.cuda`, on a node with an NVIDIA
GPU and PyTorch. Shows what the node says of its devices beside what nvidia-smi says; the digits model on the GPU, in
each sandbox, against the CPU; what loading and unloading leaves behind on the GPU; and how fast the device is.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from protocol import frames
from protocol.formats import PROGRAM_LEVEL
from protocol.messages import BenchmarkFacts, DeviceFacts
from protocol.tensors import Signature, TensorSpec
from workers.failures import AttemptFailed
from workers.hardware import libraries, machine, outside
from workers.runner.orders import Order
from workers.runner_process import RunnerProcess
from workers.runtimes.arrays import to_array, to_tensor
from workers.sandbox import levels
from workers.sandbox.cage import HIGHEST

DIGITS = Path(__file__).resolve().parents[1] / "examples" / "digits"
SIGNATURE = Signature(
    [TensorSpec("image", "FP32", [-1, 64])],
    [TensorSpec("probabilities", "FP32", [-1, 10]), TensorSpec("label", "INT64", [-1])],
)
FILES = {"torchscript": "digits.pt", "pt2": "digits.pt2"}
DEVICE = "cuda:0"
LOAD_SECONDS = 120
RUNS = 50
ROUNDS = 10
ASKED = (
    "name,uuid,memory.total,memory.free,driver_version,compute_cap,pcie.link.gen.gpucurrent,pcie.link.gen.max,"
    "pcie.link.width.current,pcie.link.width.max,temperature.gpu,power.draw,enforced.power.limit,ecc.mode.current,"
    "mig.mode.current"
)


class Outcome(NamedTuple):
    load_seconds: float
    run_ms: float  # the median of a batch of 360
    labels: np.ndarray
    probabilities: np.ndarray


def main() -> None:
    print(_nvidia_smi(f"--query-gpu={ASKED}"), _nvidia_smi("--query-compute-apps=pid,used_memory"), sep="\n")
    libraries.check_cuda()
    with tempfile.TemporaryDirectory() as home:
        hardware = machine.facts(Path(home))
    print(msgspec.json.format(msgspec.json.encode(hardware)).decode())
    for level in (HIGHEST, 1, 0):
        print(f"sandbox {level}: {levels.attempt(level) or 'holds'}")
    images = np.load(DIGITS / "heldout.npz")["images"].astype(np.float32)
    for format in FILES:
        expected = _run(format, "cpu", HIGHEST, images)
        print(f"{format} on the CPU: loaded in {expected.load_seconds:.1f} s, {expected.run_ms:.2f} ms a batch")
        for level in range(PROGRAM_LEVEL, HIGHEST + 1):
            _compare(format, level, images, expected)
    _rounds(images)
    for device in hardware.devices:
        print(_benchmark(device))


def _compare(format: str, level: int, images: np.ndarray, expected: Outcome) -> None:
    try:
        found = _run(format, DEVICE, level, images)
    except AttemptFailed as failed:
        print(f"{format} on {DEVICE}, sandbox {level}: {failed}")
        return
    difference = np.abs(found.probabilities - expected.probabilities).max()
    same = np.mean(found.labels == expected.labels)
    print(
        f"{format} on {DEVICE}, sandbox {level}: loaded in {found.load_seconds:.1f} s, {found.run_ms:.2f} ms a batch, "
        f"labels equal {same:.2%}, probabilities differ by {difference:.1e} at most"
    )


def _run(format: str, device: str, level: int, images: np.ndarray) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        runner = RunnerProcess(Path(folder), lambda _, line: print(f"    {line}"), level)
        try:
            started = time.monotonic()
            runner.load(_order(format, device), LOAD_SECONDS)
            loaded = time.monotonic() - started
            times = []
            for _ in range(RUNS):
                started = time.monotonic()
                answer = _ask(runner, images)
                times.append(time.monotonic() - started)
            return Outcome(loaded, float(np.median(times)) * 1000, answer["label"], answer["probabilities"])
        finally:
            runner.close()


def _order(format: str, device: str) -> Order:
    signature = SIGNATURE if format == "torchscript" else Signature()
    return Order(format, str(DIGITS), [FILES[format]], device, memory_bytes=1024**3, signature=signature)


def _ask(runner: RunnerProcess, images: np.ndarray) -> dict[str, np.ndarray]:
    asked = frames.Request(60_000, [to_tensor("image", images)], [])
    runner.send(frames.pack_request(bytes(16), bytes(16), bytes(8), asked))
    replies = runner.read()
    if not replies:
        raise runner.died()
    reply = frames.unpack_reply(replies[0])
    if isinstance(reply, frames.Error):
        raise AttemptFailed("load_failed", reply.message)
    return {tensor.name: to_array(tensor) for tensor in reply.outputs}


def _rounds(images: np.ndarray) -> None:
    """Of the device's memory, with and without a model."""
    used = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            runner = RunnerProcess(Path(folder), lambda *_: None)
            try:
                runner.load(_order("torchscript", DEVICE), LOAD_SECONDS)
                _ask(runner, images)
                taken = runner.measure()
                apps = _nvidia_smi("--query-compute-apps=pid,used_memory").splitlines()[1:]
                print(f"    runner {runner.pid}: measured {taken}; nvidia-smi tells of processes: {apps}")
                loaded = _used_mib()
            except AttemptFailed as failed:
                print(f"rounds: {failed}")
                return
            finally:
                runner.close()
        used.append((loaded, _used_mib()))
    print(f"MiB of the GPU used, loaded and unloaded: {used}")


def _used_mib() -> int:
    return int(_nvidia_smi("--query-gpu=memory.used").splitlines()[1].split()[0])


def _benchmark(device: DeviceFacts) -> BenchmarkFacts | str:
    try:
        words = msgspec.json.encode(device).decode()
        return outside.ask("workers.benchmark", words, kind=BenchmarkFacts, seconds=120)
    except Exception as error:
        return f"{device.name}: {error}"


def _nvidia_smi(*words: str) -> str:
    return subprocess.run(["nvidia-smi", *words, "--format=csv"], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
