"""What is free of NVIDIA's GPUs and what each process takes of them, told anew for every line on standard input. Only
ever run in a process of its own (see `gpu_memory`), which stays: to start NVML takes far longer than to ask it.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec
import pynvml

from workers.hardware import nvidia
from workers.hardware.gpu_memory import Card


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    nvidia.cards()  # starts NVML
    for _ in sys.stdin:  # it ends with whoever started it
        told = {name: Card(_free(card), _taken(card)) for name, card in nvidia.cards().items()}
        answers.write(msgspec.json.encode(told) + b"\n")
        answers.flush()


def _free(card: Any) -> int | None:
    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(card).free)
    except pynvml.NVMLError:
        return None


def _taken(card: Any) -> dict[int, int]:
    """By process number, as this machine's /proc has them; empty where the driver does not tell."""
    try:
        found = pynvml.nvmlDeviceGetComputeRunningProcesses(card)
    except pynvml.NVMLError:
        return {}
    return {one.pid: one.usedGpuMemory for one in found if one.usedGpuMemory is not None}


if __name__ == "__main__":
    main()
