"""The SDK's front: one server, one key, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from cyxwiz import oip
from cyxwiz.datasets import Datasets
from cyxwiz.deployments import Deployments
from cyxwiz.errors import CyxwizApiError
from cyxwiz.jobs import Jobs
from cyxwiz.models import Models
from cyxwiz.nodes import Nodes
from cyxwiz.oip import Prediction
from cyxwiz.secret import ApiKey
from cyxwiz.ssh_keys import SshKeys
from cyxwiz.tensors import Tensor, TensorSpec, from_value
from cyxwiz.terminal.sessions import Sessions
from cyxwiz.transport import RETRY_DELAYS, Transport, read


class Client:
    """`models`, `deployments`, `datasets`, `jobs`, `nodes`, `terminals`, `ssh_keys` and `predict`. Without arguments:
    what `cyxwiz login` stored, or CYXWIZ_URL and CYXWIZ_API_KEY. Every failure is a `CyxwizError` (see `errors`)."""

    def __init__(
        self,
        url: str | None = None,
        key: str | ApiKey | None = None,
        *,
        timeout: float = 60.0,
        retry_delays: Sequence[float] = RETRY_DELAYS,
    ) -> None:
        if url is None or key is None:
            from cyxwiz import config  # TOML and folders are needed only here

            found = config.load(url=url, key=key)
            url, key = found.url, found.key
        key = ApiKey(key) if isinstance(key, str) else key
        self.key = key
        self._transport = Transport(url, key, timeout=timeout, retry_delays=retry_delays)
        self.models = Models(self._transport)
        self.deployments = Deployments(self._transport)
        self.datasets = Datasets(self._transport)
        self.jobs = Jobs(self._transport, self.models)
        self.nodes = Nodes(self._transport)
        self.terminals = Sessions(self._transport)
        self.ssh_keys = SshKeys(self._transport)
        self._specs: dict[str, dict[str, TensorSpec]] = {}

    @property
    def url(self) -> str:
        return self._transport.url

    def predict(self, name: str, inputs: Mapping[str, Any], *, outputs: Sequence[str] = ()) -> Prediction:
        """Asks deployment `name`. `inputs` are arrays or nested lists by tensor name; they are sent in the datatype
        that the model declares. `outputs`: which ones are wanted, all if none is named."""
        specs = self._specs.get(name)
        if specs is None:
            specs = self._specs[name] = self._declared_inputs(name)
        tensors = [from_value(tensor, value, specs.get(tensor)) for tensor, value in inputs.items()]
        body, headers = oip.infer_request(tensors, outputs)
        try:
            # A prediction changes nothing, so it may be asked again.
            response = self._transport.send(
                "POST", f"{_at(name)}/infer", content=body, headers=headers, repeatable=True
            )
        except CyxwizApiError:
            del self._specs[name]  # perhaps another version is deployed by now
            raise
        return oip.read_prediction(response.content, response.headers.get(oip.HEADER_LENGTH))

    def _declared_inputs(self, name: str) -> dict[str, TensorSpec]:
        metadata = self._transport.json("GET", _at(name))
        return {spec.name: spec for spec in (read(raw, TensorSpec) for raw in metadata.get("inputs", []))}

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<cyxwiz.Client {self.url}>"


def _at(name: str) -> str:
    return f"/v2/models/{quote(name, safe='')}"


__all__ = ["Client", "Prediction", "Tensor"]
