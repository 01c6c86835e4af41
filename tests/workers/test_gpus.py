"""GPUs and OpenCL devices, on machines without any: what a source cannot tell costs its own fields, and no format is
said to run where it cannot. NVML is a tiny library compiled here, sysfs a folder; OpenCL is real."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest
from msgspec.structs import replace

from protocol.messages import DeviceFacts
from tests.workers.conftest import build_nvml, needs_opencl
from workers import settings
from workers.hardware import amd, cpu, libraries, machine, outside, pci, watch, words
from workers.hardware.probing import CannotTell, attempt
from workers.runtimes import catalogue
from workers.settings import Home


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts an NVML where the loader finds it first."""
    monkeypatch.setattr(libraries, "_reasons", {})

    def build(*flags: str) -> None:
        monkeypatch.setenv("LD_LIBRARY_PATH", str(build_nvml(tmp_path, *flags)))

    return build


def ask_nvml(seconds: float = 10) -> list[DeviceFacts]:
    return outside.ask("workers.hardware.nvidia", kind=list[DeviceFacts], seconds=seconds)


class TestNvidia:
    def test_all_that_nvml_tells(self, nvml):
        nvml()
        [device] = ask_nvml()
        assert device == DeviceFacts(
            name="cuda:0",
            kind="cuda",
            model="NVIDIA H200",
            vendor="NVIDIA",
            uuid="GPU-5f1c",
            memory_total_bytes=150754820096,
            memory_available_bytes=150000000000,
            driver="570.124.06",
            cuda_version="12.8",
            compute_capability="9.0",
            pci_address="0000:1b:00.0",
            pcie_generation=1,
            pcie_lanes=8,
            pcie_generation_max=5,
            pcie_lanes_max=16,
            temperature_celsius=34,
            power_watts=76.5,
            power_limit_watts=700,
            ecc=True,
            mig=None,
            peak_gflops=16896 * 2 * 1.98,
            peak_memory_bytes_per_second=6144 / 8 * 3201e6 * 2,
            unknown={"mig": "nvmlDeviceGetMigMode of NVML says: Not Supported"},
        )

    def test_a_machine_without_the_driver_has_no_such_device(self):
        assert ask_nvml() == []

    def test_a_driver_that_crashes_or_hangs_costs_its_own_answer(self, nvml, tmp_path, monkeypatch):
        nvml("-DCRASH")
        with pytest.raises(CannotTell, match="SIGABRT"):
            ask_nvml()
        nvml("-DSIGNAL=35")  # of real time: it has no name
        with pytest.raises(CannotTell, match=r"ended by signal 35$"):
            ask_nvml()
        nvml("-DHANG")
        monkeypatch.setattr(machine, "SOURCE_SECONDS", 3.0)
        started = time.monotonic()
        facts = machine.facts(tmp_path)
        assert time.monotonic() - started < 6
        assert facts.unknown["nvml"] == "no answer within 3 s"
        assert facts.devices[0].name == "cpu"
        assert any("unknown   nvml: no answer" in line for line in words.lines(facts))

    def test_a_card_that_cannot_be_asked_any_more_is_not_gone(self, nvml, tmp_path):
        nvml()
        before = machine.facts(tmp_path)
        nvml("-DCRASH")
        now = machine.facts(tmp_path, before)
        [card] = [device for device in now.devices if device.kind == "cuda"]
        assert (card.uuid, card.temperature_celsius) == ("GPU-5f1c", None)
        assert "SIGABRT" in card.unknown["temperature_celsius"]

    @pytest.mark.parametrize("error", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_INSUFFICIENT_POWER])
    def test_a_card_that_cannot_be_had_is_gone_and_its_neighbour_is_not(self, nvml, error):
        nvml(f"-DLOST={error}")
        [card] = ask_nvml()
        assert (card.name, card.uuid) == ("cuda:0", "GPU-5f1c")

    def test_one_that_is_called_otherwise_is_known_by_its_uuid(self, nvml, tmp_path):
        nvml()
        facts = machine.facts(tmp_path)
        devices = [replace(one, name="cuda:1") if one.kind == "cuda" else one for one in facts.devices]
        watch.remember(Home(tmp_path), replace(facts, devices=devices))
        heard: list[dict[str, str]] = []
        watched = watch.Watch(Home(tmp_path), heard.append)
        watched._look()
        assert heard == [{"cuda:1": "cuda:0"}]
        watched._look()
        assert len(heard) == 1

    def test_no_format_runs_on_it_before_its_library_says_so(self, nvml, tmp_path, monkeypatch):
        """The libraries of the tests are built for the CPU, so in the end none does."""
        for slow in ("torchscript", "pt2", "savedmodel"):
            monkeypatch.delitem(catalogue.RUNTIMES, slow)
        nvml()
        facts = machine.facts(tmp_path)
        card = facts.devices[1]
        assert set(facts.formats) <= set(card.refusals)
        assert "being looked at" in card.refusals["onnx"]
        libraries.check_cuda()
        card = machine.facts(tmp_path).devices[1]
        assert "without CUDA" in card.refusals["onnx"]
        assert "without a GPU backend" in card.refusals["gguf"]
        assert "computes on the CPU" in card.refusals["fake"]
        assert machine.facts(tmp_path).devices[0].refusals == {}

    def test_a_card_that_is_split_is_not_offered_as_a_whole(self, nvml, tmp_path, monkeypatch):
        nvml("-DMIG")
        monkeypatch.setattr(libraries, "_reasons", {"onnxruntime": "", "llama_cpp": ""})
        card = machine.facts(tmp_path).devices[1]
        assert card.mig
        assert "MIG is on" in card.refusals["onnx"]

    def test_a_library_that_can_is_believed(self, nvml, tmp_path, monkeypatch):
        nvml()
        monkeypatch.setattr(libraries, "_reasons", {"onnxruntime": "", "llama_cpp": "no"})
        card = machine.facts(tmp_path).devices[1]
        assert "onnx" not in card.refusals
        assert card.refusals["gguf"] == "no"


