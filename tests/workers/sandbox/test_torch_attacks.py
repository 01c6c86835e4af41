"""Two attacks by model files that PyTorch itself carries out while it loads or runs them. Both work, which the test
sees first; in the cage they reach nothing."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.workers.sandbox.caged import run, why_not

SECRET = "the agent's token"

BUILD = """
    from tests.workers.sandbox import torch_models

    folder = Path(told["models"])
    torch_models.torchscript(folder / "thief.pt", told["secret"], told["script_marker"], told["count"])
    torch_models.pt2(folder / "poisoned.pt2", told["pt2_marker"])
"""
TRY = """
    import io, os, pickle, zipfile
    import torch

    class Thief(torch.nn.Module):
        def __init__(self, secret: str, marker: str, count: int):
            super().__init__()
            self.secret, self.marker, self.count = secret, marker, count

        def forward(self, x):
            torch.from_file(self.marker, True, 4)
            return torch.from_file(self.secret, False, self.count, dtype=torch.uint8)

    class Payload:
        def __init__(self, marker):
            self.marker = marker

        def __reduce__(self):
            return os.system, (f"touch {self.marker}",)

    def poisoned(marker):
        good = io.BytesIO()
        torch.export.save(torch.export.export(torch.nn.Linear(3, 3), (torch.randn(2, 3),)), good)
        bad = io.BytesIO()
        with zipfile.ZipFile(good) as old, zipfile.ZipFile(bad, "w") as new:
            inputs = [name for name in old.namelist() if "sample_inputs" in name]
            assert len(inputs) == 1, old.namelist()
            for name in old.namelist():
                new.writestr(name, pickle.dumps(Payload(marker)) if name == inputs[0] else old.read(name))
        return bad.getvalue()

    def build(folder, secret, script_marker, pt2_marker):
        folder = Path(folder)
        torch.jit.script(Thief(secret, script_marker, told["count"])).save(str(folder / "thief.pt"))
        (folder / "poisoned.pt2").write_bytes(poisoned(pt2_marker))

    build(told["models"], told["secret"], told["script_marker"], told["pt2_marker"])
"""
TRY = """
    import torch

    models = Path(told["models"])
    model = torch.jit.load(str(models / "thief.pt"))
    try:
        stolen = bytes(model(torch.zeros(1))[0].tolist()).decode()
    except RuntimeError as error:
        stolen = f"failed: {error}"
    try:
        torch.export.load(str(models / "poisoned.pt2"))
    except Exception:
        pass
    loaded = torch.jit.load(str(models / "thief.pt")) is not None  # it is there still, and works
    print(json.dumps({"stolen": stolen, "loaded": loaded}))
"""


@pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")
@pytest.mark.skipif(bool(why_not(1)), reason=f"level 1 cannot be had here: {why_not(1)}")
def test_a_torchscript_and_a_pt2_that_attack_are_contained(tmp_path: Path):
    outside, models = tmp_path / "outside", tmp_path / "models"
    for folder in (outside, models):
        folder.mkdir()
    secret = outside / "secret"
    secret.write_text(SECRET)
    markers = {"script_marker": outside / "by-torchscript", "pt2_marker": outside / "by-pt2"}
    told = {"secret": str(secret), "count": len(SECRET), "models": str(models)}
    told |= {name: str(path) for name, path in markers.items()}

    tried = run(BUILD + TRY, None, tmp_path / "scratch", **told)
    assert tried["stolen"] == SECRET
    assert all(marker.exists() for marker in markers.values())
    for marker in markers.values():
        marker.unlink()

    level = 2 if not why_not(2) else 1
    tried = run(TRY, level, tmp_path / "scratch", **told, readable=[str(models)])
    assert tried["stolen"].startswith("failed: ")
    assert "ermission denied" in tried["stolen"]
    assert SECRET not in tried["stolen"]
    assert tried["loaded"]
    assert [path.name for path in outside.iterdir()] == ["secret"]
