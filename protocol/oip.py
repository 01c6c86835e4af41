"""The Open Inference Protocol v2 over REST: bodies to and from tensors, JSON and the binary tensor extension.

A body in binary form is a JSON object, then the raw tensors in the order in which the JSON names them. How long the
JSON is says the header `Inference-Header-Content-Length` (here `header_bytes`; None where there was none, 0 for a body
that is nothing but the raw data of the model's single input).
"""

from __future__ import annotations

import re
from math import prod
from typing import Any, TypeVar

import msgspec

from protocol import tensor_json
from protocol.errors import BadRequest, RunFailed, Unsupported
from protocol.tensors import DATATYPES, Tensor, TensorSpec, data_bytes, join_elements, split_elements

HEADER = "Inference-Header-Content-Length"
MOST_DIMENSIONS = 32
MOST_ELEMENTS = 2**40  # also with a dimension of 0 left out: libraries multiply the others without looking


class RequestedOutput(msgspec.Struct, frozen=True):
    name: str
    binary: bool = False


class InferRequest(msgspec.Struct, frozen=True, kw_only=True):
    inputs: list[Tensor]
    outputs: list[RequestedOutput] = []  # empty: all, as `binary_output` says
    binary_output: bool = False
    id: str = ""
    timeout_us: int | None = None

    @property
    def output_names(self) -> list[str]:
        return [output.name for output in self.outputs]


class InferResponse(msgspec.Struct, frozen=True, kw_only=True):
    model_name: str
    model_version: str = ""
    id: str = ""
    outputs: list[Tensor]


# The shapes of the JSON, as far as we look at it. What we do not know is ignored, as the protocol wants.


class _InputParameters(msgspec.Struct, frozen=True):
    binary_data_size: int | None = None
    shared_memory_region: str | None = None


class _TensorJson(msgspec.Struct, frozen=True):
    name: str
    datatype: str
    shape: list[int]
    parameters: _InputParameters = _InputParameters()
    data: msgspec.Raw = msgspec.Raw()  # empty: absent


class _OutputParameters(msgspec.Struct, frozen=True):
    binary_data: bool | None = None
    classification: int | None = None
    shared_memory_region: str | None = None


class _OutputJson(msgspec.Struct, frozen=True):
    name: str
    parameters: _OutputParameters = _OutputParameters()


class _RequestParameters(msgspec.Struct, frozen=True):
    binary_data_output: bool = False
    timeout: int | None = None


class _RequestJson(msgspec.Struct, frozen=True):
    inputs: list[_TensorJson]
    id: str = ""
    outputs: list[_OutputJson] = []
    parameters: _RequestParameters = _RequestParameters()


class _ResponseJson(msgspec.Struct, frozen=True):
    model_name: str
    outputs: list[_TensorJson]
    model_version: str = ""
    id: str = ""


_T = TypeVar("_T")
_request = msgspec.json.Decoder(_RequestJson)
_response = msgspec.json.Decoder(_ResponseJson)
_encode = msgspec.json.Encoder().encode
_NOT_JSON = re.compile(rb"[\[:,\s](-?(?:NaN|Infinity|nan|inf))\b")


def read_request(body: bytes, header_bytes: int | None, inputs: list[TensorSpec]) -> InferRequest:
    """The request in `body`, complete in itself. `inputs` (what the model takes) is needed for a raw body only: see
    `check_inputs` and `check_outputs` for what fits the model."""
    if header_bytes == 0:
        return InferRequest(inputs=[_raw_input(body, inputs)], binary_output=True)
    head = _decode(_request, body, header_bytes)
    default = head.parameters.binary_data_output
    return InferRequest(
        inputs=_tensors("Input", head.inputs, body, header_bytes),
        outputs=[_requested(output, default) for output in head.outputs],
        binary_output=default,
        id=head.id,
        timeout_us=head.parameters.timeout,
    )


def read_response(body: bytes, header_bytes: int | None) -> InferResponse:
    head = _decode(_response, body, header_bytes)
    return InferResponse(
        model_name=head.model_name,
        model_version=head.model_version,
        id=head.id,
        outputs=_tensors("Output", head.outputs, body, header_bytes),
    )


