"""What the control plane estimates that a model takes, beside what its runner took: `python -m benchmarks.memory`, on
the CPU, with all libraries installed. Each model runs with two rows, and with as many as a batch has at most."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import django
import msgspec

from protocol.tensors import Signature

MIB = 1024**2
ROOT = Path(__file__).resolve().parents[1]
TENSORFLOW = ROOT / "tests" / "runtimes" / "tensorflow" / "make_sized_models.py"


class Case(NamedTuple):
    name: str
    path: Path
    told: Signature | None = None


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cyxwiz_site.settings")
    os.environ.setdefault("SECRET_KEY", "of a benchmark")
    django.setup()
    from models_registry import memory
    from tests.runtimes import sized_models

    with tempfile.TemporaryDirectory() as home:
        print("| model | format | estimate | peak, 2 rows | peak, 64 rows | estimate / peak |")
        print("|---|---|---|---|---|---|")
        for case in cases(Path(home)):
            version = sized_models.version(case.path, case.told)
            estimate = memory.estimate_bytes(version, {})
            peaks = [sized_models.peak_bytes(case.path, version, rows, case.told) for rows in (2, sized_models.ROWS)]
            sizes = " | ".join(f"{size / MIB:.0f} MiB" for size in (estimate, *peaks))
            print(f"| {case.name} | {version.format} | {sizes} | {estimate / peaks[1]:.1f} |", flush=True)


def cases(home: Path) -> Iterator[Case]:
    from tests.runtimes import digits, sized_models

    def folder(name: str) -> Path:
        made = home / name
        made.mkdir()
        return made

    for sample in digits.DIGITS:
        path = sample.file
        if path.suffix == ".zip":
            path = folder("digits")
            with zipfile.ZipFile(sample.file) as archive:
                archive.extractall(path)
        told = msgspec.convert(sample.declared, Signature) if sample.declared else None
        yield Case("digits", path, told)
    yield Case("wide", sized_models.onnx_wide(folder("onnx-wide")))
    yield Case("halves", sized_models.onnx_halves(folder("onnx-halves")))
    yield Case("pictures", sized_models.onnx_pictures(folder("onnx-pictures")))
    for name, module, shape in (
        ("wide", sized_models.Wide(), [sized_models.WIDTH]),
        ("pictures", sized_models.Pictures(), [3, sized_models.SIDE, sized_models.SIDE]),
    ):
        told = sized_models.declared(shape)
        yield Case(name, sized_models.torchscript(folder(f"script-{name}"), module), told)
        yield Case(name, sized_models.pt2(folder(f"pt2-{name}"), module, shape))
    made = folder("tensorflow")
    subprocess.run([sys.executable, TENSORFLOW, made, *sized_models.SIZES], check=True, capture_output=True)
    for name in ("wide", "pictures"):
        yield Case(name, made / f"{name}.tflite")
        yield Case(name, made / name)
    yield Case("constants", made / "constants")


if __name__ == "__main__":
    main()
