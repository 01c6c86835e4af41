"""Reads a graph; see the package."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from protocol.errors import ModelRefused
from protocol.exported import arguments, operators, schema, texts
from protocol.exported.arguments import Ref
from protocol.exported.schema import Argument, only
from protocol.tensors import TensorSpec

NODES_LIMIT = 200_000
DEPTH_LIMIT = 8  # graphs within graphs

DATATYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip
SYMBOL = re.compile(r"Symbol\('(\w+)'(?:, \w+=True)*\)|(\w+)", re.ASCII)  # a size that is not computed of others


@dataclass(frozen=True)
class Step:
    target: str
    args: list[Any]  # numbers, texts, None, Ref, Setting, Graph, and lists of these
    kwargs: dict[str, Any]
    gives: Any  # a name, None, or a list of these, as the operator gives one or several values
    last: tuple[str, ...]  # what no later step needs


@dataclass(frozen=True)
class Graph:
    takes: list[str]
    steps: list[Step]
    gives: list[Any]
    single: bool  # it gives a value rather than a list of one


@dataclass(frozen=True)
class Dimension:
    """A size that is the same wherever its symbol stands, within bounds."""

    symbol: str
    least: int
    most: int | None


@dataclass(frozen=True)
class Input:
    spec: TensorSpec
    sizes: list[int | Dimension | None]  # None: any


@dataclass(frozen=True)
class Program:
    graph: Graph
    inputs: dict[str, Input]  # by their names in the graph
    outputs: list[tuple[str, TensorSpec]]  # name in the graph; what it is called
    weights: dict[str, tuple[str, str]]  # name in the graph -> the folder of its record, its name there
    updates: list[tuple[str, str]]  # after a run the first becomes what the second is
    conditions: list[texts.Condition]  # on the shapes of the inputs
    torch_version: str
    values: list[tuple[int, list[int]]]  # of what is computed: bits of an element, shape; -1: any size


def read(data: bytes) -> Program:
    """`data`: the JSON of the archive's models/NAME.json. Refuses what this version cannot run."""
    version = schema.decode(data, schema.Versioned).schema_version.major
    if version != schema.MAJOR:
        raise ModelRefused(
            f"The graph has version {version} of its format; this CyxWiz reads version {schema.MAJOR}, "
            "which PyTorch 2.13 writes."
        )
    program = schema.decode(data, schema.Program)
    try:
        return _Reader(program).program()
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise ModelRefused(f"The graph is not as torch.export writes it: {type(error).__name__}: {error}.") from error


