"""The graph in a PyTorch export archive (`.pt2`), read into plain steps: which operator gets what, under which name.

The control plane reads it to admit the file, a node to run it. torch's own loader is used by neither: where reading
fails it unpickles whatever the file says, and besides it evaluates texts of the graph as Python (sizes through sympy,
names through its code generator, guards through `exec`, containers by importing their module). Here an operator is one
of a list and all else is data.
"""

from protocol.exported.arguments import Ref, Setting
from protocol.exported.graph import Dimension, Graph, Input, Program, Step, read
from protocol.exported.operators import AUTOCAST, COND, SET_GRAD_ENABLED
from protocol.exported.schema import DTYPES
from protocol.exported.texts import Condition
from protocol.exported.weights import Stored, stored

__all__ = [
    "AUTOCAST",
    "COND",
    "DTYPES",
    "SET_GRAD_ENABLED",
    "Condition",
    "Dimension",
    "Graph",
    "Input",
    "Program",
    "Ref",
    "Setting",
    "Step",
    "Stored",
    "read",
    "stored",
]
