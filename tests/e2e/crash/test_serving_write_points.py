"""The operator is killed right before and right after each write of an InferenceService's change, while clients ask all
along: what is left is as if nothing had been, and no request is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from devcluster.progress import Steps
from tests.e2e.crash import conftest, operator, serving_stories
from tests.e2e.crash.serving_stories import NAME, NEXT, Story, Versions
from tests.faults.proxy import Moment
from tests.faults.scenario import crash_everywhere

CLUSTER = "crash-serving"
# Each run waits most of its time: for Leases, proxies, and the times that the spec asks for.
PARALLEL = 3


@pytest.fixture(scope="module")
def versions(steps: Steps, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Versions]:
    with conftest.cluster(steps, CLUSTER, "server") as world:
        yield Versions.publish(world, tmp_path_factory.mktemp("versions"))


def held(story: Story, *points: tuple[int | str, Moment]) -> None:
    report = crash_everywhere(story.scenario(), story.versions.world.kubeconfig, parallel=PARALLEL, only=points)
    print("\n" + report.table() + "\n" + story.requests())
    assert report.violations == []
    surely = [name for name in report.not_reached if not operator.recurring(name)]
    assert not surely, "points that no kill came to"


def test_an_upgrade_whose_operator_dies_at_its_switch(versions: Versions) -> None:
    held(serving_stories.upgrade(versions), (f"PATCH services {NAME} to {NAME}-<{NEXT}>", Moment.AFTER))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "story",
    [
        serving_stories.upgrade,
        serving_stories.abort,
        serving_stories.automatic_rollback,
        serving_stories.revert,
        serving_stories.deletion_at_once,
        serving_stories.deletion_in_mid_switch,
        serving_stories.retraction,
        serving_stories.deletion_of_a_served_version,
    ],
    ids=lambda story: story.__name__,
)
def test_no_request_is_lost_by_a_kill_at_any_write(versions: Versions, story: Callable[[Versions], Story]) -> None:
    held(story(versions))
