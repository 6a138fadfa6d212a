"""The operator is killed right before and right after each write of a retention: the same versions are left, in the
cluster and in the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devcluster.progress import Steps
from tests.e2e.crash import conftest, operator, registry_stories
from tests.e2e.crash.conftest import World
from tests.faults.proxy import Moment
from tests.faults.scenario import crash_everywhere

PARALLEL = 3


@pytest.fixture(scope="module")
def servers(steps: Steps) -> Iterator[World]:
    """A cluster with the servers' image, which looks through the store."""
    with conftest.cluster(steps, "crash-serving", "server") as world:
        yield world


def held(world: World, folder: Path, *points: tuple[int | str, Moment]) -> None:
    story = registry_stories.retention(world, folder)
    report = crash_everywhere(story, world.kubeconfig, parallel=PARALLEL, only=points)
    print("\n" + report.table())
    assert report.violations == []
    surely = [name for name in report.not_reached if not operator.recurring(name)]
    assert not surely, "points that no kill came to"


def test_a_retention_whose_operator_dies_with_its_first_deletion(servers: World, tmp_path: Path) -> None:
    held(servers, tmp_path, ("DELETE modelversions iris-v1-0-0", Moment.AFTER))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_retention_ends_the_same_whatever_write_the_operator_dies_at(servers: World, tmp_path: Path) -> None:
    held(servers, tmp_path)