@pytest.mark.parametrize(("device", "visible"), [("cuda:1", "1"), ("cpu", ""), ("opencl:0", "")])
def test_a_model_sees_its_own_card_and_no_other(device: str, visible: str, monkeypatch: pytest.MonkeyPatch):
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.setenv(name, "as the test began")  # so that it is as before afterwards
    assert settings.show_only(device) == ("cuda:0" if visible else device)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_each_library_is_asked_in_its_own_process():
    assert "without CUDA" in outside.ask("workers.hardware.libraries", "onnxruntime", kind=str, seconds=60)
    with pytest.raises(CannotTell, match="KeyError"):
        outside.ask("workers.hardware.libraries", "no_such_library", kind=str, seconds=60)


def test_the_tiny_model_that_proves_a_provider_is_one():
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(libraries.TINY_MODEL, providers=["CPUExecutionProvider"])
    assert session.run(["y"], {"x": np.float32([3])})[0].tolist() == [3]


class TestSysfs:
    @pytest.fixture(autouse=True)
    def cards(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An AMD card behind a slow slot, an Intel one, and the chip that makes a server's picture."""
        slot = tmp_path / "devices" / "pci0000:00" / "0000:00:01.0"
        amd_card = {
            "vendor": "0x1002",
            "device": "0x744c",
            "class": "0x030000",
            "current_link_speed": "16.0 GT/s PCIe",
            "current_link_width": "16",
            "max_link_speed": "16.0 GT/s PCIe",
            "max_link_width": "16",
            "mem_info_vram_total": "25753026560",
            "mem_info_vram_used": "1000000000",
            "hwmon/hwmon3/temp1_input": "47000",
            "hwmon/hwmon3/power1_average": "21000000",
            "hwmon/hwmon3/power1_cap": "303000000",
        }
        bridge = {"current_link_speed": "8.0 GT/s PCIe", "current_link_width": "1"}
        intel = {"vendor": "0x8086", "device": "0x9bc4", "class": "0x030000"}
        aspeed = {"vendor": "0x1a03", "device": "0x2000", "class": "0x030000"}
        self.write(slot, bridge)
        self.write(slot / "0000:01:00.0", amd_card)
        self.write(tmp_path / "devices" / "0000:00:02.0", intel)
        self.write(tmp_path / "devices" / "0000:05:00.0", aspeed)
        bus = tmp_path / "bus"
        bus.mkdir()
        for folder in (slot / "0000:01:00.0", *(tmp_path / "devices").glob("0000:*")):
            (bus / folder.name).symlink_to(folder)
        monkeypatch.setattr(pci, "ROOT", bus)

    @staticmethod
    def write(folder: Path, files: dict[str, str]) -> None:
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text + "\n")

    def test_an_amd_card_and_the_narrowest_part_of_its_way(self):
        [card] = amd.devices()
        assert (card.name, card.kind, card.pci_address) == ("rocm:0", "rocm", "0000:01:00.0")
        assert (card.memory_total_bytes, card.memory_available_bytes) == (25753026560, 24753026560)
        assert (card.pcie_generation, card.pcie_lanes) == (3, 1)  # the slot's, not what the card says
        assert (card.pcie_generation_max, card.pcie_lanes_max) == (4, 16)
        assert (card.temperature_celsius, card.power_watts, card.power_limit_watts) == (47, 21, 303)
        assert "1002:744c" in card.unknown["model"]
        assert card.unknown["uuid"]
        assert card.unknown["driver"] == "no driver has taken this card"

    def test_a_card_that_nothing_tells_of_is_said_to_be_there(self, tmp_path):
        unknown = machine.facts(tmp_path).unknown
        assert "Intel (8086:9bc4)" in unknown["pci 0000:00:02.0"]
        assert "pci 0000:05:00.0" not in unknown


