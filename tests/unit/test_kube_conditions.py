"""Conditions say what holds, and kstatus understands them."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelwright.kube.conditions import (
    Fact,
    State,
    achieved,
    in_progress,
    kstatus,
    merge,
    merge_dicts,
    stalled,
    state_of,
)

T0 = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
T1 = T0 + datetime.timedelta(minutes=1)


def _object(state: State) -> dict[str, object]:
    conditions = merge_dicts([], state, generation=1, now=T0)
    return {"metadata": {"generation": 1}, "status": {"conditions": conditions}}


@pytest.mark.parametrize(
    "state",
    [
        achieved("Ready", "Served"),
        in_progress("Succeeded", "Training", "on its way"),
        stalled("Ready", "Refused", "mend it", Fact("Other", "True", "So")),
    ],
)
def test_what_conditions_say_can_be_said_again_without_a_change(state: State) -> None:
    said = merge_dicts((), state, generation=1, now=T0)
    again = state_of(said, state.main.type)  # type: ignore[arg-type]
    assert merge_dicts(said, again, generation=1, now=T1) == said


def test_the_transition_time_moves_only_with_the_status() -> None:
    first = merge([], in_progress("Succeeded", "Training", "epoch 1"), generation=1, now=T0)
    second = merge(first, in_progress("Succeeded", "Training", "epoch 2"), generation=2, now=T1)
    assert [(one.message, one.last_transition_time, one.observed_generation) for one in second] == [
        ("epoch 2", T0, 2),
        ("epoch 2", T0, 2),
    ]
    third = merge(second, achieved("Succeeded", "Trained"), generation=2, now=T1)
    assert [(one.type, one.status, one.last_transition_time) for one in third] == [("Succeeded", "True", T1)]


def test_a_pass_that_finds_nothing_new_changes_nothing() -> None:
    state = stalled("Ready", "FormatUnavailable", "publish the onnx format", Fact("Approved", "Unknown", "Waiting"))
    first = merge_dicts([], state, generation=3, now=T0)
    assert merge_dicts(first, state, generation=3, now=T1) == first


@pytest.mark.parametrize(
    ("state", "seen"),
    [
        (achieved("Ready", "Serving"), "Current"),
        (achieved("Succeeded", "Trained"), "Current"),
        (in_progress("Ready", "RollingOut", status="True"), "InProgress"),
        (in_progress("Succeeded", "Training"), "InProgress"),
        (stalled("Succeeded", "Failed", "see the pod's log"), "Failed"),
    ],
)
def test_kstatus_reads_it(state: State, seen: str) -> None:
    assert kstatus(_object(state)) == seen


@given(st.lists(st.sampled_from([achieved, in_progress, stalled]), min_size=1))
def test_reconciling_and_stalled_are_true_while_they_hold_and_never_both(makers: list[object]) -> None:
    conditions: list[dict[str, object]] = []
    for maker in makers:
        conditions = merge_dicts(conditions, maker("Ready", "Some", "text"), generation=1, now=T0)  # type: ignore[operator]
        activity = [one for one in conditions if one["type"] in ("Reconciling", "Stalled")]
        assert len(activity) == (maker is not achieved)
        assert all(one["status"] == "True" for one in activity)


def test_a_reason_that_the_api_would_refuse_is_refused_here() -> None:
    with pytest.raises(ValueError, match="'no words' is no reason"):
        Fact("Ready", "True", "no words")


def test_a_long_message_is_cut() -> None:
    (condition,) = merge([], achieved("Ready", "Long", "x" * 10_000), generation=1, now=T0)
    assert len(condition.message) == 4096
    assert condition.message.endswith("…")
