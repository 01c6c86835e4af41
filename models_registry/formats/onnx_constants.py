"""What an ONNX model computes of constants alone: onnxruntime does that when it loads, and a file of some hundred bytes
may ask for hours of it. Also written out are the model's functions, as onnxruntime does: functions that call each other
ten times are a thousand nodes by the third.

Shapes and small integers are followed through the operators by which exporters, and whoever means harm, make large
constants. What other operators make has no shape here, and counts nothing: the limits of the runner bound it.
"""

from __future__ import annotations

import operator
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from math import prod
from typing import NamedTuple

from models_registry.formats import specs
from models_registry.formats.wire import LENGTH, VARINT, Malformed, Wire, signed
from protocol.errors import ModelRefused

TEXT_LIMIT = 4096
NODES_LIMIT = 100_000
FUNCTIONS_DEEP = 64
# Some ten seconds of one core. Exporters leave some million: shapes, masks, weights to be transposed. And for each byte
# of weights, what to merge an adapter of rank 256 takes, and several copies.
MOST_MULTIPLICATIONS, MULTIPLICATIONS_PER_BYTE = 10**11, 256
MOST_BYTES, BYTES_PER_BYTE = 64 * 1024**3, 16
FEW = 64  # integers that may be a shape

INTEGERS = (6, 7)
BITS = 32  # where no type is known
WITH_GRAPHS = {"If", "Loop", "Scan", "SequenceMap"}
CHANGING = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
# Each element is made of one, or of those in the same place.
ALIKE = {
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "BitwiseAnd", "BitwiseNot",
    "BitwiseOr", "BitwiseXor", "Cast", "Ceil", "Celu", "Clip", "Cos", "Cosh", "CumSum", "Div", "Elu", "Equal", "Erf",
    "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN",
    "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not",
    "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Sinh", "Softmax",
    "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tan", "Tanh", "Trilu", "Where", "Xor",
}  # fmt: skip
ARITHMETIC: dict[str, Callable[[int, int], int]] = {"Add": operator.add, "Sub": operator.sub, "Mul": operator.mul}

Shape = tuple[int, ...]


class NotKnown(Exception):
    pass


class Value(NamedTuple):
    """A constant; None where it is not known."""

    shape: Shape | None = None
    numbers: Shape | None = None  # of a few integers
    bits: int = BITS

    @property
    def sizes(self) -> Shape:
        if self.shape is None:
            raise NotKnown
        return self.shape

    @property
    def few(self) -> Shape:
        if self.numbers is None:
            raise NotKnown
        return self.numbers


class Work(NamedTuple):
    made: Value
    multiplications: int


@dataclass
class Node:
    name: str = ""
    operator: str = ""
    domain: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Body:
    """Of a graph or a function."""

    inputs: list[str]
    outputs: list[str]
    nodes: list[Node]
    weights: dict[str, Value]


