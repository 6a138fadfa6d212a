"""Tests that break a devcluster have one of their own, beside whichever is in use."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from dev import images
from dev.target import Target
from devcluster import cluster as life
from devcluster.__main__ import wanted
from devcluster.config import Cluster, state_home
from devcluster.progress import Steps

NAME = "e2e-break"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("CONTEXT"):
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="CONTEXT is set: these tests are of the devcluster itself"))


def target_of(cluster: Cluster) -> Target:
    return Target(
        cluster.name, str(cluster.state / "bin" / "kubectl"), cluster.kubeconfig, cluster.context, cluster.registry,
        devcluster=True,
    )  # fmt: skip


@pytest.fixture(scope="session")
def breakable(steps: Steps) -> Iterator[Cluster]:
    """A cluster to break, up; it is taken down at the end."""
    life.down(NAME, state_home() / NAME, steps)
    cluster = life.up(wanted(NAME), steps)
    yield cluster
    life.down(NAME, cluster.state, steps)


@pytest.fixture(scope="session")
def breakable_target(breakable: Cluster) -> Target:
    return target_of(breakable)


@pytest.fixture(scope="session")
def breakable_refs(breakable_target: Target, steps: Steps) -> Mapping[str, str]:
    return images.build_and_push(steps, breakable_target.registry, ("server",))
