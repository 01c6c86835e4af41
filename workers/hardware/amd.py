"""AMD's GPUs by what the amdgpu driver writes into sysfs; run in a process of its own, for reading there may hang
(https://docs.kernel.org/gpu/amdgpu/driver-misc.html, https://docs.kernel.org/gpu/amdgpu/thermal.html)."""

from __future__ import annotations

from protocol.messages import DeviceFacts
from workers.hardware import outside, pci
from workers.hardware.probing import CannotTell, attempt

NOT_PROBED = "only AMD's own libraries tell it, which are not used"


def devices() -> list[DeviceFacts]:
    cards = [card for card in pci.cards() if card.vendor == "AMD"]
    return [_device(f"rocm:{index}", card) for index, card in enumerate(cards)]


def _device(name: str, card: pci.Card) -> DeviceFacts:
    unknown = {"ecc": NOT_PROBED, "peak_gflops": NOT_PROBED, "peak_memory_bytes_per_second": NOT_PROBED}
    at = card.address
    link = attempt("pcie_lanes", lambda: pci.link(at), unknown)
    most = attempt("pcie_lanes_max", lambda: pci.link_max(at), unknown)
    return DeviceFacts(
        name=name,
        kind="rocm",
        vendor="AMD",
        model=attempt("model", lambda: _model(card), unknown),
        uuid=attempt("uuid", lambda: pci.text(at, "unique_id"), unknown),
        memory_total_bytes=attempt("memory_total_bytes", lambda: pci.number(at, "mem_info_vram_total"), unknown),
        memory_available_bytes=attempt("memory_available_bytes", lambda: _free(at), unknown),
        driver=attempt("driver", lambda: _driver(at), unknown),
        pci_address=at,
        pcie_generation=link.generation if link else None,
        pcie_lanes=link.lanes if link else None,
        pcie_generation_max=most.generation if most else None,
        pcie_lanes_max=most.lanes if most else None,
        temperature_celsius=attempt("temperature_celsius", lambda: pci.monitored(at, "temp1_input") / 1e3, unknown),
        power_watts=attempt("power_watts", lambda: _power(at), unknown),
        power_limit_watts=attempt("power_limit_watts", lambda: pci.monitored(at, "power1_cap") / 1e6, unknown),
        unknown=unknown,
    )


def _model(card: pci.Card) -> str:
    try:
        return pci.text(card.address, "product_name")
    except CannotTell:
        raise CannotTell(f"the driver names cards for servers only; this one is PCI device {card.id}") from None


def _free(address: str) -> int:
    return pci.number(address, "mem_info_vram_total") - pci.number(address, "mem_info_vram_used")


def _power(address: str) -> float:
    """Older cards tell an average, newer ones the moment."""
    try:
        return pci.monitored(address, "power1_average") / 1e6
    except CannotTell:
        return pci.monitored(address, "power1_input") / 1e6


def _driver(address: str) -> str:
    link = pci.ROOT / address / "driver"
    if not link.exists():
        raise CannotTell("no driver has taken this card")
    return link.resolve().name


if __name__ == "__main__":
    outside.answer(devices)
