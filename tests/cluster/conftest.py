"""The light tier: a real API server and etcd for the session, no node."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from devcluster.light import LightCluster, light_cluster
from devcluster.progress import Steps


@pytest.fixture(scope="session")
def light(steps: Steps) -> Iterator[LightCluster]:
    with light_cluster(steps=steps) as cluster:
        yield cluster
