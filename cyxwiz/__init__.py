"""The client: Python SDK and the `cyxwiz` command. Talks to the API only; imports nothing else of CyxWiz.

from cyxwiz import Client
with Client("http://127.0.0.1:8080", key) as cyxwiz:
    print(cyxwiz.predict("digits", {"image": pixels})["label"].tolist())
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyxwiz.client import Client
    from cyxwiz.errors import CyxwizApiError, CyxwizError
    from cyxwiz.tensors import Tensor

__version__ = "0.1.0"
__all__ = ["Client", "CyxwizApiError", "CyxwizError", "Tensor", "__version__"]

_HOMES = {"Client": "client", "CyxwizApiError": "errors", "CyxwizError": "errors", "Tensor": "tensors"}


def __getattr__(name: str) -> Any:
    """On first use, not on import: `cyxwiz --help` must not wait for an HTTP library."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cyxwiz' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"cyxwiz.{_HOMES[name]}"), name)
