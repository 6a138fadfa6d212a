"""What status keeps of a training: its curve, each attempt's last lines; and how seldom that is written."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st
from modelwright.api.training_history import CURVE_LENGTH, CurvePoint
from modelwright.contract import Failure, Outcome, Progress
from modelwright.controllers.trainingjob.status import curve

from tests.unit.training_story import story
from tests.unit.training_world import pod, summary


def at(step: int, total: int = 0, loss: float = 0.5) -> Progress:
    return Progress(phase="Training", step=step, total_steps=total, train_loss=loss, validation_loss=0.6)


@given(st.lists(st.integers(0, 5000), max_size=300), st.sampled_from([0, 100, 5000]))
def test_whatever_is_told_the_curve_is_bounded_and_each_step_in_it_once(steps: list[int], total: int) -> None:
    points: tuple[CurvePoint, ...] = ()
    for step in steps:
        points = curve(points, at(step, total))
        assert len(points) <= CURVE_LENGTH
        assert [point.step for point in points] == sorted({point.step for point in points})
        assert all(point.step <= step for point in points), "what was done after the checkpoint is done anew"


def test_a_long_training_s_curve_is_evenly_thinned_and_reaches_to_its_end() -> None:
    points: tuple[CurvePoint, ...] = ()
    changes = 0
    for step in range(0, 10_001, 10):
        before, points = points, curve(points, at(step, 10_000, 1 / (step + 1)))
        changes += points != before
    assert changes == len(points) == 48, "the others of a thousand looks write no list"
    gaps = {after.step - point.step for point, after in itertools.pairwise(points)}
    assert gaps == {210}
    assert points[-1].step > 9_790
    assert points[1].train_loss == f"{1 / 211:.6g}"


def test_what_is_told_of_while_nothing_is_trained_is_no_point() -> None:
    points = curve((), at(10))
    for told in (Progress(phase="Loading"), Progress(phase="Evaluating", step=20, train_loss=0.1)):
        assert curve(points, told) == points


def test_the_curve_goes_on_from_the_checkpoint_of_the_attempt_before() -> None:
    told = story()
    told.run_pods(1)
    for step in (10, 20, 30):
        told.look(at(step))
    told.look(Progress(phase="Starting", attempt=2))
    told.look(at(25))
    assert [point["step"] for point in told.status["curve"]] == [10, 20, 25]


def test_a_look_at_the_same_progress_changes_nothing() -> None:
    told = story()
    told.run_pods(1)
    told.look(at(10))
    before = told.status
    told.look(at(10))
    assert told.status == before


def test_the_last_lines_of_each_attempt_outlive_its_pods() -> None:
    told = story()
    failed = Failure(type="ValueError", message="no")
    words = summary(Outcome.WORKER_CRASHED, failure=failed, log=("epoch=1", "ValueError: no"))
    told.pods = [pod(0, exit_code=24, termination_message=words), pod(1, exit_code=25)]
    told.fail(1, "")
    told.look()
    told.pods, told.jobs = [], {}
    told.passes(60)
    told.look()
    assert told.status["history"][0]["log"] == ["epoch=1", "ValueError: no"]


def test_the_time_that_is_left_is_in_status() -> None:
    told = story()
    told.run_pods(1)
    told.look(at(10).model_copy(update={"eta_seconds": 61.7}))
    assert told.status["progress"]["etaSeconds"] == 62


def test_the_use_of_gpus_is_in_status_where_it_is_told() -> None:
    told = story()
    told.run_pods(1)
    told.look(at(10).model_copy(update={"gpu_percent": 87.4, "gpu_memory_percent": 100.2}))
    assert (told.status["progress"]["gpuPercent"], told.status["progress"]["gpuMemoryPercent"]) == (87, 100)
    told.look(at(20))
    assert "gpuPercent" not in told.status["progress"]
