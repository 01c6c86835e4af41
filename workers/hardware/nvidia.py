"""NVIDIA's GPUs by NVML. Only ever run in a process of its own (see `outside`).

What each function gives: https://docs.nvidia.com/deploy/nvml-api/
"""

from __future__ import annotations

import contextlib
from typing import Any

import pynvml

from protocol.messages import DeviceFacts
from workers.hardware import outside
from workers.hardware.probing import CannotTell, attempt

FLOPS_PER_CORE = 2  # a multiply and an add, each cycle
TRANSFERS_PER_CLOCK = 2  # NVML tells the clock of the data strobe; memory moves data on both of its edges


def devices() -> list[DeviceFacts]:
    return [_device(name, handle) for name, handle in cards().items()]


def cards() -> dict[str, Any]:
    """NVML's handles by our names: in the order of PCI addresses, which is CUDA's with CUDA_DEVICE_ORDER=PCI_BUS_ID.
    Without cards that NVML does not give, as one that fell off the bus or has no power: CUDA has them not either."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:  # it comes with the driver, so there is none
        return {}
    except pynvml.NVMLError as error:
        raise CannotTell(f"NVML does not start: {error}") from error
    found = {}
    for index in range(_ask("nvmlDeviceGetCount")):
        with contextlib.suppress(CannotTell):
            handle = _ask("nvmlDeviceGetHandleByIndex", index)
            found[_address(handle)] = handle
    return {f"cuda:{index}": found[address] for index, address in enumerate(sorted(found))}


def _device(name: str, handle: Any) -> DeviceFacts:
    unknown: dict[str, str] = {}

    def tell(field: str, function: str, *arguments: Any) -> Any:
        return attempt(field, lambda: _ask(function, *arguments), unknown)

    memory = tell("memory_total_bytes", "nvmlDeviceGetMemoryInfo", handle)
    if memory is None:
        unknown["memory_available_bytes"] = unknown["memory_total_bytes"]
    cuda = tell("cuda_version", "nvmlSystemGetCudaDriverVersion_v2")
    capability = tell("compute_capability", "nvmlDeviceGetCudaComputeCapability", handle)
    power = tell("power_watts", "nvmlDeviceGetPowerUsage", handle)
    limit = tell("power_limit_watts", "nvmlDeviceGetEnforcedPowerLimit", handle)
    ecc = tell("ecc", "nvmlDeviceGetEccMode", handle)
    mig = tell("mig", "nvmlDeviceGetMigMode", handle)
    return DeviceFacts(
        name=name,
        kind="cuda",
        vendor="NVIDIA",
        model=tell("model", "nvmlDeviceGetName", handle),
        uuid=tell("uuid", "nvmlDeviceGetUUID", handle),
        memory_total_bytes=memory.total if memory else None,
        memory_available_bytes=memory.free if memory else None,
        driver=tell("driver", "nvmlSystemGetDriverVersion"),
        cuda_version=f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None,
        compute_capability=".".join(map(str, capability)) if capability else None,
        pci_address=attempt("pci_address", lambda: _address(handle), unknown),
        pcie_generation=tell("pcie_generation", "nvmlDeviceGetCurrPcieLinkGeneration", handle),
        pcie_lanes=tell("pcie_lanes", "nvmlDeviceGetCurrPcieLinkWidth", handle),
        pcie_generation_max=tell("pcie_generation_max", "nvmlDeviceGetMaxPcieLinkGeneration", handle),
        pcie_lanes_max=tell("pcie_lanes_max", "nvmlDeviceGetMaxPcieLinkWidth", handle),
        temperature_celsius=tell(
            "temperature_celsius", "nvmlDeviceGetTemperature", handle, pynvml.NVML_TEMPERATURE_GPU
        ),
        power_watts=None if power is None else power / 1000,
        power_limit_watts=None if limit is None else limit / 1000,
        ecc=None if ecc is None else ecc[0] == pynvml.NVML_FEATURE_ENABLED,
        mig=None if mig is None else mig[0] == pynvml.NVML_DEVICE_MIG_ENABLE,
        peak_gflops=attempt("peak_gflops", lambda: _peak_gflops(handle), unknown),
        peak_memory_bytes_per_second=attempt("peak_memory_bytes_per_second", lambda: _peak_memory(handle), unknown),
        unknown=unknown,
    )


def _peak_gflops(handle: Any) -> float:
    megahertz = _ask("nvmlDeviceGetMaxClockInfo", handle, pynvml.NVML_CLOCK_SM)
    return float(_ask("nvmlDeviceGetNumGpuCores", handle) * FLOPS_PER_CORE * megahertz / 1000)


def _peak_memory(handle: Any) -> float:
    megahertz = _ask("nvmlDeviceGetMaxClockInfo", handle, pynvml.NVML_CLOCK_MEM)
    return float(_ask("nvmlDeviceGetMemoryBusWidth", handle) / 8 * megahertz * 1e6 * TRANSFERS_PER_CLOCK)


def _address(handle: Any) -> str:
    """NVML writes the domain with eight digits, Linux with four."""
    address: str = _ask("nvmlDeviceGetPciInfo", handle).busId
    domain, rest = address.lower().split(":", 1)
    return f"{int(domain, 16):04x}:{rest}"


def _ask(function: str, *arguments: Any) -> Any:
    try:
        return getattr(pynvml, function)(*arguments)
    except pynvml.NVMLError as error:
        raise CannotTell(f"{function} of NVML says: {error}") from error


if __name__ == "__main__":
    outside.answer(devices)