def check_inputs(request: InferRequest, inputs: list[TensorSpec]) -> None:
    """That the request's inputs are the ones that the model takes."""
    specs = {spec.name: spec for spec in inputs}
    seen = set()
    for tensor in request.inputs:
        spec = specs.get(tensor.name)
        if spec is None:
            raise BadRequest(f"The model has no input '{tensor.name}'; it takes {_names(inputs)}.")
        if tensor.name in seen:
            raise BadRequest(f"Input '{tensor.name}' is given twice.")
        seen.add(tensor.name)
        if tensor.datatype != spec.datatype:
            raise BadRequest(f"Input '{tensor.name}' is {tensor.datatype}; the model takes {spec.datatype}.")
        if not _fits(tensor.shape, spec.shape):
            raise BadRequest(f"Input '{tensor.name}' has the shape {tensor.shape}; the model takes {spec.shape}.")
    if missing := [spec for spec in inputs if spec.name not in seen and not spec.may_be_missing]:
        raise BadRequest(f"Missing input {_names(missing)}.")


def check_outputs(request: InferRequest, outputs: list[TensorSpec]) -> None:
    """That the model gives what the request asks for."""
    known = {spec.name for spec in outputs}
    seen = set()
    for output in request.outputs:
        if output.name not in known:
            raise BadRequest(f"The model has no output '{output.name}'; it gives {_names(outputs)}.")
        if output.name in seen:
            raise BadRequest(f"Output '{output.name}' is asked for twice.")
        seen.add(output.name)


def write_request(request: InferRequest) -> tuple[bytes, int]:
    """(body, header_bytes), every input in binary form."""
    head: dict[str, Any] = {"id": request.id} if request.id else {}
    head["inputs"] = [_binary_head(tensor) for tensor in request.inputs]
    if request.outputs:
        head["outputs"] = [
            {"name": output.name, "parameters": {"binary_data": output.binary}} for output in request.outputs
        ]
    parameters: dict[str, Any] = {}
    if request.binary_output:
        parameters["binary_data_output"] = True
    if request.timeout_us is not None:
        parameters["timeout"] = request.timeout_us
    if parameters:
        head["parameters"] = parameters
    body = _encode(head)
    return b"".join([body, *(tensor.data for tensor in request.inputs)]), len(body)