class _Reader:
    def __init__(self, program: schema.Program) -> None:
        self._program = program
        self._nodes = 0
        self._expressions: set[str] = set()  # that were looked at
        self._values: list[tuple[int, list[int]]] = []

    def program(self) -> Program:
        module = self._program.graph_module
        weights: dict[str, tuple[str, str]] = {}
        flat: list[str | None] = []
        for kind, spec in map(only, module.signature.input_specs):
            match kind:
                case "user_input":
                    flat.append(_tensor_name(spec["arg"], "an input of the model"))
                case "parameter":
                    weights[spec["arg"]["name"]] = ("weights", spec["parameter_name"])
                case "buffer":
                    folder = "weights" if spec["persistent"] else "constants"
                    weights[spec["arg"]["name"]] = (folder, spec["buffer_name"])
                case "tensor_constant":
                    weights[spec["arg"]["name"]] = ("constants", spec["tensor_constant_name"])
                case "constant_input":
                    _check_names([spec["name"]])
                    flat.append(None)  # fixed when the model was exported: no step reads it
                case _:
                    raise ModelRefused(f"The model takes {kind!r}, which is no tensor; this CyxWiz does not run it.")
        for entry in module.module_call_graph:
            if entry.signature is not None:
                _check_tree(entry.signature.in_spec)
                _check_tree(entry.signature.out_spec)
        users = [name for name in flat if name is not None]
        tops = [value for _, value in map(only, module.graph.inputs) if isinstance(value, dict)]
        _check_names([*weights, *users, *(name for value in tops for key, name in value.items() if "name" in key)])
        metas = module.graph.tensor_values
        graph = self._graph(module.graph, {*weights, *users}, 0)
        outputs = self._outputs(module, metas)
        updates = list(self._updates(module, weights))
        if not {name for name, _ in outputs} | {new for _, new in updates} <= set(arguments.names(graph.gives)):
            raise ModelRefused("The graph does not give what its signature promises.")
        return Program(
            graph=graph,
            inputs={name: self._input(name, metas[name]) for name in users},
            outputs=outputs,
            weights=weights,
            updates=updates,
            conditions=[texts.condition(text, flat) for text in self._program.guards_code],
            torch_version=self._program.torch_version,
            values=self._values,
        )

    def _graph(self, graph: schema.Graph, known: set[str], depth: int) -> Graph:
        if depth > DEPTH_LIMIT:
            raise ModelRefused(f"The model has graphs within graphs, more than {DEPTH_LIMIT} deep.")
        self._check_sizes(graph)
        self._values += [_measured(meta) for name, meta in graph.tensor_values.items() if name not in known]
        half = [self._step(node, known, depth) for node in graph.nodes]
        gives = [self._value(argument, depth) for argument in graph.outputs]
        _check_known(gives, known, "the outputs")
        needed = set(arguments.names(gives))
        steps = []
        for target, args, kwargs, given in reversed(half):
            used = {*arguments.names(args), *arguments.names(kwargs.values()), *arguments.flat(given)}
            steps.append(Step(target, args, kwargs, given, tuple(sorted(used - needed))))
            needed |= used
        return Graph([], steps[::-1], gives, graph.is_single_tensor_return)

    def _check_sizes(self, graph: schema.Graph) -> None:
        for meta in graph.tensor_values.values():
            for size in (*meta.sizes, *meta.strides, meta.storage_offset):
                if size.as_expr is not None and size.as_expr.expr_str not in self._expressions:
                    texts.check_expression(size.as_expr.expr_str)
                    self._expressions.add(size.as_expr.expr_str)
        for value in (
            *graph.sym_int_values.values(),
            *graph.sym_float_values.values(),
            *graph.sym_bool_values.values(),
        ):
            if "as_expr" in value:
                texts.check_expression(str(value["as_expr"]["expr_str"]))

    def _step(self, node: schema.Node, known: set[str], depth: int) -> tuple[str, list[Any], dict[str, Any], Any]:
        self._nodes += 1
        if self._nodes > NODES_LIMIT:
            raise ModelRefused(f"The model has more than {NODES_LIMIT:,} operations.")
        operators.check(node.target)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for given in node.inputs:
            value = self._value(given.arg, depth)
            if given.kind == 2:
                kwargs[given.name] = value
            elif given.kind == 1 and not kwargs:
                args.append(value)
            else:
                raise ModelRefused(
                    f"The argument {given.name!r} of {node.target} is neither positional nor named; export the model "
                    "again with a newer PyTorch."
                )
        _check_known([*args, *kwargs.values()], known, node.target)
        gives = _gives(node)
        _check_names([*kwargs, *arguments.flat(gives)])
        known |= set(arguments.flat(gives))
        return node.target, args, kwargs, gives

    def _value(self, argument: Argument, depth: int) -> Any:
        kind, value = only(argument)
        if (read_one := arguments.SCALARS.get(kind)) is not None:
            return read_one(value)
        if (read_one := arguments.LISTS.get(kind)) is not None:
            return [read_one(one) for one in msgspec.convert(value, list)]
        if kind == "as_nested_tensors":
            return [[Ref(one["name"]) for one in inner] for inner in value]
        if kind == "as_graph":
            inner = msgspec.convert(value["graph"], schema.Graph)
            takes = [_name(one) for one in inner.inputs]
            _check_names(takes)
            found = self._graph(inner, set(takes), depth + 1)
            return Graph(takes, found.steps, found.gives, found.single)
        raise ModelRefused(f"An operation takes an argument of the kind {kind!r}, which this CyxWiz does not run.")

    def _input(self, name: str, meta: schema.TensorMeta) -> Input:
        sizes = [self._dimension(size) for size in meta.sizes]
        shape = [size if isinstance(size, int) else -1 for size in sizes]
        return Input(TensorSpec(name, _datatype("input", name, meta), shape), sizes)

    def _dimension(self, size: schema.Size) -> int | Dimension | None:
        if size.as_int is not None:
            return size.as_int
        found = SYMBOL.fullmatch(size.as_expr.expr_str) if size.as_expr else None
        if found is None:
            return None
        symbol = found[1] or found[2]
        bounds = self._program.range_constraints.get(symbol)
        least, most = (bounds.min_val, bounds.max_val) if bounds else (None, None)
        return Dimension(symbol, least or 0, most)

    def _outputs(self, module: schema.Module, metas: dict[str, schema.TensorMeta]) -> list[tuple[str, TensorSpec]]:
        given = [spec for kind, spec in map(only, module.signature.output_specs) if kind == "user_output"]
        names = [_tensor_name(spec["arg"], "an output of the model") for spec in given]
        called = _keys(module, len(names)) or names
        outputs = []
        for name, public in zip(names, called, strict=True):
            meta = metas[name]
            shape = [-1 if size.as_int is None else size.as_int for size in meta.sizes]
            outputs.append((name, TensorSpec(public, _datatype("output", public, meta), shape)))
        return outputs

    def _updates(self, module: schema.Module, weights: dict[str, tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """Buffers that a run changes. Inputs that it changes are of no interest to who sent them."""
        where = {name: graph_name for graph_name, (_, name) in weights.items()}
        for kind, spec in map(only, module.signature.output_specs):
            if kind == "buffer_mutation":
                yield where[spec["buffer_name"]], spec["arg"]["name"]
            elif kind not in ("user_output", "user_input_mutation"):
                raise ModelRefused(f"The model gives {kind!r}: it was exported for training. Export it for inference.")


def _gives(node: schema.Node) -> Any:
    """Names of what a step gives, in the form in which its operator gives it."""
    if not node.outputs:
        return None
    if len(node.outputs) == 1 and not (
        node.target in operators.WITH_GRAPHS and node.is_hop_single_tensor_return is False
    ):
        return _given(node.outputs[0])
    return [_given(one) for one in node.outputs]


def _given(argument: Argument) -> Any:
    kind, value = only(argument)
    if kind == "as_none":
        return None
    if kind == "as_tensors":
        return [one["name"] for one in value]
    return _name(argument)


def _name(argument: Argument) -> str:
    kind, value = only(argument)
    if kind == "as_tensor":
        return str(value["name"])
    if kind in ("as_sym_int", "as_sym_float", "as_sym_bool") and "as_name" in value:
        return str(value["as_name"])
    raise ModelRefused(f"Something in the graph is {kind!r} where a tensor or a size belongs.")


def _tensor_name(argument: Argument, what: str) -> str:
    kind, value = only(argument)
    if kind != "as_tensor":
        raise ModelRefused(f"What is {what} must be a tensor, not {kind.removeprefix('as_')}.")
    return str(value["name"])


def _measured(meta: schema.TensorMeta) -> tuple[int, list[int]]:
    _, element_bytes = schema.DTYPES.get(meta.dtype, ("", 0))
    # One that is expanded lies in memory once.
    sizes = [size for size, stride in zip(meta.sizes, meta.strides, strict=False) if stride.as_int != 0]
    return 8 * element_bytes, [-1 if size.as_int is None else size.as_int for size in sizes]


def _keys(module: schema.Module, count: int) -> list[str] | None:
    """The names of the outputs of a model that gives a dictionary."""
    call = next((entry.signature for entry in module.module_call_graph if entry.fqn == ""), None)
    if call is None or not call.out_spec:
        return None
    _, tree = msgspec.json.decode(call.out_spec, type=tuple[int, schema.Tree])
    if tree.type not in ("builtins.dict", "collections.OrderedDict") or not tree.context:
        return None
    keys = msgspec.json.decode(tree.context)
    if any(child.type is not None for child in tree.children_spec) or len(keys) != count:
        return None
    return [str(key) for key in keys]


def _check_tree(text: str) -> None:
    """How arguments or results are nested. Where there is an object in it, torch imports whatever module that names."""
    trees = [msgspec.json.decode(text, type=tuple[int, schema.Tree])[1]] if text else []
    while trees:
        tree = trees.pop()
        trees += tree.children_spec
        if tree.context and _has_object(msgspec.json.decode(tree.context)):
            raise ModelRefused(f"The model takes or gives a container {str(tree.type)[:100]!r}; use plain ones.")


def _has_object(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(map(_has_object, value)))


def _datatype(kind: str, name: str, meta: schema.TensorMeta) -> str:
    dtype, _ = schema.dtype(name, meta)
    if dtype not in DATATYPES:
        raise ModelRefused(f"The {kind} {name!r} is {dtype}; let the model take and give another datatype (.float()).")
    return DATATYPES[dtype]


def _check_names(names: Iterable[str]) -> None:
    """torch makes code of them."""
    for name in names:
        if not texts.NAME.fullmatch(name):
            raise ModelRefused(f"Something in the graph is called {name[:100]!r}, which is no name.")


def _check_known(values: Iterable[Any], known: set[str], where: str) -> None:
    for name in arguments.names(values):
        if name not in known:
            raise ModelRefused(f"In the graph {where} takes {name!r}, which nothing gives.")