@needs_opencl
class TestOpenCl:
    def test_the_device_is_found(self, tmp_path):
        facts = machine.facts(tmp_path)
        device = next(device for device in facts.devices if device.name == "opencl:0")
        assert device.kind == "opencl"
        assert "Portable Computing Language" in device.driver
        assert device.model
        assert device.memory_is_ram
        assert 0 < device.memory_available_bytes <= device.memory_total_bytes <= facts.devices[0].memory_total_bytes
        assert set(facts.formats) <= set(device.refusals)
        assert 0.1 < device.peak_gflops / facts.cpu_cores < 16 * 10  # at most 16 per cycle, below 10 GHz

    @pytest.mark.parametrize(
        ("told", "gflops"),
        [
            ({"type": 4, "vendor_id": 0x10DE}, 40 * 128 * 1.59),  # a T4, which gives 8,100
            ({"type": 4, "vendor_id": 0x1002}, 40 * 128 * 1.59),
            ({"type": 4, "vendor_id": 0x8086}, 40 * 16 * 1.59),
            ({"type": 4, "vendor_id": 0x13B5}, "of this vendor"),
            ({"type": 4, "vendor_id": 0x10DE, "max_clock_frequency": 0}, "does not tell its clock"),
            ({"type": 2, "vendor_id": 0x8086, "native_vector_width_float": 4}, min(40, cpu.cores()) * 8 * 1.59),
            ({"type": 2, "vendor_id": 0x8086, "native_vector_width_float": 16}, min(40, cpu.cores()) * 16 * 1.59),
        ],
    )
    def test_what_its_units_promise_at_least(self, told, gflops):
        from workers.hardware import opencl

        unit = SimpleNamespace(**{"max_compute_units": 40, "max_clock_frequency": 1590, **told})
        unknown: dict[str, str] = {}
        said = attempt("peak", lambda: opencl._peak_gflops(unit), unknown)
        if isinstance(gflops, str):
            assert gflops in unknown["peak"]
        else:
            assert said == pytest.approx(gflops)

    def test_a_loader_without_drivers_has_no_device(self, tmp_path, monkeypatch):
        monkeypatch.setenv("OCL_ICD_VENDORS", str(tmp_path))
        facts = machine.facts(tmp_path)
        assert [device.name for device in facts.devices] == ["cpu"]
        assert "opencl" not in facts.unknown


def test_without_pyopencl_the_reason_is_said(tmp_path, monkeypatch):
    absent = machine.Source("workers.hardware.opencl", "surely_not_installed", "pip install it")
    monkeypatch.setitem(machine.SOURCES, "opencl", absent)
    facts = machine.facts(tmp_path)
    assert facts.unknown["opencl"] == "surely_not_installed is not installed on this node (pip install it)"
    assert [device.name for device in facts.devices] == ["cpu"]
