"""Rows that tests need and do not test: made as the product makes them, where that is cheap."""

from __future__ import annotations

from accounts.models import User
from models_registry import formats
from models_registry.models import Blob, Model, Version, VersionFile
from models_registry.services import content


def version(user: User, name: str = "digits", *, size_bytes: int = 1024, format: str = "onnx") -> Version:
    """A version whose file is not in the blob store."""
    model, _ = Model.objects.get_or_create(owner=user, name=name)
    number = model.versions.count() + 1
    tensors = {
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 64]}],
        "outputs": [{"name": "label", "datatype": "INT64", "shape": [-1]}],
    }
    sha256 = f"{model.pk:032x}{number:032x}"
    made = Version.objects.create(
        model=model,
        number=number,
        format=format,
        size_bytes=size_bytes,
        content=content({"model.onnx": sha256}),
        metadata=tensors,
        checked_by=formats.CHECKS,
    )
    blob, _ = Blob.objects.get_or_create(sha256=sha256, size_bytes=size_bytes)
    VersionFile.objects.create(version=made, path="model.onnx", blob=blob)
    return made
