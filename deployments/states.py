"""The states of deployments and replicas, and which may follow which. No I/O."""

from enum import StrEnum


class ReplicaState(StrEnum):
    """One loaded copy.

    waiting ──► placed ──► loading ──► ready        placed, loading, ready ◄──► unreachable (the node is silent)
       ▲          │           │          │
       └──────────┴───────────┴──────────┴──► waiting again, with a new fence: it failed, its node is lost or drains
    any on a node ──► stopping ──► stopped ──► waiting (start again)
    """

    WAITING = "waiting"  # no node has room, or a failed one waits for its next attempt; `reason` says which
    PLACED = "placed"  # memory is allocated, the node has not begun
    LOADING = "loading"  # the node fetches blobs or loads
    READY = "ready"
    UNREACHABLE = "unreachable"  # gets no traffic; comes back with its node, or is placed elsewhere after a grace
    FAILED = "failed"  # given up after too many attempts; `reason` says why
    STOPPING = "stopping"  # the node is told to end it
    STOPPED = "stopped"

    @property
    def is_final(self) -> bool:
        return self in (ReplicaState.FAILED, ReplicaState.STOPPED)

    @property
    def is_on_node(self) -> bool:
        """A node is to hold it."""
        return self in ON_NODE


R = ReplicaState
ON_NODE = frozenset({R.PLACED, R.LOADING, R.READY, R.UNREACHABLE})

REPLICA_MOVES: dict[ReplicaState, frozenset[ReplicaState]] = {
    R.WAITING: frozenset({R.PLACED, R.STOPPED, R.FAILED}),
    R.PLACED: frozenset({R.LOADING, R.READY, R.UNREACHABLE, R.WAITING, R.FAILED, R.STOPPING}),
    R.LOADING: frozenset({R.READY, R.UNREACHABLE, R.WAITING, R.FAILED, R.STOPPING}),
    R.READY: frozenset({R.LOADING, R.UNREACHABLE, R.WAITING, R.FAILED, R.STOPPING}),
    R.UNREACHABLE: frozenset({R.LOADING, R.READY, R.WAITING, R.FAILED, R.STOPPING}),
    R.STOPPING: frozenset({R.STOPPED}),
    R.STOPPED: frozenset({R.WAITING}),
    R.FAILED: frozenset({R.WAITING, R.STOPPED}),
}


class DeploymentState(StrEnum):
    """What a person wants to know; follows from the wish and the replicas (see `summary`)."""

    PENDING = "pending"  # some replica waits for room, none is ready
    STARTING = "starting"
    RUNNING = "running"  # every replica is ready
    DEGRADED = "degraded"  # some are ready
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"  # no replica is ready, and at least one was given up


D = DeploymentState


def summary(wanted_running: bool, replicas: list[ReplicaState]) -> DeploymentState:
    if not wanted_running:
        return D.STOPPED if all(state.is_final or state == R.WAITING for state in replicas) else D.STOPPING
    ready = replicas.count(R.READY)
    if ready and ready == len(replicas):
        return D.RUNNING
    if ready:
        return D.DEGRADED
    if R.FAILED in replicas:
        return D.FAILED
    if R.WAITING in replicas:
        return D.PENDING
    return D.STARTING
