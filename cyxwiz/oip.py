"""The Open Inference Protocol as this client speaks it: JSON, or JSON followed by raw tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from cyxwiz.errors import NotUnderstood
from cyxwiz.tensors import ONLY_BINARY, Tensor

HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Prediction:
    """`prediction["label"]` is a Tensor: `.tolist()`, `.numpy()`, or straight into `numpy.asarray`."""

    model: str
    version: str
    outputs: list[Tensor] = field(repr=False)

    def __getitem__(self, name: str) -> Tensor:
        for tensor in self.outputs:
            if tensor.name == name:
                return tensor
        raise KeyError(f"{name!r} is no output; there are {', '.join(tensor.name for tensor in self.outputs)}")

    def as_json(self) -> dict[str, Any]:
        """As a server would answer in JSON."""
        outputs = [{"name": t.name, "datatype": t.datatype, "shape": t.shape, "data": t.flat()} for t in self.outputs]
        return {"model_name": self.model, "model_version": self.version, "outputs": outputs}


def infer_request(
    tensors: Sequence[Tensor], wanted: Sequence[str], more: Mapping[str, Any] | None = None
) -> tuple[bytes, dict[str, str]]:
    """(body, headers). Bytes go out as bytes, and then come back as bytes; lists stay readable JSON. `more`: further
    fields of the JSON."""
    binary = any(isinstance(t.values, bytes) or t.datatype in ONLY_BINARY for t in tensors)
    head: dict[str, Any] = {**(more or {}), "inputs": []}
    if wanted:
        head["outputs"] = [{"name": name} for name in wanted]
    if not binary:
        head["inputs"] = [_json_input(tensor) for tensor in tensors]
        return msgspec.json.encode(head), {"Content-Type": "application/json"}
    blobs = [tensor.packed() for tensor in tensors]
    for tensor, blob in zip(tensors, blobs, strict=True):
        described = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        head["inputs"].append(described | {"parameters": {"binary_data_size": len(blob)}})
    head["parameters"] = {"binary_data_output": True}
    encoded = msgspec.json.encode(head)
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(encoded))}
    return b"".join([encoded, *blobs]), headers


def _json_input(tensor: Tensor) -> dict[str, Any]:
    data = tensor.flat()
    if tensor.datatype == "BYTES":
        data = [element if isinstance(element, str) else element.decode() for element in data]
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape, "data": data}


def read_prediction(body: bytes, header_length: str | None) -> Prediction:
    """What a server answered; `header_length` is its HEADER_LENGTH header."""
    split = int(header_length) if header_length and header_length.isdigit() else len(body)
    try:
        head = msgspec.json.decode(body[:split])
        outputs, at = [], split
        for output in head["outputs"]:
            size = (output.get("parameters") or {}).get("binary_data_size")
            values = _flat(output["data"]) if size is None else body[at : at + size]
            at += size or 0
            outputs.append(Tensor(output["name"], output["datatype"], output["shape"], values))
        return Prediction(head.get("model_name", ""), str(head.get("model_version", "")), outputs)
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        pass
    raise NotUnderstood("The answer is no inference response as the Open Inference Protocol describes it.")


def _flat(data: Any) -> list[Any]:
    """The protocol allows nested and flat data."""
    while data and isinstance(data[0], list):
        data = [element for row in data for element in row]
    return list(data)
