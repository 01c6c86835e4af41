"""OpenCL devices by pyopencl. Only ever run in a process of its own (see `outside`), because it loads the drivers of
every vendor into it."""

from __future__ import annotations

from typing import Any

import pyopencl as cl

from protocol.messages import DeviceFacts
from workers.hardware import cpu, memory, outside
from workers.hardware.probing import CannotTell, attempt

NVIDIA, AMD, INTEL = 0x10DE, 0x1002, 0x8086  # of PCI; PoCL on the CPU says Intel's, too
# FP32 operations that a compute unit of a GPU does per cycle at least, a multiply-add being two. NVIDIA, "CUDA C++
# Programming Guide", table of arithmetic throughput: a multiprocessor has 64 lanes (6.0, 7.x, 8.0) or more. AMD, "RDNA"
# and "CDNA" instruction set documents: a CU has 64. Intel, "oneAPI GPU Optimization Guide": an EU has 8.
OPERATIONS_PER_CYCLE = {NVIDIA: 128, AMD: 128, INTEL: 16}
# Floats in the widest vector that compilers use by themselves; any core that has such does one multiply-add per cycle.
CORE_LANES = 8


def devices() -> list[DeviceFacts]:
    return [_device(f"opencl:{index}", device) for index, device in enumerate(found())]


def found() -> list[Any]:
    """In the order of the drivers, which stays the same while these do."""
    try:
        platforms = cl.get_platforms()
    except cl.LogicError:  # how the loader says that no driver is installed
        return []
    devices = []
    for platform in platforms:
        try:
            devices += platform.get_devices()
        except cl.RuntimeError:  # a driver without a device
            continue
    return devices


def pci_address(device: Any) -> str | None:
    """By the extensions of NVIDIA and AMD; others have none that pyopencl reads."""
    try:
        slot = device.pci_slot_id_nv  # device and function in one
        return f"{device.pci_domain_id_nv:04x}:{device.pci_bus_id_nv:02x}:{slot >> 3:02x}.{slot & 7}"
    except (cl.Error, AttributeError):
        pass
    try:
        place = device.topology_amd  # without the domain, which is 0 on all but the largest machines
        return f"0000:{place.bus & 0xFF:02x}:{place.device & 0xFF:02x}.{place.function & 0xFF}"
    except (cl.Error, AttributeError):
        return None


def _device(name: str, device: Any) -> DeviceFacts:
    unknown: dict[str, str] = {}
    is_ram = bool(device.type & cl.device_type.CPU or device.host_unified_memory)
    total = attempt("memory_total_bytes", lambda: _total_bytes(device, is_ram=is_ram), unknown)

    def free() -> int:
        if not is_ram or total is None:
            raise CannotTell("OpenCL has no question for it")
        return min(total, memory.available_bytes())

    address = pci_address(device)
    if address is None and not device.type & cl.device_type.CPU:
        unknown["pci_address"] = "this device's driver has no extension that tells it"
    return DeviceFacts(
        name=name,
        kind="opencl",
        vendor=attempt("vendor", lambda: str(device.vendor), unknown),
        model=attempt("model", lambda: str(device.name), unknown),
        memory_total_bytes=total,
        memory_available_bytes=attempt("memory_available_bytes", free, unknown),
        memory_is_ram=is_ram,
        driver=attempt("driver", lambda: f"{device.platform.name} {device.driver_version}", unknown),
        pci_address=address,
        peak_gflops=attempt("peak_gflops", lambda: _peak_gflops(device), unknown),
        unknown=unknown,
    )


def _total_bytes(device: Any, *, is_ram: bool) -> int:
    """No more of RAM than this machine has, or its container, of which drivers know nothing. Of a CPU all of it: PoCL
    tells more or less of it with every minute."""
    if device.type & cl.device_type.CPU:
        return memory.total_bytes()
    told = int(device.global_mem_size)
    return min(told, memory.total_bytes()) if is_ram else told


def _peak_gflops(device: Any) -> float:
    """What its units do at least at their highest clock."""
    units, megahertz = int(device.max_compute_units), int(device.max_clock_frequency)
    if not megahertz:
        raise CannotTell("this device's driver does not tell its clock")
    if device.type & cl.device_type.CPU:
        units = min(units, cpu.cores())  # PoCL knows of no container
        operations = 2 * min(int(device.native_vector_width_float), CORE_LANES)
    elif (vendor := int(device.vendor_id)) in OPERATIONS_PER_CYCLE:
        operations = OPERATIONS_PER_CYCLE[vendor]
    else:
        raise CannotTell("OpenCL does not tell how much a compute unit of this vendor does per cycle")
    return units * operations * megahertz / 1000


if __name__ == "__main__":
    outside.answer(devices)
