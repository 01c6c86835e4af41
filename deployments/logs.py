"""Log lines of a deployment's runners, read from the streams that its nodes write."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from accounts import live
from deployments.models import Deployment, DeploymentEvent
from deployments.states import ReplicaState
from protocol import names


@dataclass(frozen=True)
class Line:
    id: str  # grows with time; hand the last one back as `after` to read on
    at: datetime
    replica: int
    node: str
    fence: int
    source: str
    line: str


def read(deployment: Deployment, *, most: int = 200, after: str = "") -> list[Line]:
    """The last `most` lines, or the first `most` after the line with the id `after`; of earlier attempts as well."""
    attempts = DeploymentEvent.objects.filter(
        deployment=deployment, went_to=ReplicaState.PLACED, replica__isnull=False, node__isnull=False
    )
    sources = set(attempts.values_list("replica_id", "replica_index", "node_id", "node__name").order_by())
    pipe = live.connection().pipeline(transaction=False)
    for replica_id, _, node_id, _ in sources:
        stream = names.replica_log(str(node_id), str(replica_id))
        if after:
            pipe.xrange(stream, min=f"({after}", count=most)
        else:
            pipe.xrevrange(stream, count=most)
    lines = [
        _line(entry_id, fields, index or 0, node)
        for (_, index, _, node), entries in zip(sources, pipe.execute(), strict=True)
        for entry_id, fields in entries
    ]
    lines.sort(key=lambda line: _order(line.id))
    return lines[:most] if after else lines[-most:]


def _line(entry_id: bytes, fields: dict[bytes, bytes], index: int, node: str) -> Line:
    text = {key.decode(): value.decode(errors="replace") for key, value in fields.items()}
    id = entry_id.decode()
    return Line(
        id=id,
        at=datetime.fromtimestamp(_order(id)[0] / 1000, UTC),
        replica=index,
        node=node,
        fence=int(text.get("fence", "0")) if text.get("fence", "0").isdigit() else 0,
        source=text.get("source", ""),
        line=text.get("line", ""),
    )


def _order(id: str) -> tuple[int, int]:
    milliseconds, _, sequence = id.partition("-")
    return int(milliseconds), int(sequence or 0)
