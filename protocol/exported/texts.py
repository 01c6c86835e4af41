"""The texts of Python inside a graph: sizes that are computed of others, and conditions on the inputs' shapes under
which the graph holds. They are parsed and never given to Python to evaluate."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from protocol.errors import ModelRefused

LENGTH_LIMIT = 10_000
NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
WORD = re.compile(r"-?\w+(\.\w+)?", re.ASCII)  # all that a text within a text may be

Shapes = dict[str, tuple[int, ...]]  # by the inputs' names
Compute = Callable[[Shapes], Any]

# What sympy's srepr writes of a size, and what PyTorch adds to it
EXPRESSIONS = {
    "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod", "Abs", "Equality",
    "Unequality", "Eq", "Ne", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan", "And", "Or", "Not",
    "Piecewise", "ExprCondPair", "Tuple", "FloorDiv", "ModularIndexing", "Where", "PythonMod", "CleanDiv",
    "CeilToInt", "FloorToInt", "CeilDiv", "LShift", "RShift", "PowByNatural", "FloatPow", "FloatTrueDiv",
    "IntTrueDiv", "IsNonOverlappingAndDenseIndicator", "TruncToFloat", "TruncToInt", "RoundToInt", "RoundDecimal",
    "ToFloat", "Identity",
}  # fmt: skip
BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "max": max,
    "min": min,
    "Max": max,
    "Min": min,
    "Mod": operator.mod,
    "PythonMod": operator.mod,
    "FloorDiv": operator.floordiv,
}


@dataclass(frozen=True)
class Condition:
    text: str
    holds: Compute


def check_expression(text: str) -> None:
    """That it computes, and does nothing else, should anybody evaluate it."""
    for node in ast.walk(_parsed(text)):
        match node:
            case ast.Constant(value=str() as word) if WORD.fullmatch(word):
                pass
            case ast.Constant(value=bool() | int() | float()):
                pass
            case ast.Call(func=ast.Name(id=name)) if name in EXPRESSIONS:
                pass
            case ast.Expression() | ast.BinOp() | ast.UnaryOp() | ast.Compare() | ast.Name() | ast.keyword():
                pass
            case ast.operator() | ast.unaryop() | ast.cmpop() | ast.expr_context():
                pass
            case _:
                raise ModelRefused(f"A size in the graph is given as {text[:200]!r}, which is no arithmetic.")


def condition(text: str, flat: Sequence[str | None]) -> Condition:
    """`flat`: the names of the inputs in the graph, in their order; None for one that is no tensor."""
    try:
        return Condition(text, _computed(_parsed(text).body, flat))
    except (LookupError, RecursionError) as error:
        raise _not_understood(text) from error


def _computed(node: ast.expr, flat: Sequence[str | None]) -> Compute:
    function: Callable[..., Any]
    match node:
        case ast.Constant(value=bool() | int() | float() as number):
            return lambda shapes: number
        case ast.Subscript(
            value=ast.Call(func=ast.Attribute(value=of, attr="size"), args=[], keywords=[]),
            slice=ast.Constant(value=int() as axis),
        ):
            name = _input(of, flat)
            return lambda shapes: shapes[name][axis]
        case ast.BinOp(left, op, right):
            function, parts = BINARY[type(op)], [left, right]
        case ast.Compare(left, [op], [right]):
            function, parts = COMPARE[type(op)], [left, right]
        case ast.UnaryOp(ast.Not(), one):
            function, parts = operator.not_, [one]
        case ast.UnaryOp(ast.USub(), one):
            function, parts = operator.neg, [one]
        case ast.BoolOp(ast.And(), parts):
            function = _all
        case ast.BoolOp(ast.Or(), parts):
            function = _any
        case ast.Call(func=ast.Name(id=called), args=parts, keywords=[]):
            function = FUNCTIONS[called]
        case _:
            raise LookupError(ast.dump(node)[:100])
    values = [_computed(part, flat) for part in parts]
    return lambda shapes: function(*[value(shapes) for value in values])


def _input(node: ast.expr, flat: Sequence[str | None]) -> str:
    """L['x'] is the input x, L['x'][0]['k'] is x_0_k, L['flat_args'][1] the second of all."""
    keys: list[object] = []
    while isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        keys.insert(0, node.slice.value)
        node = node.value
    if not isinstance(node, ast.Name) or node.id != "L":
        raise LookupError(ast.dump(node)[:100])
    match keys:
        case ["flat_args", int() as at]:
            name = flat[at]
        case _:
            name = "_".join(map(str, keys))
    if name is None or name not in flat:
        raise LookupError(name)
    return name


def _all(*values: Any) -> bool:
    return all(values)


def _any(*values: Any) -> bool:
    return any(values)


def _parsed(text: str) -> ast.Expression:
    if len(text) > LENGTH_LIMIT:
        raise ModelRefused(f"A text in the graph has more than {LENGTH_LIMIT:,} characters.")
    try:
        return ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _not_understood(text) from error


def _not_understood(text: str) -> ModelRefused:
    return ModelRefused(
        f"The graph holds under the condition {text[:200]!r}, which this CyxWiz cannot check. Export the model with "
        "fewer dynamic dimensions."
    )
