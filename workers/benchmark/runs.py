"""Measures this node's devices when the control plane asks, one after the other, beside all else that runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from protocol.errors import CyxwizError
from protocol.messages import BenchmarkFacts, Benchmarks, DeviceFacts
from workers.control_plane import ControlPlane
from workers.hardware import outside
from workers.hardware.probing import CannotTell

log = logging.getLogger(__name__)

DEVICE_SECONDS = 60.0  # most of it to start PyTorch or to compile kernels; measuring takes two


class BenchmarkRuns:
    def __init__(
        self,
        control_plane: ControlPlane,
        devices: Callable[[], list[DeviceFacts]],
        loaded_models: Callable[[], int],
    ) -> None:
        self._control_plane = control_plane
        self._devices = devices
        self._loaded_models = loaded_models
        self._lock = threading.Lock()
        self._running = False
        self._told = ""  # the last asking that was answered

    def want(self, asked: str) -> None:
        """`asked`: which asking, as the control plane names it; empty: none. Returns at once."""
        with self._lock:
            if not asked or self._running or asked == self._told:
                return
            self._running = True
        threading.Thread(target=self._run, args=[asked], name="benchmark", daemon=True).start()

    def _run(self, asked: str) -> None:
        try:
            measured = [self._measure(device) for device in self._devices()]
            self._control_plane.send_benchmarks(Benchmarks(asked=asked, devices=measured))
            self._told = asked
        except CyxwizError as error:
            log.warning("The benchmarks could not be told, and will be made again: %s", error.message)
        except Exception:
            log.exception("The benchmarks came to nothing.")
            self._told = asked
        finally:
            with self._lock:
                self._running = False

    def _measure(self, device: DeviceFacts) -> BenchmarkFacts:
        loaded = self._loaded_models()
        named = replace(device, refusals={}, unknown={})
        try:
            facts = outside.ask(
                "workers.benchmark",
                msgspec.json.encode(named).decode(),
                kind=BenchmarkFacts,
                seconds=DEVICE_SECONDS,
            )
        except CannotTell as error:
            facts = BenchmarkFacts(device=device.name, method="", seconds=0, unknown={"method": str(error)})
        return replace(facts, loaded_models=loaded)
