"""Which operators a graph may use."""

from __future__ import annotations

import re

from protocol.errors import ModelRefused

# What a step may be: an ATen operator; one of these, which compute with sizes; or one that runs a graph within.
ATEN = re.compile(r"torch\.ops\.aten\.(?!__[a-z]+__\.__)([A-Za-z_]\w*)\.([A-Za-z]\w*)", re.ASCII)
FILES = frozenset({"from_file", "save"})  # ATen operators that open a file
ON_SIZES = frozenset(
    [f"_operator.{name}" for name in (
        "eq", "ne", "le", "ge", "lt", "gt", "neg", "pos", "mul", "add", "sub", "floordiv", "mod", "pow", "truediv",
        "and_", "or_", "lshift", "rshift",
    )]
    + [f"torch.sym_{name}" for name in ("not", "int", "float", "ite", "max", "min", "sqrt")]
    + ["math.trunc"]
)  # fmt: skip
COND = "torch.ops.higher_order.cond"
SET_GRAD_ENABLED = "torch.ops.higher_order.wrap_with_set_grad_enabled"
AUTOCAST = "torch.ops.higher_order.wrap_with_autocast"
WITH_GRAPHS = frozenset({COND, SET_GRAD_ENABLED, AUTOCAST})


def check(target: str) -> None:
    found = ATEN.fullmatch(target)
    if found is not None and found[1] in FILES:
        raise ModelRefused(f"The model uses {target}, which opens a file; a model must not.")
    if found is None and target not in ON_SIZES and target not in WITH_GRAPHS:
        raise ModelRefused(
            f"The model uses the operator {target[:200]!r}; this CyxWiz runs PyTorch's own (ATen) operators only. "
            "Perhaps run_decompositions() on the exported program replaces it."
        )
