"""Parameters of a cluster: what stands side by side, and what is refused with which words."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devcluster.config import MAX_NODES, SLOTS, Cluster, Ports, default_cluster
from devcluster.progress import StepFailed

slots = st.integers(0, SLOTS - 1)


@given(slots, slots)
def test_clusters_of_different_slots_share_no_address(one: int, other: int) -> None:
    first, second = default_cluster("one", slot=one), default_cluster("two", slot=other)
    ranges = [(c.bridge_range, c.pod_range, c.service_range) for c in (first, second)]
    overlap = any(a.overlaps(b) for a in ranges[0] for b in ranges[1])
    assert overlap == (one == other)
    assert (first.bridge == second.bridge) == (one == other)


@given(slots)
def test_the_nodes_of_a_cluster_share_no_address_link_or_folder(slot: int) -> None:
    cluster = default_cluster("c", slot=slot)
    nodes = [cluster.node(index) for index in range(MAX_NODES)]
    for field in ("address", "pods", "mac", "host_link", "folder", "images"):
        assert len({getattr(node, field) for node in nodes}) == MAX_NODES
    assert all(node.address in cluster.bridge_range and node.address != cluster.address for node in nodes)
    assert all(node.pods.subnet_of(cluster.pod_range) for node in nodes)
    assert all(len(node.host_link) <= 15 for node in nodes)  # IFNAMSIZ


@given(slots)
def test_a_cluster_survives_its_json(slot: int) -> None:
    cluster = default_cluster("c", slot=slot, ports=Ports(api=7443), gpus=3)
    assert Cluster.from_json(cluster.to_json()) == cluster


def test_a_new_cluster_takes_the_first_free_slot() -> None:
    assert default_cluster("dev").slot == 0
    assert default_cluster("other", taken=frozenset({0, 1, 2})).slot == 3


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"name": "Dev"}, "cluster name 'Dev'"),
        ({"name": "a" * 16}, "up to 15"),
        ({"name": "c", "slot": 32}, "slots are taken"),
        ({"name": "c", "slot": -1}, "slot -1 is not between 0 and 31"),
        ({"name": "c", "bridge_range": "10.0.0.0/33"}, "address range: "),
        ({"name": "c", "bridge_range": "10.0.0.1/24"}, "10.0.0.1/24 has host bits set"),
        ({"name": "c", "pod_range": "10.1.0.0/24"}, "pod range 10.1.0.0/24 has no /24 for each of 8 nodes"),
        (
            {"name": "c", "pod_range": "10.1.0.0/16", "service_range": "10.1.4.0/24"},
            "pod range 10.1.0.0/16 and service",
        ),
        ({"name": "c", "state": Path("/x" * 40)}, "its path has 80 characters, of at most 64"),
        ({"name": "c", "taken": frozenset(range(SLOTS))}, "all 32 slots are taken"),
    ],
)
def test_wrong_parameters_are_named(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(StepFailed) as failure:
        default_cluster(**wrong)  # type: ignore[arg-type]
    assert words in failure.value.reason


def test_two_services_on_one_port_are_named() -> None:
    with pytest.raises(StepFailed, match="ports api and registry are both 6443"):
        Ports(registry=6443)


def test_a_node_that_cannot_be_is_named() -> None:
    with pytest.raises(StepFailed, match="node 8: a cluster has the nodes 0 to 7"):
        default_cluster("c").node(8)


def test_parameters_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        default_cluster("c").name = "d"  # type: ignore[misc]
