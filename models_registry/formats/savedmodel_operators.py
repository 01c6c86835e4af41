"""What the program in a SavedModel may do: compute with what it is given. It may use the operators in
`savedmodel_operators.txt`.

Every SavedModel has in it the functions by which TensorFlow once saved and restored its variables, and these write and
read files. They do no harm, for TensorFlow 2 restores variables by its own code; so they are admitted, but only as
functions that nothing else in the model can reach.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from models_registry.formats.savedmodel_shapes import Shapes
from models_registry.formats.wire import LENGTH, Malformed, Wire
from protocol.errors import ModelRefused

NODES_LIMIT = 100_000
FUNCTIONS_LIMIT = 20_000
DEPTH_LIMIT = 16  # attributes of functions in attributes
TEXT_LIMIT = 4096
SHOWN = 5
SAVER = frozenset({b"SaveV2", b"RestoreV2", b"MergeV2Checkpoints", b"ShardedFilename"})
# By this attribute of a function TensorFlow may put it in the place of another that has the same.
ALIAS = b"api_implements"
ADVICE = {
    b"InitializeTableFromTextFileV2": "Build lookup tables from constants (tf.lookup.KeyValueTensorInitializer).",
    b"PrintV2": "Leave tf.print out of what is saved.",
}


@cache
def allowed() -> frozenset[bytes]:
    lines = Path(__file__).with_suffix(".txt").read_bytes().splitlines()
    return frozenset(name for line in lines if not line.startswith(b"#") for name in line.split())


@dataclass
class Body:
    """What a function, or the graph itself, consists of."""

    operators: set[bytes] = field(default_factory=set)
    calls: set[bytes] = field(default_factory=set)  # whatever it names where a function may be named
    has_alias: bool = False


class Graph:
    """Field numbers are those of graph.proto, function.proto, attr_value.proto and saved_object_graph.proto."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.nodes = 0
        self.shapes = Shapes(wire.data)
        self._main = Body()
        self._functions: dict[bytes, Body] = {}
        self._objects: set[bytes] | None = None  # functions that TensorFlow may call when it loads or serves

    def read(self, start: int, end: int) -> None:
        """A GraphDef."""
        for number, kind, a, b in self._wire.fields(start, end):
            if number == 1 and kind == LENGTH:
                self._node(a, b, self._main)
            elif number == 2 and kind == LENGTH:
                self._library(a, b)

    def read_objects(self, start: int, end: int) -> None:
        """A SavedObjectGraph."""
        self._objects = self._objects or set()
        for number, kind, a, b in self._wire.fields(start, end):
            if number == 1 and kind == LENGTH:
                for inner, inner_kind, c, d in self._wire.fields(a, b):
                    if inner in (6, 8) and inner_kind == LENGTH:  # function, bare_concrete_function
                        self._objects.update(self._texts(c, d, 1))
            elif number == 2 and kind == LENGTH:  # concrete_functions, a map
                self._objects.update(self._texts(a, b, 1))

    def check(self) -> None:
        """Raises ModelRefused."""
        if self._objects is None:
            raise ModelRefused(
                "The SavedModel is one of TensorFlow 1. Load it with TensorFlow 2 and save it again: "
                "tf.saved_model.save(tf.saved_model.load(folder), other, signatures=…)."
            )
        bodies = [self._main, *self._functions.values()]
        used = set[bytes]().union(*(body.operators for body in bodies))
        if unknown := used - allowed() - SAVER:
            raise ModelRefused(_refusal(unknown))
        if self._main.operators & SAVER:
            raise ModelRefused(_refusal(self._main.operators & SAVER))
        saving = self._saving()
        if reached := sorted(name for name in saving if name in self._objects or self._functions[name].has_alias):
            raise ModelRefused(
                f"The model's function {_shown(reached[0])} writes or reads files, by the operators that save and "
                "restore variables. A model that is served may only compute with what it is given."
            )

    def _saving(self) -> set[bytes]:
        """The functions that use files, by themselves or by others that they call."""
        callers: dict[bytes, list[bytes]] = {}
        for name, body in self._functions.items():
            for called in body.calls & self._functions.keys():
                callers.setdefault(called, []).append(name)
        found = {name for name, body in self._functions.items() if body.operators & SAVER}
        to_follow = list(found)
        while to_follow:
            for caller in callers.get(to_follow.pop(), ()):
                if caller not in found:
                    found.add(caller)
                    to_follow.append(caller)
        return found

    def _library(self, start: int, end: int) -> None:
        for number, kind, a, b in self._wire.fields(start, end):
            if number == 1 and kind == LENGTH:
                self._function(a, b)
            elif number == 2 and kind == LENGTH:  # the gradient of one function is another
                function, gradient = self._texts(a, b, 1), self._texts(a, b, 2)
                for name in function:
                    self._functions.setdefault(name, Body()).calls.update(gradient)

    def _function(self, start: int, end: int) -> None:
        body = Body()
        names: set[bytes] = set()
        for number, kind, a, b in self._wire.fields(start, end):
            if number == 1 and kind == LENGTH:
                names |= self._texts(a, b, 1)
            elif number == 3 and kind == LENGTH:
                self._node(a, b, body)
            elif number == 5 and kind == LENGTH:
                self._attribute(a, b, body)
                body.has_alias |= ALIAS in self._texts(a, b, 1)
        if len(names) != 1:
            raise Malformed(f"the function at byte {start:,} has {len(names)} names")
        (name,) = names
        # A name given twice: whichever TensorFlow takes, both were looked at.
        known = self._functions.setdefault(name, body)
        known.operators |= body.operators
        known.calls |= body.calls
        known.has_alias |= body.has_alias
        if len(self._functions) > FUNCTIONS_LIMIT:
            raise Malformed(f"it has more than {FUNCTIONS_LIMIT:,} functions")

    def _node(self, start: int, end: int, body: Body) -> None:
        self.nodes += 1
        if self.nodes > NODES_LIMIT:
            raise Malformed(f"it has more than {NODES_LIMIT:,} operators")
        operator, shapes_at = b"", []
        for number, kind, a, b in self._wire.fields(start, end):
            if number == 2 and kind == LENGTH:
                operator = self._text(a, b)
                body.operators.add(operator)
            elif number == 5 and kind == LENGTH:
                self._attribute(a, b, body)
                if self.shapes.is_of_shapes(a, b):
                    shapes_at.append((a, b))
        for place in shapes_at:
            self.shapes.add(operator, *place)

    def _attribute(self, start: int, end: int, body: Body, depth: int = DEPTH_LIMIT) -> None:
        """An entry of a map; its value may name functions: one, or a list of them."""
        if depth == 0:
            raise Malformed(f"it has attributes within attributes more than {DEPTH_LIMIT} deep")
        for number, kind, a, b in self._wire.fields(start, end):
            if number != 2 or kind != LENGTH:
                continue
            for inner, inner_kind, c, d in self._wire.fields(a, b):
                if inner == 10 and inner_kind == LENGTH:
                    self._named_function(c, d, body, depth)
                elif inner == 1 and inner_kind == LENGTH:
                    for n, k, e, f in self._wire.fields(c, d):
                        if n == 9 and k == LENGTH:
                            self._named_function(e, f, body, depth)

    def _named_function(self, start: int, end: int, body: Body, depth: int) -> None:
        for number, kind, a, b in self._wire.fields(start, end):
            if number == 1 and kind == LENGTH:
                body.calls.add(self._text(a, b))
            elif number == 2 and kind == LENGTH:
                self._attribute(a, b, body, depth - 1)

    def _texts(self, start: int, end: int, field: int) -> set[bytes]:
        return {self._text(a, b) for n, k, a, b in self._wire.fields(start, end) if n == field and k == LENGTH}

    def _text(self, start: int, end: int) -> bytes:
        if end - start > TEXT_LIMIT:
            raise Malformed(f"the text at byte {start:,} is longer than {TEXT_LIMIT:,} bytes")
        return self._wire.data[start:end]


def _refusal(operators: set[bytes]) -> str:
    named = sorted(operators)
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    advice = "".join(f" {words}" for operator, words in ADVICE.items() if operator in operators)
    return (
        f"The model uses the operators {', '.join(map(_shown, named[:SHOWN]))}{more}. A model that is served may only "
        "compute with what it is given: with operators that TensorFlow brings, and that reach no files, no network and "
        f"no Python.{advice}"
    )


def _shown(name: bytes) -> str:
    return "".join(c for c in name.decode(errors="replace") if c.isprintable())[:80]
