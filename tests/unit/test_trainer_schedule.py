"""The learning rate of each step: a function of its number alone."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelwright.api.recipes import parse_mlp
from modelwright_trainer.failures import UserFailed
from modelwright_trainer.schedule import Schedule

SHAPES = ("Constant", "Linear", "Cosine")


@st.composite
def schedules(draw: st.DrawFn, shapes: tuple[str, ...] = SHAPES) -> Schedule:
    steps = draw(st.integers(1, 500))
    rate = draw(st.floats(1e-6, 10))
    return Schedule(rate, draw(st.sampled_from(shapes)), draw(st.integers(0, steps - 1)), steps)


def rates(schedule: Schedule) -> list[float]:
    return [schedule.at(step) for step in range(schedule.steps)]


@given(schedules())
def test_every_step_learns_and_none_faster_than_asked_for(schedule: Schedule) -> None:
    assert all(0 < rate <= schedule.rate * (1 + 1e-12) for rate in rates(schedule))


@given(schedules())
def test_it_rises_to_the_end_of_the_warm_up_and_never_after(schedule: Schedule) -> None:
    seen, warmup = rates(schedule), schedule.warmup
    assert all(one < other for one, other in itertools.pairwise(seen[:warmup]))
    assert all(one >= other for one, other in itertools.pairwise(seen[warmup:]))
    assert seen[warmup] == schedule.rate


@given(schedules(("Linear", "Cosine")))
def test_it_ends_near_zero(schedule: Schedule) -> None:
    left = 1 / (schedule.steps - schedule.warmup)
    assert rates(schedule)[-1] <= schedule.rate * left * (1 + 1e-9)


@given(schedules())
def test_a_resumed_run_goes_on_with_the_same_rates(schedule: Schedule) -> None:
    again = Schedule(schedule.rate, schedule.shape, schedule.warmup, schedule.steps)
    half = schedule.steps // 2
    assert [again.at(step) for step in range(half, schedule.steps)] == rates(schedule)[half:]


def test_the_default_is_the_rate_itself_to_the_bit() -> None:
    recipe = parse_mlp({"learningRate": "0.1"})
    assert set(rates(Schedule.of(recipe, 100))) == {0.1}


def test_the_middle_of_a_cosine() -> None:
    assert Schedule(0.2, "Cosine", 10, 30).at(20) == pytest.approx(0.2 * (1 + math.cos(math.pi / 2)) / 2)


def test_a_warm_up_that_would_never_end_is_refused() -> None:
    words = "trainer.hyperparameters.warmupSteps: 30 of the training's 30 steps; write fewer, or train longer"
    with pytest.raises(UserFailed, match=words):
        Schedule.of(parse_mlp({"warmupSteps": "30"}), 30)
