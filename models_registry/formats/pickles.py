"""Reads the pickles in PyTorch's archives without unpickling: nothing is imported, nothing is called.

Of the pickle machine only what these files need is played, on values that can do nothing; any other opcode or global is
refused. What is found out: the tensors, and how large the storages are that they want.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from models_registry.formats import specs
from protocol.errors import ModelRefused

OPCODES_LIMIT = 250_000  # ten thousand tensors; about a second
BYTES_LIMIT = 16 * 1024**2

STORAGES = {
    "ByteStorage": 1, "CharStorage": 1, "ShortStorage": 2, "IntStorage": 4, "LongStorage": 8, "HalfStorage": 2,
    "FloatStorage": 4, "DoubleStorage": 8, "BoolStorage": 1, "BFloat16Storage": 2, "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16, "QInt8Storage": 1, "QUInt8Storage": 1, "QInt32Storage": 4, "UntypedStorage": 1,
}  # fmt: skip
TENSORS = {"torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_qtensor"}
# These give back their first argument, or something made of it that holds no tensor.
WRAPPERS = {"torch._utils _rebuild_parameter", "torch.jit._pickle restore_type_tag"}
WITH_ATTRIBUTES = "torch._tensor _rebuild_from_type_v2"  # function, class, arguments, attributes
PLAIN = {"collections OrderedDict", "builtins complex", "builtins set", "__builtin__ set"}
PLAIN |= {"torch Tensor", "torch device", "torch Size"}
PLAIN |= {f"torch.jit._pickle build_{name}" for name in ("intlist", "doublelist", "boollist", "tensorlist")}
PLAIN |= {f"torch per_{name}" for name in ("tensor_affine", "channel_affine", "channel_affine_float_qparams")}
KNOWN = TENSORS | WRAPPERS | PLAIN | {WITH_ATTRIBUTES}

PUSHED = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
MARK = object()


@dataclass(frozen=True)
class Global:
    name: str  # "module name"


@dataclass(frozen=True)
class Storage:
    key: str
    element_bytes: int
    elements: int


class Opaque:
    """What a class of the model's own, or one of the plain ones, makes."""


def read(data: bytes, what: str, own: Callable[[str], bool]) -> dict[str, Storage]:
    """The storages that the tensors in it want, by their names. `what`: what the pickle is called in the refusals.
    `own`: whether a module's classes are the archive's own."""
    try:
        return _Machine(what, own).play(data)
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise ModelRefused(f"{what} is not a pickle as PyTorch writes it.") from error


class _Machine:
    def __init__(self, what: str, own: Callable[[str], bool]) -> None:
        self._what = what
        self._own = own
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._storages: dict[str, Storage] = {}

    def play(self, data: bytes) -> dict[str, Storage]:
        count = 0
        stopped = False
        try:
            for opcode, argument, position in pickletools.genops(data):
                count += 1
                if count > OPCODES_LIMIT:
                    raise ModelRefused(f"{self._what} has more than {OPCODES_LIMIT:,} parts.")
                stopped = opcode.name == "STOP" and position == len(data) - 1
                self._step(opcode.name, argument)
        except ValueError as error:  # of genops
            raise ModelRefused(f"{self._what} is not a valid pickle: {error}.") from error
        if not stopped:
            raise ModelRefused(f"{self._what} goes on after its end.")
        return self._storages

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in PUSHED:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in ("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT"):
            stack.append(() if name == "EMPTY_TUPLE" else Opaque())
        elif name == "MARK":
            stack.append(MARK)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            size = int(name[-1])
            stack[-size:] = [tuple(stack[-size:])]
        elif name == "TUPLE":
            stack.append(self._from_mark())
        elif name in ("LIST", "DICT"):
            self._from_mark()
            stack.append(Opaque())
        elif name in ("APPENDS", "SETITEMS"):
            self._from_mark()
        elif name in ("APPEND", "SETITEM", "BUILD"):
            del stack[-2 if name == "SETITEM" else -1 :]
        elif name == "GLOBAL":
            stack.append(self._global(argument))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments = stack.pop()
            stack.append(self._called(stack.pop(), arguments))
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ModelRefused(f"{self._what} uses {name}, which PyTorch does not write into such files.")

    def _from_mark(self) -> tuple[Any, ...]:
        at = len(self._stack) - 1
        while self._stack[at] is not MARK:
            at -= 1
        items = tuple(self._stack[at + 1 :])
        del self._stack[at:]
        return items

    def _global(self, name: str) -> Global:
        module, _, attribute = name.partition(" ")
        known = name in KNOWN or (module == "torch" and attribute in STORAGES)
        if not known and not self._own(module):
            raise ModelRefused(
                f"{self._what} is a pickle that calls {module[:100]}.{attribute[:100]}: loading it would run that. "
                "Such files are not taken."
            )
        return Global(name)

    def _called(self, function: Global, arguments: tuple[Any, ...]) -> Any:
        if function.name in TENSORS:
            return self._tensor(*arguments[:4])
        if function.name == WITH_ATTRIBUTES:
            return self._called(arguments[0], arguments[2])
        if function.name in WRAPPERS:
            return arguments[0]
        return Opaque()

    def _storage(self, id: tuple[Any, ...]) -> Storage:
        kind, storage, key, _, elements = id
        module, _, attribute = storage.name.partition(" ")
        if kind != "storage" or module != "torch" or not (key.isascii() and key.isdigit() and _is_size(elements)):
            raise ModelRefused(f"{self._what} refers to something that is no storage of a tensor.")
        found = Storage(key, STORAGES[attribute], elements)
        if self._storages.setdefault(key, found) != found:
            raise ModelRefused(f"{self._what} gives the storage {key} two sizes.")
        return found

    def _tensor(self, storage: Storage, offset: int, sizes: tuple[int, ...], strides: tuple[int, ...]) -> Opaque:
        check_view(f"A tensor in {self._what}", storage.elements, offset, sizes, strides)
        return Opaque()


def check_view(what: str, elements: int, offset: int, sizes: Sequence[int], strides: Sequence[int]) -> None:
    """That a view lies inside its storage and is no larger than it: with a stride of 0, a file of some bytes becomes
    as large as one likes."""
    numbers = (offset, *sizes, *strides)
    if len(sizes) != len(strides) or len(sizes) > specs.RANK_LIMIT or not all(map(_is_size, numbers)):
        raise ModelRefused(f"{what} has an impossible shape.")
    wanted = prod(sizes)
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)) if wanted else -1
    if wanted > elements or last >= elements:
        raise ModelRefused(f"{what} wants {wanted:,} elements, more than its storage of {elements:,} has for it.")


def _is_size(number: object) -> bool:
    return isinstance(number, int) and 0 <= number < 2**63
