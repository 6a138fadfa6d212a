"""A node is lost under a training, with all that ran on it: it goes on where there is room, and learns the same."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from dev.target import Store
from devcluster import cluster as life
from devcluster.__main__ import find
from devcluster.config import Cluster, Node
from devcluster.progress import Steps
from tests.e2e.training.jobs import Space, files, has_checkpoint, long_training, succeeded, training_job

NAME = "bereft"
# A silent node is noticed after 20 s, and evicted from 30 s later; the pod that is left waits for its peer until it
# is asked to end, and then killed.
_LONG = 300.0


@pytest.fixture
def cluster(space: Space) -> Cluster:
    if os.environ.get("CONTEXT"):
        pytest.skip("CONTEXT is set: a node of it is not ours to kill")
    return find(space.target.name, None)


@pytest.fixture
def second(cluster: Cluster, steps: Steps) -> Iterator[Node]:
    node = life.add_node(cluster, steps)
    yield node
    life.remove_node(cluster, node.index)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_lost_node_is_no_restart_that_counts_and_changes_no_bit_of_what_is_learned(
    space: Space, server: Store, cluster: Cluster, second: Node
) -> None:
    """Its kubelet, its containerd and everything in it are killed at once, and its Node object is deleted."""
    apart = {
        "weight": 100,
        "podAffinityTerm": {
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"modelwright.dev/trainingjob": NAME}},
        },
    }
    lost = training_job(NAME, "8.0.0", **long_training(150))
    lost["spec"]["workers"]["podTemplate"] = {
        "spec": {"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [apart]}}}
    }
    space.apply(lost)
    # The image has to come to the new node first.
    space.until(NAME, "has a checkpoint", has_checkpoint, _LONG)
    pods = space.items("pods", selector=f"modelwright.dev/trainingjob={NAME}")
    assert {pod["spec"]["nodeName"] for pod in pods} == {"node-0", second.name}
    life.kill_node(cluster, second.index)
    space.target.kubectl("delete", "node", second.name)
    seen = space.until(NAME, "is in its second attempt", lambda seen: seen["attempt"]["number"] == 2, _LONG)
    assert seen["restarts"] == {"counted": 0, "notCounted": 1}
    resumed = space.until(NAME, "goes on", lambda seen: seen["phase"] == "Running")["progress"]
    print(f"the second attempt goes on from the checkpoint at step {resumed['lastCheckpointStep']}")
    space.until(NAME, "succeeds", succeeded, _LONG)
    space.apply(training_job("whole", "8.0.1", **long_training(150)))
    space.until("whole", "succeeds", succeeded, _LONG)
    assert files(space, server, "digits-v8-0-0") == files(space, server, "digits-v8-0-1")
