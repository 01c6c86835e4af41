"""Graphics cards and their links, as sysfs shows them (Linux: Documentation/ABI/testing/sysfs-bus-pci)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from workers.hardware.probing import CannotTell

ROOT = Path("/sys/bus/pci/devices")
VENDORS = {"10de": "NVIDIA", "1002": "AMD", "8086": "Intel"}  # others make the pictures of servers without a GPU
CLASSES = ("0x03", "0x1200")  # display controllers; processing accelerators
# Transfers per second and lane -> generation (PCI Express Base Specification).
GENERATIONS = {"2.5": 1, "5.0": 2, "5": 2, "8.0": 3, "8": 3, "16.0": 4, "16": 4, "32.0": 5, "32": 5, "64.0": 6, "64": 6}


@dataclass(frozen=True)
class Card:
    address: str
    vendor: str
    id: str  # "10de:2330"


@dataclass(frozen=True, order=True)
class Link:
    generation: int
    lanes: int

    @property
    def rate(self) -> int:
        """For comparing: each generation doubles what a lane carries."""
        return self.lanes << self.generation


def cards() -> list[Card]:
    """Without asking any driver."""
    found = []
    for folder in sorted(ROOT.iterdir()) if ROOT.is_dir() else []:
        vendor = _text(folder / "vendor").removeprefix("0x")
        if vendor in VENDORS and _text(folder / "class").startswith(CLASSES):
            device = _text(folder / "device").removeprefix("0x")
            found.append(Card(folder.name, VENDORS[vendor], f"{vendor}:{device}"))
    return found


def link(address: str) -> Link:
    """Now, and the slowest on the way to the processor: a card may sit behind switches, its own or the machine's."""
    folders = [ROOT / address, *_bridges(ROOT / address)]
    links = [found for folder in folders if (found := _link(folder, "current"))]
    if not links:
        raise CannotTell(f"sysfs tells no PCIe link of {address}")
    return min(links, key=lambda found: found.rate)


def link_max(address: str) -> Link:
    """What the card could do."""
    found = _link(ROOT / address, "max")
    if found is None:
        raise CannotTell(f"sysfs tells no PCIe capability of {address}")
    return found


def monitored(address: str, name: str) -> float:
    """A value of the card's hwmon, in its millionths or thousandths (`temp1_input`, `power1_average`)."""
    for folder in sorted((ROOT / address / "hwmon").glob("hwmon*")):
        if text := _text(folder / name):
            return float(text)
    raise CannotTell(f"the driver's hwmon has no {name}")


def number(address: str, name: str) -> int:
    text = _text(ROOT / address / name)
    if not text.isdigit():
        raise CannotTell(f"the driver gives no {name} in sysfs")
    return int(text)


def text(address: str, name: str) -> str:
    found = _text(ROOT / address / name)
    if not found:
        raise CannotTell(f"the driver gives no {name} in sysfs")
    return found


def _bridges(folder: Path) -> Iterator[Path]:
    """In sysfs a device lies in the folder of the bridge above it."""
    for parent in folder.resolve().parents:
        if not (parent / "current_link_width").exists():
            return
        yield parent


def _link(folder: Path, which: str) -> Link | None:
    speed, lanes = _text(folder / f"{which}_link_speed"), _text(folder / f"{which}_link_width")
    generation = GENERATIONS.get(speed.split(" ")[0])  # "16.0 GT/s PCIe", or "Unknown"
    if generation is None or not lanes.isdigit() or not int(lanes):
        return None
    return Link(generation, int(lanes))


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
