"""The states of deployments and replicas, and which may follow which. No I/O."""

from enum import StrEnum


class ReplicaState(StrEnum):
    """One loaded copy.

    waiting ──► placed ──► loading ──► ready
       ▲          │           │          │     any of the three ──► failed (retried with a new fence), lost (node gone)
       └──────────┴───────────┴──────────┘
    any ──► stopping ──► stopped ──► waiting (start again)
    """

    WAITING = "waiting"  # no node has room; `reason` says why, node by node
    PLACED = "placed"  # memory is allocated, the node does not act yet
    LOADING = "loading"  # the node fetches blobs or loads
    READY = "ready"
    FAILED = "failed"  # given up after too many attempts; `reason` says why
    STOPPING = "stopping"  # the node is told to end it
    STOPPED = "stopped"

    @property
    def is_final(self) -> bool:
        return self in (ReplicaState.FAILED, ReplicaState.STOPPED)

    @property
    def is_on_node(self) -> bool:
        """The node should hold it."""
        return self in (ReplicaState.PLACED, ReplicaState.LOADING, ReplicaState.READY)


R = ReplicaState

REPLICA_MOVES: dict[ReplicaState, frozenset[ReplicaState]] = {
    R.WAITING: frozenset({R.PLACED, R.STOPPED, R.FAILED}),
    R.PLACED: frozenset({R.LOADING, R.READY, R.WAITING, R.FAILED, R.STOPPING, R.STOPPED}),
    R.LOADING: frozenset({R.READY, R.WAITING, R.FAILED, R.STOPPING, R.STOPPED}),
    R.READY: frozenset({R.LOADING, R.WAITING, R.FAILED, R.STOPPING, R.STOPPED}),
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
