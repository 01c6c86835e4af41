"""How long a prediction takes and how many fit into a second, over the whole path (HTTP, gateway, Redis, node agent,
model process), beside the same model called in-process in the same run.

    python -m benchmarks.predict                                    starts a quickstart of its own
    python -m benchmarks.predict --url URL --key KEY --model NAME   measures a running one

Figures are for reading: nothing is asserted, since the machine and its other users decide them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import numpy as np
import onnxruntime
import psutil

from benchmarks import quickstart
from benchmarks.http_load import Outcome, load, post

DIGITS = quickstart.PROJECT / "examples" / "digits" / "digits.onnx"
CLIENTS = (1, 32)
NUMPY = {"BOOL": "?", "FP16": "f2", "FP32": "f4", "FP64": "f8"} | {
    f"{sign}INT{bits}": f"{sign.lower() or 'i'}{bits // 8}" for sign in ("U", "") for bits in (8, 16, 32, 64)
}


def main() -> None:
    arguments = _arguments()
    if arguments.url:
        _measure(arguments.url, arguments.key, arguments.model, arguments, {})
        return
    with quickstart.started() as state:
        quickstart.deploy(state, arguments.model, DIGITS)
        _measure(state["url"], state["api_key"], arguments.model, arguments, state["pids"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of a running CyxWiz; without it one is started, and ended again")
    parser.add_argument("--key", help="an API key of it", default=os.environ.get("CYXWIZ_API_KEY"))
    parser.add_argument("--model", help="the deployment to ask (default: digits)", default="digits")
    parser.add_argument("--onnx", type=Path, default=DIGITS, help="the same model, for the run in-process")
    parser.add_argument("--batch", type=int, default=1, help="rows in each request (default: 1)")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each figure (default: 5)")
    arguments = parser.parse_args()
    if arguments.url and not arguments.key:
        parser.error("--url needs --key (or CYXWIZ_API_KEY)")
    return arguments


def _measure(url: str, key: str, model: str, arguments: argparse.Namespace, pids: dict[str, int]) -> None:
    where = urlsplit(url)
    address = (where.hostname or "127.0.0.1", where.port or 80)
    request = _request(url, key, model, arguments.batch)
    load(address, request, clients=4, seconds=1)  # everything has run once
    print(f"\n{'':28}{'p50 ms':>9}{'p99 ms':>9}{'requests/s':>12}   CPU µs per request", flush=True)
    _show("onnxruntime, in-process", _in_process(arguments.onnx, arguments.batch, arguments.seconds), "")
    for clients in CLIENTS:
        before = _cpu_seconds(pids)
        outcome = load(address, request, clients=clients, seconds=arguments.seconds)
        _show(
            f"/v2, {clients} client{'s'[: clients > 1]}", outcome, _cpu_per_request(before, _cpu_seconds(pids), outcome)
        )
    print(f"\nLoad of the machine meanwhile: {os.getloadavg()[0]:.1f}, on {os.cpu_count()} cores.")


def _show(what: str, outcome: Outcome, more: str) -> None:
    if not outcome.latencies:
        sys.exit(f"{what}: no request succeeded. The first answer was:\n{outcome.failures[0]}")
    failed = f"   {len(outcome.failures)} failed" if outcome.failures else ""
    p50, p99 = outcome.percentile_ms(0.5), outcome.percentile_ms(0.99)
    print(f"{what:28}{p50:9.3f}{p99:9.3f}{outcome.per_second:12,.0f}   {more}{failed}", flush=True)


def _request(url: str, key: str, model: str, batch: int) -> bytes:
    """What tritonclient sends in its default settings: every tensor in binary form, both ways."""
    path = f"/v2/models/{model}"
    answer = httpx2.get(f"{url}{path}", headers={"Authorization": f"Bearer {key}"})
    if answer.status_code != 200:
        sys.exit(f"{path}: {answer.json().get('error', answer.text)}")
    heads, raw = [], b""
    for spec in answer.json()["inputs"]:
        tensor = _values(spec["shape"], NUMPY[spec["datatype"]], batch).tobytes()
        shape = [batch if size == -1 else size for size in spec["shape"]]
        parameters = {"binary_data_size": len(tensor)}
        heads.append({"name": spec["name"], "datatype": spec["datatype"], "shape": shape, "parameters": parameters})
        raw += tensor
    head = json.dumps({"inputs": heads, "parameters": {"binary_data_output": True}}).encode()
    headers = {"Authorization": f"Bearer {key}", "Inference-Header-Content-Length": str(len(head))}
    return post(urlsplit(url).netloc, f"{path}/infer", head + raw, headers)


def _values(shape: list[int], kind: str, batch: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return (rng.random([batch if size == -1 else size for size in shape]) * 16).astype(kind)


def _in_process(onnx: Path, batch: int, seconds: float) -> Outcome:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": "f4", "tensor(double)": "f8", "tensor(int64)": "i8", "tensor(int32)": "i4"}
    feed = {
        one.name: _values([size if isinstance(size, int) else -1 for size in one.shape], kinds[one.type], batch)
        for one in session.get_inputs()
    }
    outcome = Outcome()
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        begun = time.perf_counter()
        session.run(None, feed)
        outcome.latencies.append(time.perf_counter() - begun)
    outcome.seconds = time.perf_counter() - started
    return outcome


def _cpu_seconds(pids: dict[str, int]) -> dict[str, float]:
    """By process, each with its children; and our own."""
    spent = {"load": time.process_time()}
    for name, pid in pids.items():
        if name == "quickstart":
            continue
        try:
            process = psutil.Process(pid)
            spent[name] = sum(sum(one.cpu_times()[:2]) for one in [process, *process.children(recursive=True)])
        except psutil.NoSuchProcess:
            continue
    return spent


def _cpu_per_request(before: dict[str, float], after: dict[str, float], outcome: Outcome) -> str:
    spent = {name: (after[name] - before.get(name, 0.0)) / len(outcome.latencies) * 1e6 for name in after}
    return ", ".join(f"{name} {cost:.0f}" for name, cost in spent.items() if cost >= 1)


if __name__ == "__main__":
    main()
