"""Hardware classes: what a queue is named after. A class is a device kind and, for CUDA, a memory tier."""

from functools import cache

GIB = 1024**3

# Cards report a little less than they are sold as ("24 GB" is 23.6 GiB or so), hence the slack below.
CUDA_TIERS_GIB = (4, 8, 16, 24, 32, 48, 80, 96, 140, 180)
TIER_SLACK = 0.93
RESERVE_PART = 10  # a tenth of a device's memory, for the system and for what was estimated too low …
RESERVE_MOST_BYTES = GIB  # … but no more than this

HOST = "cpu"  # the kind of device whose memory is the machine's own
KINDS = (HOST, "opencl", "rocm", "cuda")
# What tells an agent of devices, as its report names it -> the kind of these devices.
SOURCE_KINDS = {"nvml": "cuda", "amdgpu": "rocm", "opencl": "opencl"}
CLASSES = ("cpu", "opencl", "rocm", *(f"cuda-{tier}g" for tier in CUDA_TIERS_GIB))


@cache
def hardware_class(kind: str, memory_total_bytes: int | None) -> str:
    """The class of one device: for CUDA the largest tier not above its memory (the smallest tier if unknown)."""
    if kind != "cuda":
        return kind
    fitting = [tier for tier in CUDA_TIERS_GIB if (memory_total_bytes or 0) >= tier_bytes(tier)]
    return f"cuda-{max(fitting, default=CUDA_TIERS_GIB[0])}g"


@cache
def kind_of(hardware_class: str) -> str:
    """The kind of device in a class; of none, where any will do, the machine itself."""
    return hardware_class.partition("-")[0] or HOST


def tier_bytes(tier: int) -> int:
    """The least memory of a card of that tier."""
    return int(tier * GIB * TIER_SLACK)


def allocatable_bytes(total: int | None, others: int | None = None) -> int | None:
    """What of a device's memory may be promised at all. `others`: what else on the machine takes of it, as far as that
    is known; up to the reserve that is foreseen, beyond it counts in place of the reserve."""
    if total is None:
        return None
    return max(total - max(reserve_bytes(total), others or 0), 0)


def reserve_bytes(total: int) -> int:
    """What is never promised of a device with so much memory."""
    return min(total // RESERVE_PART, RESERVE_MOST_BYTES)
