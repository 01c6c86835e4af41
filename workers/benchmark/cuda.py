"""CUDA devices by PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from workers.benchmark.figures import Figures, best_seconds
from workers.hardware.probing import CannotTell

ORDER = 4096  # of the matrices
MOST_BYTES = 512 * 1024**2


def measure() -> Figures:
    """Of the only device that CUDA is shown (see `settings.show_only`). Raises CannotTell."""
    if find_spec("torch") is None:
        raise CannotTell("torch is not installed on this node")
    import torch

    if not torch.cuda.is_available():
        raise CannotTell(f"PyTorch {torch.__version__} can use no CUDA device")
    free, _ = torch.cuda.mem_get_info()
    return on("cuda", order=ORDER, size_bytes=min(MOST_BYTES, free // 8), wait=torch.cuda.synchronize)


def on(device: str, *, order: int, size_bytes: int, wait: Callable[[], None]) -> Figures:
    """`wait` returns when all that was asked of the device is done."""
    import torch

    def finished(work: Callable[[], Any]) -> Callable[[], None]:
        def both() -> None:
            work()
            wait()

        return both

    def gflops() -> float:
        a = torch.ones(order, order, device=device)
        return float(2 * order**3 / best_seconds(finished(lambda: a @ a)) / 1e9)

    def bytes_per_second() -> float:
        source = torch.ones(size_bytes // 4, device=device)
        target = torch.empty_like(source)
        return 2 * size_bytes / best_seconds(finished(lambda: target.copy_(source)))

    def host_to_device() -> float:
        host = torch.ones(size_bytes // 4, pin_memory=device == "cuda")  # else CUDA copies it first
        target = torch.empty_like(host, device=device)
        return size_bytes / best_seconds(finished(lambda: target.copy_(host, non_blocking=True)))

    torch.backends.cuda.matmul.allow_tf32 = False  # 19 bits are not FP32
    figures = Figures(f"PyTorch {torch.__version__}: product of FP32 matrices of {order} x {order}; copying")
    figures.take("gflops", gflops)
    figures.take("memory_bytes_per_second", bytes_per_second)
    figures.take("host_to_device_bytes_per_second", host_to_device)
    return figures
