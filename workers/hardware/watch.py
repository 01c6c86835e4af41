"""Looks at the machine again and again, in the background, because a source may take its time.

What was seen last is kept in the node's home. An agent that starts tells that, at once, and then looks: it neither
waits for a driver that hangs nor forgets a device, with all that is promised on it, which that driver would have told.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

import msgspec

from protocol.messages import DeviceFacts, HardwareFacts, Reading
from workers.hardware import libraries, machine, readings
from workers.settings import Home

log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0


class Watch:
    def __init__(self, home: Home, changed: Callable[[dict[str, str]], None]) -> None:
        """`changed` is called when something was built in, out or over; with the new names of devices, by the old."""
        self._home = home
        self._changed = changed
        before = _recall(home)
        self.hardware = machine.facts_as_before(home.path, before) if before else machine.facts(home.path)
        self._latest: list[DeviceFacts] = self.hardware.devices
        self._stopping = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._watch, name="hardware", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    def readings(self) -> dict[str, Reading]:
        """RAM now, all else as at the last look."""
        return readings.of(self._latest, machine.available_bytes())

    def _watch(self) -> None:
        while not self._stopping.is_set():
            try:
                self._look()
                if machine.has_cuda(self.hardware) and libraries.check_cuda():
                    self._look()
            except Exception:
                log.exception("The hardware could not be looked at.")
            self._stopping.wait(LOOK_SECONDS)

    def _look(self) -> None:
        found = machine.facts(self._home.path, self.hardware)
        self._latest = found.devices
        if machine.lasting(found) != machine.lasting(self.hardware):
            before, self.hardware = self.hardware, found
            remember(self._home, found)
            self._changed(renamed(before.devices, found.devices))


def renamed(before: Iterable[DeviceFacts], now: Iterable[DeviceFacts]) -> dict[str, str]:
    """A driver numbers its cards; one that is put in, or falls off the bus, changes the numbers of others."""
    names = {device.uuid: device.name for device in now if device.uuid}
    found = {device.name: names[device.uuid] for device in before if device.uuid in names}
    return {old: new for old, new in found.items() if old != new}


def remember(home: Home, hardware: HardwareFacts) -> None:
    fresh = home.hardware_file.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(hardware))
    fresh.replace(home.hardware_file)


def _recall(home: Home) -> HardwareFacts | None:
    try:
        return msgspec.json.decode(home.hardware_file.read_bytes(), type=HardwareFacts)
    except (OSError, msgspec.DecodeError):  # never looked at, or by an agent of another version
        return None
