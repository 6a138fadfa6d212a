"""The operator is killed right before and right after each of its writes; what is left is as if nothing had been."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from tests.e2e.crash import operator, stories
from tests.e2e.crash.conftest import World
from tests.faults.proxy import Moment
from tests.faults.scenario import Report, Scenario, crash_everywhere

Story = Callable[[World], Scenario]


def held(report: Report) -> None:
    print("\n" + report.table())
    assert report.violations == []
    surely = [name for name in report.not_reached if not operator.recurring(name)]
    assert not surely, "points that no kill came to"


def kinds(report: Report) -> Counter[str]:
    return Counter(one.kind for one in report.undisturbed.left.elements())


def test_a_training_whose_operator_dies_at_its_most_telling_writes(world: World) -> None:
    points = [("POST jobs digits-<uid>-1", Moment.AFTER), ("POST modelversions digits-v1-0-0", Moment.BEFORE)]
    held(crash_everywhere(stories.train(world), world.kubeconfig, only=points))


@pytest.mark.long
def test_what_was_begun_of_a_spec_that_was_changed_meanwhile_is_not_trained(world: World) -> None:
    """Not even where the operator died between the ConfigMap, which tells the workers what to do, and the Job."""
    points = [("POST configmaps digits-<uid>-1", Moment.AFTER), ("POST services digits-<uid>-1", Moment.AFTER)]
    report = crash_everywhere(stories.correct_at_once(world), world.kubeconfig, only=points)
    held(report)


@pytest.mark.long
@pytest.mark.parametrize("moment", [Moment.BEFORE, Moment.AFTER])
def test_a_training_waits_for_its_dataset_and_keeps_which_it_was_whenever_the_operator_dies(
    world: World, moment: Moment
) -> None:
    points = [("POST jobs rows-<uid>-<spec>", moment), ("status of trainingjob digits: Pending, data", moment)]
    held(crash_everywhere(stories.train_on_a_dataset(world), world.kubeconfig, only=points))


def test_a_compression_whose_operator_dies_at_its_most_telling_writes(world: World) -> None:
    """Where the parent is pinned, where a step was begun, and where the word of one is written down."""
    points = [
        (f"status of modelversion {stories.SMALL}: 0 steps done, lineage", Moment.AFTER),
        (f"POST jobs {stories.SMALL}-<uid>-cluster-1", Moment.BEFORE),
        (f"status of modelversion {stories.SMALL}: 2 steps done", Moment.BEFORE),
    ]
    held(crash_everywhere(stories.compress_in_two_steps(world), world.kubeconfig, only=points))


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("story", "jobs", "versions"),
    [
        (stories.train, 1, 1),
        (stories.train_with_a_failing_worker, 2, 1),
        (stories.suspend_and_resume, 2, 1),
        (stories.resize_in_mid_run, 2, 1),
        (stories.wait_in_a_queue, 1, 1),
        (stories.clean_up, 0, 1),
        (stories.delete_in_mid_run, 0, 0),
        (stories.delete_at_once, 0, 0),
        (stories.train_on_a_dataset, 1, 1),
        (stories.compress_in_two_steps, 1, 2),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_end_is_the_same_after_a_kill_at_any_write(world: World, story: Story, jobs: int, versions: int) -> None:
    report = crash_everywhere(story(world), world.kubeconfig)
    held(report)
    assert kinds(report)["Job"] == jobs
    assert kinds(report)["ModelVersion"] == versions


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_dataset_is_prepared_once_and_the_same_after_a_kill_at_any_write(world: World) -> None:
    report = crash_everywhere(stories.prepare_a_dataset(world), world.kubeconfig)
    held(report)
    assert kinds(report) == {"Dataset": 1}
