"""OpenCL devices by pyopencl. Only ever run in a process of its own (see `outside`), because it loads the drivers of
every vendor into it."""

from __future__ import annotations

from typing import Any

import pyopencl as cl

from protocol.messages import DeviceFacts
from workers.hardware import memory, outside
from workers.hardware.probing import CannotTell, attempt


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
    total = attempt("memory_total_bytes", lambda: int(device.global_mem_size), unknown)

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
        unknown=unknown,
    )


if __name__ == "__main__":
    outside.answer(devices)
