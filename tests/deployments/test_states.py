"""The state tables, by themselves."""

import pytest

from deployments.states import ON_NODE, REPLICA_MOVES, DeploymentState, ReplicaState, summary

R, D = ReplicaState, DeploymentState


@pytest.mark.parametrize(
    ("replicas", "state"),
    [
        ([R.READY, R.READY], D.RUNNING),
        ([R.READY, R.LOADING], D.DEGRADED),
        ([R.READY, R.FAILED], D.DEGRADED),
        ([R.FAILED, R.LOADING], D.FAILED),
        ([R.WAITING, R.LOADING], D.PENDING),
        ([R.PLACED, R.LOADING], D.STARTING),
        ([R.UNREACHABLE], D.STARTING),
    ],
)
def test_a_deployment_that_should_run_is_what_its_replicas_are(replicas, state):
    assert summary(True, replicas) == state


def test_a_deployment_that_should_not_run_is_stopped_when_all_its_replicas_are():
    assert summary(False, [R.STOPPED, R.STOPPING]) == D.STOPPING
    assert summary(False, [R.STOPPED, R.FAILED]) == D.STOPPED


def test_every_state_can_be_left_and_everything_on_a_node_can_be_stopped():
    assert set(REPLICA_MOVES) == set(R)
    assert all(REPLICA_MOVES.values())
    assert all(R.STOPPING in REPLICA_MOVES[state] for state in ON_NODE)
