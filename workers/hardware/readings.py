"""What changes all the time, told sparingly: when it changed much, or after a minute."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from protocol.messages import DeviceFacts, Reading

TELL_SECONDS = 60.0
# Less than these is not worth a message and a write to the database.
MEMORY_SHARE = 0.01  # of the device's whole
CELSIUS = 5.0
WATTS = 20.0


class Readings:
    def __init__(self) -> None:
        self._told: dict[str, tuple[Reading, float]] = {}

    def news(self, now: Mapping[str, Reading], totals: Mapping[str, int | None]) -> dict[str, Reading]:
        """What of `now` should be told. `totals`: the memory of each device."""
        return {name: reading for name, reading in now.items() if self._is_news(name, reading, totals.get(name))}

    def tell(self, readings: Mapping[str, Reading]) -> None:
        """That these were told."""
        moment = time.monotonic()
        self._told.update({name: (reading, moment) for name, reading in readings.items()})

    def forget(self) -> None:
        """The other side knows nothing of what was told."""
        self._told.clear()

    def _is_news(self, name: str, now: Reading, total_bytes: int | None) -> bool:
        if name not in self._told:
            return True
        before, when = self._told[name]
        return (
            time.monotonic() - when >= TELL_SECONDS
            or _differ(before.memory_available_bytes, now.memory_available_bytes, (total_bytes or 0) * MEMORY_SHARE)
            or _differ(before.temperature_celsius, now.temperature_celsius, CELSIUS)
            or _differ(before.power_watts, now.power_watts, WATTS)
        )


def of(devices: Iterable[DeviceFacts], available_bytes: Mapping[str, int]) -> dict[str, Reading]:
    """`available_bytes`: fresher than what is in `devices`."""
    return {
        device.name: Reading(
            memory_available_bytes=available_bytes.get(device.name, device.memory_available_bytes),
            temperature_celsius=device.temperature_celsius,
            power_watts=device.power_watts,
        )
        for device in devices
    }


def _differ(before: float | None, now: float | None, much: float) -> bool:
    if before is None or now is None:
        return before is not now
    return abs(now - before) > much
