"""What running callers' requests together brings, and what it costs who is alone: one runner process with batching and
one without, measured in turns, so that both see the same machine.

    python -m benchmarks.batching [--model FILE.onnx] [--seconds 3]

Requests go straight to the runner; what gateway and Redis take beside it is in `benchmarks.predict`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks.http_load import Outcome
from protocol import frames
from workers.runner.orders import Order
from workers.runner_process import RunnerProcess
from workers.runtimes.arrays import to_tensor

OUTSTANDING = (1, 32)
ROUNDS = 3
WAYS = {"one by one": "off", "together": {"max_size": 64, "max_delay_ms": 5}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="default: a multi-layer perceptron of 3 M parameters, made here")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure and round (default: 2)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.model or _perceptron(Path(folder) / "model.onnx")
        for outstanding in OUTSTANDING:
            outcomes = {way: Outcome() for way in WAYS}
            for _ in range(ROUNDS):
                for way, batching in WAYS.items():
                    with _runner(path, batching) as runner:
                        _load(runner, _request(path), outstanding, 0.5, Outcome())  # until it knows what a run costs
                        _load(runner, _request(path), outstanding, arguments.seconds, outcomes[way])
            _show(outstanding, outcomes)


@contextmanager
def _runner(path: Path, batching: object) -> Iterator[RunnerProcess]:
    with tempfile.TemporaryDirectory() as scratch:
        runner = RunnerProcess(Path(scratch), lambda _, line: print(line))
        try:
            runner.load(Order("onnx", str(path.resolve().parent), [path.name], "cpu", 1, {"batching": batching}), 60)
            yield runner
        finally:
            runner.close()


def _load(runner: RunnerProcess, request: frames.Request, outstanding: int, seconds: float, outcome: Outcome) -> None:
    """Every caller asks again as soon as it has its answer."""
    sent: dict[bytes, float] = {}

    def ask(key: bytes) -> None:
        sent[key] = time.perf_counter()
        runner.send(frames.pack_request(b"r" * 16, key[:16], key[16:], request))

    started = time.perf_counter()
    for number in range(outstanding):
        ask(number.to_bytes(24))
    while sent:
        for frame in runner.read():
            now = time.perf_counter()
            outcome.latencies.append(now - sent.pop(frame[:24]))
            if now - started < seconds:
                ask(frame[:24])
    outcome.seconds += time.perf_counter() - started


def _show(outstanding: int, outcomes: dict[str, Outcome]) -> None:
    print(f"{outstanding} outstanding", flush=True)
    for way, outcome in outcomes.items():
        p50, p99 = outcome.percentile_ms(0.5), outcome.percentile_ms(0.99)
        print(f"  {way:12} p50 {p50:8.3f} ms   p99 {p99:8.3f} ms {outcome.per_second:10,.0f} requests/s")
    alone, together = outcomes.values()
    print(
        f"  together / one by one: requests/s {together.per_second / alone.per_second:.2f}, "
        f"p50 {together.percentile_ms(0.5) / alone.percentile_ms(0.5):.2f}"
    )


def _request(path: Path) -> frames.Request:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    tensors = []
    for spec in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in spec.shape]
        kind = "f4" if spec.type == "tensor(float)" else "f8" if spec.type == "tensor(double)" else "i8"
        tensors.append(to_tensor(spec.name, (rng.random(shape) * 8).astype(kind)))
    return frames.Request(60_000, tensors, [])


def _perceptron(path: Path, width: int = 1024, layers: int = 3) -> Path:
    rng = np.random.default_rng(1)
    weights = [rng.standard_normal((width, width), dtype="f4") / 32 for _ in range(layers)]
    nodes, last = [], "x"
    for layer in range(layers):
        nodes += [
            helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]),
            helper.make_node("Relu", [f"m{layer}"], ["y" if layer == layers - 1 else f"r{layer}"]),
        ]
        last = f"r{layer}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", width])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", width])
    stored = [numpy_helper.from_array(weight, f"w{layer}") for layer, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "perceptron", [x], [y], stored)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(made.SerializeToString())
    return path


if __name__ == "__main__":
    main()