def write_response(
    request: InferRequest, *, model_name: str, model_version: str, outputs: list[Tensor]
) -> tuple[bytes, int | None]:
    """(body, header_bytes) in the form that the request asks for; header_bytes is None where no binary data follows."""
    wanted = request.outputs or [RequestedOutput(tensor.name, request.binary_output) for tensor in outputs]
    given = {tensor.name: tensor for tensor in outputs}
    heads: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for output in wanted:
        tensor = given.get(output.name)
        if tensor is None:
            raise RunFailed(f"The model gave no output '{output.name}'.")
        _check_given(tensor)
        if output.binary:
            heads.append(_binary_head(tensor))
            raw.append(tensor.data)
        else:
            data = tensor_json.write(tensor.datatype, tensor.data, f"Output '{tensor.name}'")
            heads.append({"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape, "data": data})
    head: dict[str, Any] = {"model_name": model_name, "model_version": model_version}
    if request.id:
        head["id"] = request.id
    head["outputs"] = heads
    body = _encode(head)
    return (b"".join([body, *raw]), len(body)) if raw else (body, None)


def _check_given(tensor: Tensor) -> None:
    """A node is a stranger: what it sends must not break the encoding, nor the client behind it."""
    where = f"Output '{tensor.name}'"
    try:
        if tensor.datatype not in DATATYPES:
            raise BadRequest(f"{where}: unknown datatype '{tensor.datatype}'.")
        _check_length(tensor.data, tensor.datatype, tensor.shape, where)
    except BadRequest as error:
        raise RunFailed(f"The model gave a broken answer. {error.message}") from error


def _decode(decoder: msgspec.json.Decoder[_T], body: bytes, header_bytes: int | None) -> _T:
    if header_bytes is not None and not 0 < header_bytes <= len(body):
        raise BadRequest(f"{HEADER} is {header_bytes}, but the body has {len(body)} bytes.")
    head = memoryview(body)[:header_bytes]
    try:
        return decoder.decode(head)
    except msgspec.ValidationError as error:
        raise BadRequest(f"The JSON is not what the protocol wants: {_at_body(error)}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"The body is not JSON: {_at_body(error)}{_hint(bytes(head), header_bytes)}") from error
    except RecursionError as error:
        raise BadRequest("The JSON is nested too deep.") from error


def _at_body(error: Exception) -> str:
    return str(error).replace("`$", "`body").rstrip(".") + "."


def _hint(head: bytes, header_bytes: int | None) -> str:
    if found := _NOT_JSON.search(head):
        return f" {found[1].decode()} is no JSON number: send such tensors in binary form."
    if header_bytes is None and head.lstrip()[:1] == b"{":
        return f" (If raw tensors follow the JSON, the header {HEADER} must say how long the JSON is.)"
    return ""


def _tensors(kind: str, heads: list[_TensorJson], body: bytes, header_bytes: int | None) -> list[Tensor]:
    at = len(body) if header_bytes is None else header_bytes
    tensors = []
    for head in heads:
        where = f"{kind} '{head.name}'"
        _check_head(head, where)
        size = head.parameters.binary_data_size
        if size is None:
            if not head.data:
                raise BadRequest(f"{where} has neither data nor binary_data_size.")
            data = tensor_json.read(memoryview(head.data), head.datatype, head.shape, where)
        else:
            if head.data:
                raise BadRequest(f"{where} has both data and binary_data_size; give one.")
            if not 0 <= size <= len(body) - at:
                raise BadRequest(
                    f"{where}: binary_data_size is {size}, but {len(body) - at} bytes are left in the body."
                )
            data = body[at : at + size]
            at += size
            _check_length(data, head.datatype, head.shape, where)
        tensors.append(Tensor(head.name, head.datatype, head.shape, data))
    if at != len(body):
        raise BadRequest(f"{len(body) - at} bytes follow the last binary {kind.lower()} of the body.")
    return tensors


def _check_head(head: _TensorJson, where: str) -> None:
    if head.datatype not in DATATYPES:
        raise BadRequest(f"{where}: unknown datatype '{head.datatype}'; known are {', '.join(DATATYPES)}.")
    if len(head.shape) > MOST_DIMENSIONS:
        raise BadRequest(f"{where} has {len(head.shape)} dimensions; {MOST_DIMENSIONS} are the most.")
    if any(size < 0 for size in head.shape):
        raise BadRequest(f"{where}: the shape {head.shape} has a negative dimension.")
    if prod(size or 1 for size in head.shape) > MOST_ELEMENTS:
        raise BadRequest(f"{where}: the shape {head.shape} is too large.")
    if head.parameters.shared_memory_region is not None:
        raise Unsupported(f"{where}: shared memory is not supported; send the data in the request.")


def _check_length(data: bytes, datatype: str, shape: list[int], where: str) -> None:
    wanted = data_bytes(datatype, shape)
    if wanted is None:
        try:
            elements = len(split_elements(data))
        except BadRequest as error:
            raise BadRequest(f"{where}: {error.message}") from error
        if elements != prod(shape):
            raise BadRequest(f"{where}: data has {elements} elements, but the shape {shape} has {prod(shape)}.")
    elif len(data) != wanted:
        raise BadRequest(f"{where}: data has {len(data)} bytes, but {datatype} of the shape {shape} has {wanted}.")


def _raw_input(body: bytes, inputs: list[TensorSpec]) -> Tensor:
    """The whole body as the model's one input, a batch of one."""
    if len(inputs) != 1:
        raise BadRequest(
            f"A body without JSON ({HEADER}: 0) is for models with one input; this takes {_names(inputs)}."
        )
    spec = inputs[0]
    where = f"Input '{spec.name}'"
    shape = list(spec.shape)
    if spec.datatype == "BYTES":
        return Tensor(spec.name, spec.datatype, [1] * len(shape), join_elements([body]))
    if shape.count(-1) > 1 and shape[0] == -1:
        shape[0] = 1
    if shape.count(-1) > 1:
        raise BadRequest(f"{where} has the shape {spec.shape}: its size cannot be told from the number of bytes.")
    if -1 in shape:
        row = data_bytes(spec.datatype, [size for size in shape if size != -1]) or 1
        shape[shape.index(-1)] = len(body) // row
    _check_length(body, spec.datatype, shape, where)
    return Tensor(spec.name, spec.datatype, shape, body)


def _requested(output: _OutputJson, default: bool) -> RequestedOutput:
    if output.parameters.shared_memory_region is not None:
        raise Unsupported(f"Output '{output.name}': shared memory is not supported.")
    if output.parameters.classification:
        raise Unsupported(f"Output '{output.name}': classification is not supported; take the scores.")
    binary = output.parameters.binary_data
    return RequestedOutput(output.name, default if binary is None else binary)


def _binary_head(tensor: Tensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": tensor.shape,
        "parameters": {"binary_data_size": len(tensor.data)},
    }


def _fits(shape: list[int], wanted: list[int]) -> bool:
    return len(shape) == len(wanted) and all(want in (-1, size) for size, want in zip(shape, wanted, strict=True))


def _names(specs: list[TensorSpec]) -> str:
    return ", ".join(f"'{spec.name}'" for spec in specs) or "nothing"