class Constants:
    def __init__(
        self, wire: Wire, element_bits: Mapping[int, int], functions: Mapping[tuple[str, str], tuple[int, int]]
    ) -> None:
        self._wire = wire
        self._element_bits = element_bits
        self._functions_at = functions
        self._functions: dict[tuple[str, str], Body] = {}
        self._nodes = self._multiplications = self._bytes = 0

    def check(self, start: int, end: int, inputs: Mapping[str, Sequence[int]], weight_bytes: int) -> None:
        """Of the graph between these positions, whose `inputs` have these shapes."""
        self._most_multiplications = MOST_MULTIPLICATIONS + MULTIPLICATIONS_PER_BYTE * weight_bytes
        self._most_bytes = MOST_BYTES + BYTES_PER_BYTE * weight_bytes
        self._inputs = {name: tuple(shape) for name, shape in inputs.items() if all(size >= 0 for size in shape)}
        body = self._body(start, end)
        self._walk(body, dict(body.weights), 0)

    def _walk(self, body: Body, known: MutableMapping[str, Value], deep: int) -> None:
        """Notes in `known` which values are constant."""
        if deep > FUNCTIONS_DEEP:
            raise Malformed(
                f"it has functions within functions more than {FUNCTIONS_DEEP} deep, or one that calls itself"
            )
        for node in body.nodes:
            self._nodes += 1 + len(node.inputs) // 16
            if self._nodes > NODES_LIMIT:
                raise Malformed(f"with its functions written out, its graph has more than {NODES_LIMIT:,} nodes")
            if function := self._function(node):
                self._call(function, node, known, deep)
            elif node.operator in WITH_GRAPHS:
                for a, b in self._graphs(node):
                    inner_body = self._body(a, b)
                    self._walk(inner_body, ChainMap(dict(inner_body.weights), known), deep + 1)
            elif node.operator == "Shape" and node.inputs and (shape := self._inputs.get(node.inputs[0])) is not None:
                known.update(dict.fromkeys(node.outputs, self._shape(node, shape)))
            elif node.operator not in CHANGING and all(name in known for name in node.inputs if name):
                self._compute(node, known)

    def _call(self, function: Body, node: Node, known: MutableMapping[str, Value], deep: int) -> None:
        given = {inner: known[name] for inner, name in zip(function.inputs, node.inputs, strict=False) if name in known}
        self._walk(function, given, deep + 1)
        made = zip(function.outputs, node.outputs, strict=False)
        known.update({name: given[inner] for inner, name in made if inner in given})

    def _compute(self, node: Node, known: MutableMapping[str, Value]) -> None:
        given = [known[name] for name in node.inputs if name]
        made, multiplications = self._work(node, given)
        if made.numbers is not None and len(made.numbers) > FEW:
            made = made._replace(numbers=None)
        known.update(dict.fromkeys(node.outputs, made))
        self._multiplications += multiplications
        self._bytes += 0 if made.shape is None else prod(made.shape) * made.bits // 8
        for what, count, most in (
            ("multiplications", self._multiplications, self._most_multiplications),
            ("bytes", self._bytes, self._most_bytes),
        ):
            if count > most:
                name = (node.name or (node.outputs or [""])[0])[:80]
                raise ModelRefused(
                    f"It computes too much before anybody asks it: with the node {name!r} ({node.operator[:80]}), what "
                    f"depends on no input takes more than {most:,} {what}. Have the exporter fold constants, so that "
                    "the file holds what they come to."
                )

    def _work(self, node: Node, given: list[Value]) -> Work:
        try:
            made, multiplications = self._made(node, given)
        except NotKnown:
            return Work(Value(), 0)
        except (IndexError, ValueError, ZeroDivisionError):  # no such model loads
            return Work(Value(), 0)
        if made.shape is not None and (len(made.shape) > specs.RANK_LIMIT or min(made.shape, default=0) < 0):
            made = Value()
        return Work(made, multiplications)

    def _made(self, node: Node, given: list[Value]) -> Work:
        first = given[0] if given else Value()
        match node.operator:
            case "Constant":
                return Work(self._constant(node), 0)
            case "ConstantOfShape":
                fill = self._attribute_tensor(node, "value")
                few = fill.numbers and prod(first.few) <= FEW
                return Work(Value(first.few, fill.few[:1] * prod(first.few) if few else None, fill.bits), 0)
            case "MatMul" | "Gemm" | "MatMulInteger":
                return self._product(node, given)
            case "Range":
                begin, stop, step = (one.few[0] for one in given)
                return Work(Value((max(-(-(stop - begin) // step), 0),), None, first.bits), 0)
            case "Expand":
                return Work(Value(_broadcast([first.sizes, given[1].few]), None, first.bits), 0)
            case "Tile":
                sizes = tuple(a * b for a, b in zip(first.sizes, given[1].few, strict=True))
                return Work(Value(sizes, None, first.bits), 0)
            case "Reshape":
                zeros = any(self._attribute_numbers(node, "allowzero"))
                return Work(first._replace(shape=_reshaped(first.sizes, given[1].few, zeros)), 0)
            case "Unsqueeze" | "Squeeze" as name:
                axes = given[1].few if len(given) > 1 else self._attribute_numbers(node, "axes")
                return Work(
                    first._replace(shape=(_unsqueezed if name == "Unsqueeze" else _squeezed)(first.sizes, axes)), 0
                )
            case "Transpose":
                order = self._attribute_numbers(node, "perm") or tuple(range(len(first.sizes)))[::-1]
                return Work(Value(tuple(first.sizes[axis] for axis in order), None, first.bits), 0)
            case "Concat":
                return Work(_joined(given, (self._attribute_numbers(node, "axis") or (0,))[0]), 0)
            case "Shape":
                return Work(self._shape(node, first.sizes), 0)
            case name if name in ALIKE:
                shape = _broadcast([one.sizes for one in given])
                bits = max(one.bits for one in given)
                return Work(Value(shape, _numbers(name, given), bits), prod(shape))
        return Work(Value(), 0)

    def _product(self, node: Node, given: list[Value]) -> Work:
        a, b = given[0].sizes, given[1].sizes
        if node.operator == "Gemm":
            a = a[::-1] if (self._attribute_numbers(node, "transA") or (0,))[0] else a
            b = b[::-1] if (self._attribute_numbers(node, "transB") or (0,))[0] else b
        shape = (*_broadcast([a[:-2], b[:-2]]), *a[-2:-1], *(b[-1:] if len(b) > 1 else ()))
        return Work(Value(shape, None, given[0].bits), prod(shape) * a[-1])

    def _shape(self, node: Node, shape: Shape) -> Value:
        begin = (self._attribute_numbers(node, "start") or (0,))[0]
        end = (self._attribute_numbers(node, "end") or (len(shape),))[0]
        return Value((len(shape[begin:end]),), shape[begin:end], 64)

    def _constant(self, node: Node) -> Value:
        for name in ("value_ints", "value_int"):
            if numbers := self._attribute_numbers(node, name):
                return Value((len(numbers),) if name == "value_ints" else (), numbers, 64)
        return self._attribute_tensor(node, "value")

    def _function(self, node: Node) -> Body | None:
        key = node.domain or "ai.onnx", node.operator
        if key not in self._functions_at:
            return None
        if key not in self._functions:
            self._functions[key] = self._body(*self._functions_at[key], is_function=True)
        return self._functions[key]

    def _body(self, start: int, end: int, is_function: bool = False) -> Body:
        node_at, input_at, output_at = (7, 4, 5) if is_function else (1, 11, 12)
        body = Body([], [], [], {})
        for number, kind, a, b in self._wire.fields(start, end):
            if kind != LENGTH:
                continue
            if number == node_at:
                body.nodes.append(self._node(a, b))
            elif is_function and number == input_at:
                body.inputs.append(self._wire.text(a, b, TEXT_LIMIT))
            elif is_function and number == output_at:
                body.outputs.append(self._wire.text(a, b, TEXT_LIMIT))
            elif not is_function and number == 5:
                name, value = self._tensor(a, b)
                body.weights[name] = value
        return body

    def _node(self, start: int, end: int) -> Node:
        node, text = Node(), self._wire.text
        for number, kind, a, b in self._wire.fields(start, end):
            if kind != LENGTH:
                continue
            if number == 1:
                node.inputs.append(text(a, b, TEXT_LIMIT))
            elif number == 2:
                node.outputs.append(text(a, b, TEXT_LIMIT))
            elif number == 3:
                node.name = text(a, b, TEXT_LIMIT)
            elif number == 4:
                node.operator = text(a, b, TEXT_LIMIT)
            elif number == 5:
                node.attributes.append((a, b))
            elif number == 7:
                node.domain = text(a, b, TEXT_LIMIT)
        return node

    def _graphs(self, node: Node) -> Iterator[tuple[int, int]]:
        for place in node.attributes:
            for number, kind, a, b in self._wire.fields(*place):
                if number in (6, 11) and kind == LENGTH:
                    yield a, b

    def _named(self, node: Node, name: str) -> Iterator[tuple[int, int, int, int]]:
        """The fields of that attribute."""
        for place in node.attributes:
            fields = list(self._wire.fields(*place))
            if any(number == 1 and kind == LENGTH and self._is(name, a, b) for number, kind, a, b in fields):
                yield from fields

    def _is(self, name: str, start: int, end: int) -> bool:
        return self._wire.data[start:end] == name.encode()

    def _attribute_numbers(self, node: Node, name: str) -> Shape:
        found: list[int] = []
        for number, kind, a, b in self._named(node, name):
            if number in (3, 8) and kind == VARINT:
                found.append(signed(a))
            elif number == 8 and kind == LENGTH:
                found.extend(map(signed, self._wire.varints(a, b)))
        return tuple(found)

    def _attribute_tensor(self, node: Node, name: str) -> Value:
        for number, kind, a, b in self._named(node, name):
            if number == 5 and kind == LENGTH:
                return self._tensor(a, b)[1]
        return Value()

    def _tensor(self, start: int, end: int) -> tuple[str, Value]:
        name, element_type, raw = "", 0, b""
        dims: list[int] = []
        numbers: list[int] = []
        for number, kind, a, b in self._wire.fields(start, end):
            if number == 1:
                dims += [signed(a)] if kind == VARINT else map(signed, self._wire.varints(a, b))
            elif number == 2 and kind == VARINT:
                element_type = a
            elif number in (5, 7) and prod(dims) <= FEW:
                numbers += [signed(a)] if kind == VARINT else map(signed, self._wire.varints(a, b))
            elif number == 8 and kind == LENGTH:
                name = self._wire.text(a, b, TEXT_LIMIT)
            elif number == 9 and kind == LENGTH and b - a <= FEW * 8:
                raw = self._wire.data[a:b]
        bits = self._element_bits.get(element_type, BITS)
        if element_type not in INTEGERS:
            return name, Value(tuple(dims), None, bits)
        width = bits // 8
        numbers += [int.from_bytes(raw[at : at + width], "little", signed=True) for at in range(0, len(raw), width)]
        return name, Value(tuple(dims), tuple(numbers) if len(numbers) == prod(dims) else None, bits)


def _broadcast(shapes: Iterable[Shape]) -> Shape:
    """Each size is the largest there: what cannot be broadcast does not load."""
    columns = zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1)
    return tuple(0 if 0 in sizes else max(sizes) for sizes in columns)[::-1]


def _unsqueezed(before: Shape, axes: Shape) -> Shape:
    rank = len(before) + len(axes)
    new, old = {axis % rank for axis in axes}, iter(before)
    return tuple(1 if axis in new else next(old) for axis in range(rank))


def _squeezed(before: Shape, axes: Shape) -> Shape:
    gone = {axis % len(before) for axis in axes} or {axis for axis, size in enumerate(before) if size == 1}
    return tuple(size for axis, size in enumerate(before) if axis not in gone)


def _reshaped(before: Shape, wanted: Shape, zeros: bool) -> Shape:
    """`zeros`: a 0 is one; else the size that was there."""
    sizes = [before[at] if size == 0 and not zeros else size for at, size in enumerate(wanted)]
    known = prod(size for size in sizes if size != -1)
    return tuple(prod(before) // known if size == -1 else size for size in sizes)


def _joined(given: Sequence[Value], axis: int) -> Value:
    shapes = [one.sizes for one in given]
    sizes = list(shapes[0])
    sizes[axis] = sum(shape[axis] for shape in shapes)
    parts = [one.numbers for one in given]
    together = None if None in parts or len(sizes) != 1 else tuple(number for part in parts for number in part or ())
    return Value(tuple(sizes), together, given[0].bits)


def _numbers(name: str, given: Sequence[Value]) -> Shape | None:
    parts = [one.numbers for one in given]
    if None in parts or not parts:
        return None
    if name in ("Identity", "Cast"):
        return parts[0]
    if name not in ARITHMETIC or len(parts) != 2:
        return None
    a, b = (part or () for part in parts)
    longest = max(len(a), len(b))
    a, b = (part * longest if len(part) == 1 else part for part in (a, b))
    return tuple(ARITHMETIC[name](left, right) for left, right in zip(a, b, strict=True))
