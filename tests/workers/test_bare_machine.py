"""A machine without any vendor's library, in Python or as a shared object, is known soon and says what is missing."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import msgspec

from protocol.messages import HardwareFacts

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 10  # as long as one source may take that does not answer; all of this takes half a second

BARE = """
import sys
VENDORS = ("pynvml", "pyopencl", "amdsmi", "torch", "onnxruntime", "llama_cpp", "tensorflow", "numba")

class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in VENDORS else self.finder.find_spec(name, path, target)

def no_vendor(event, arguments):
    if event == "ctypes.dlopen" and any(word in str(arguments[0]) for word in ("nvidia", "OpenCL", "amd", "rocm")):
        raise OSError(f"{arguments[0]}: cannot open shared object file")

sys.meta_path = [Without(finder) for finder in sys.meta_path]
sys.addaudithook(no_vendor)
sys.argv = ["cyxwiz-node", "hardware", "--json", "--home", sys.argv[1]]
from workers.__main__ import main
main()
"""


def test_a_machine_without_vendors_libraries_is_known_soon(tmp_path):
    started = time.monotonic()
    told = subprocess.run(
        [sys.executable, "-c", BARE, tmp_path], cwd=ROOT, capture_output=True, timeout=60, check=False
    )
    seconds = time.monotonic() - started
    assert told.returncode == 0, told.stderr
    facts = msgspec.json.decode(told.stdout, type=HardwareFacts)
    assert [device.kind for device in facts.devices] == ["cpu"]
    assert facts.devices[0].memory_total_bytes
    assert facts.unknown["nvml"] == "pynvml is not installed on this node (pip install nvidia-ml-py)"
    assert facts.unknown["opencl"].startswith("pyopencl is not installed on this node")
    assert {name for name in facts.unknown if not name.startswith("pci ")} == {"nvml", "opencl"}
    assert "onnxruntime is not installed" in facts.refusals["onnx"]
    assert seconds < DEADLINE_SECONDS
