"""Everything about this machine in one message: the answer to `cyxwiz-node hardware`.

The CPU, RAM and disk are read here. All other devices are told by sources (NVML, AMD's driver, OpenCL), each in a
process of its own and all at once, so that the slowest of them is all that they cost.
"""

from __future__ import annotations

import platform
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from protocol.hardware import SOURCE_KINDS
from protocol.messages import DeviceFacts, HardwareFacts
from workers.hardware import cpu, libraries, memory, outside, pci
from workers.hardware.probing import CannotTell, attempt
from workers.runtimes import catalogue
from workers.sandbox import levels
from workers.settings import Home

SOURCE_SECONDS = 10.0  # NVML wakes each GPU that sleeps, a second or so

MIG_IS_ON = "MIG is on: this card is split, and its parts are not offered yet"


class Disk(NamedTuple):
    total: int
    free: int


@dataclass(frozen=True)
class Source:
    module: str
    library: str = ""  # without which it cannot be asked
    install: str = ""

    def ask(self) -> list[DeviceFacts]:
        if self.library and find_spec(self.library) is None:
            raise CannotTell(f"{self.library} is not installed on this node ({self.install})")
        return outside.ask(self.module, kind=list[DeviceFacts], seconds=SOURCE_SECONDS)


# A card that several of them tell of is the first one's.
SOURCES = {
    "nvml": Source("workers.hardware.nvidia", "pynvml", "pip install nvidia-ml-py"),
    "amdgpu": Source("workers.hardware.amd"),
    "opencl": Source("workers.hardware.opencl", "pyopencl", "pip install -r requirements/opencl.txt"),
}
CHANGING = ("memory_available_bytes", "pcie_generation", "temperature_celsius", "power_watts")


def facts(home: Path, before: HardwareFacts | None = None) -> HardwareFacts:
    """`home`: whose disk counts. `before`: devices whose source fails this time stay as they were told then. Whether
    libraries can use a GPU is known after `libraries.check_cuda`."""
    return _facts(home, *_devices(before.devices if before else []))


def facts_as_before(home: Path, before: HardwareFacts) -> HardwareFacts:
    """Asks no source, so it takes no time: CPU, RAM and disk are as now, other devices as they were."""
    nothing = dict.fromkeys(CHANGING)
    others = [replace(device, **nothing) for device in before.devices if device.kind != "cpu"]
    return _facts(home, [cpu.device(), *others], before.unknown)


def _facts(home: Path, devices: list[DeviceFacts], unknown: dict[str, str]) -> HardwareFacts:
    disk = disk_usage(home)
    refusals = catalogue.refusals()
    return HardwareFacts(
        hostname=platform.node() or "unnamed",
        operating_system=operating_system(),
        architecture=platform.machine(),
        cpu_cores=cpu.cores(),
        disk_total_bytes=disk.total,
        disk_free_bytes=disk.free,
        agent_version=agent_version(),
        formats=[format for format in catalogue.RUNTIMES if format not in refusals],
        refusals=refusals,
        sandbox=levels.reached(),
        devices=[replace(device, refusals=_refusals(device)) for device in devices],
        unknown=unknown,
    )


def disk_usage(home: Path) -> Disk:
    """Of the file system of the blob cache, by statvfs; `free` is what others than root may still write."""
    blobs = Home(home).blobs
    usage = shutil.disk_usage(next(folder for folder in (blobs, *blobs.parents) if folder.exists()))
    return Disk(usage.total, usage.free)


def has_cuda(hardware: HardwareFacts) -> bool:
    return any(device.kind == "cuda" for device in hardware.devices)


def available_bytes() -> dict[str, int]:
    """Of RAM, now; nothing where its probe cannot tell. Other devices take a process to ask."""
    available = attempt(cpu.DEVICE, memory.available_bytes, {})
    return {} if available is None else {cpu.DEVICE: available}


def lasting(hardware: HardwareFacts) -> HardwareFacts:
    """Without what changes all the time: two of these differ only when something was built in, out or over."""
    devices = [replace(device, **dict.fromkeys(CHANGING)) for device in hardware.devices]
    return replace(hardware, devices=devices, disk_free_bytes=0)


def _devices(before: list[DeviceFacts]) -> tuple[list[DeviceFacts], dict[str, str]]:
    """And of what nothing is known, why."""
    cards = pci.cards()
    asked = [name for name in SOURCES if name != "amdgpu" or any(card.vendor == "AMD" for card in cards)]
    unknown: dict[str, str] = {}
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = dict(zip(asked, pool.map(lambda name: attempt(name, SOURCES[name].ask, unknown), asked), strict=True))
    devices = [cpu.device()]
    for name, answer in answers.items():
        found = answer if answer is not None else _as_before(SOURCE_KINDS[name], before, unknown[name])
        seen = {device.pci_address for device in devices}
        devices += [device for device in found if device.pci_address is None or device.pci_address not in seen]
    seen = {device.pci_address for device in devices}
    for card in cards:
        if card.address not in seen:
            words = f"a graphics card of {card.vendor} ({card.id}) of which nothing tells; is its driver installed?"
            unknown[f"pci {card.address}"] = words
    return devices, unknown


def _as_before(kind: str, before: list[DeviceFacts], why: str) -> list[DeviceFacts]:
    """A device is not gone because nobody can tell how it is."""
    nothing = dict.fromkeys(CHANGING)
    return [
        replace(device, **nothing, unknown={**device.unknown, **dict.fromkeys(CHANGING, why)})
        for device in before
        if device.kind == kind
    ]


def _refusals(device: DeviceFacts) -> dict[str, str]:
    """What its node can run but this device cannot."""
    if device.kind == "cpu":
        return {}
    if device.kind == "cuda" and not device.mig:
        return libraries.cuda_refusals()
    why = MIG_IS_ON if device.kind == "cuda" else f"no runtime of this node computes on devices of kind {device.kind}"
    return dict.fromkeys(catalogue.RUNTIMES, why)


def operating_system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name}, kernel {platform.release()}"


def agent_version() -> str:
    try:
        return version("cyxwiz")
    except PackageNotFoundError:  # run from a checkout that nobody has installed
        return "0.1.0"
