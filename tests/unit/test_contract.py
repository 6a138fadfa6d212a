"""The contract with training pods: what a pod may be told, and what its end means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelwright.contract import (
    SUMMARY_BYTES,
    Failure,
    Gate,
    Outcome,
    PartFigures,
    Progress,
    Split,
    Summary,
    TrainingRun,
    cause,
)
from pydantic import ValidationError

RUN = {
    "namespace": "team-a", "name": "digits-v1", "uid": "u", "publish": {"model": "digits", "version": "1.0.0"},
    "store": {"uri": "s3://modelwright"}, "data": {"uri": "s3://modelwright/raw.parquet", "target": "label"},
    "trainer": {"recipe": "mlp", "hyperparameters": {"epochs": "3"}},
}  # fmt: skip


def test_a_job_goes_through_json_unchanged() -> None:
    run = TrainingRun.model_validate(RUN)
    assert TrainingRun.model_validate_json(run.to_json()) == run
    assert '"everySteps":50' in run.to_json()


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="gates2"):
        TrainingRun.model_validate({**RUN, "gates2": 1})


def test_the_fingerprint_does_not_know_the_number_of_workers() -> None:
    run = TrainingRun.model_validate(RUN)
    asked = {"epochs": "3", "batchSize": "64"}
    same = TrainingRun.model_validate({**RUN, "workers": {"replicas": 4}, "attempt": 3})
    assert same.fingerprint("sha256:d", asked) == run.fingerprint("sha256:d", asked)
    assert run.fingerprint("sha256:d", {**asked, "epochs": "4"}) != run.fingerprint("sha256:d", asked)
    assert run.fingerprint("sha256:e", asked) != run.fingerprint("sha256:d", asked)


def test_the_fingerprint_tells_strategies_apart_that_train_another_model() -> None:
    def of(**strategy: object) -> str:
        return TrainingRun.model_validate({**RUN, "strategy": strategy}).fingerprint("sha256:d", {})

    assert of(type="FSDP", shardSize=2) == of(type="FSDP") == of(type="DDP")
    assert len({of(), of(type="LocalSGD", localSteps=4), of(type="LocalSGD", localSteps=4, outerMomentum=0.9)}) == 3


def test_fractions_that_are_not_a_whole_are_refused() -> None:
    with pytest.raises(ValidationError, match="not 1"):
        Split(train=0.8, validation=0.1, test=0.2)


def test_exit_codes_are_apart_from_python_s_and_the_shell_s() -> None:
    codes = [outcome.code for outcome in Outcome]
    assert len(set(codes)) == len(codes)
    assert all(code == 0 or 2 < code < 126 for code in codes)
    assert all(Outcome.of(outcome.code) is outcome is Outcome.named(outcome.reason) for outcome in Outcome)
    assert {Outcome.of(code) for code in (1, 2, 137, 143)} == {Outcome.WORKER_CRASHED}


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([Outcome.PEER_LOST, Outcome.DATA_ERROR], Outcome.DATA_ERROR),
        ([Outcome.PEER_LOST, Outcome.WORKER_CRASHED], Outcome.WORKER_CRASHED),
        ([Outcome.PEER_LOST, Outcome.PREEMPTED], Outcome.PREEMPTED),
        ([Outcome.SUCCEEDED], Outcome.SUCCEEDED),
    ],
)
def test_the_cause_is_the_outcome_of_the_pod_that_began_it(seen: list[Outcome], expected: Outcome) -> None:
    assert cause(seen) is cause(reversed(seen)) is expected


def test_no_outcomes_have_no_cause() -> None:
    with pytest.raises(ValueError, match="no pod"):
        cause([])


@given(st.text(max_size=6000), st.lists(st.text(max_size=400), max_size=20))
def test_a_summary_fits_the_termination_message_and_is_read_back(message: str, frames: list[str]) -> None:
    failure = Failure(type="E", message=message, frames=tuple(frames))
    metrics = {f"metric_{index}": index / 7 for index in range(100)}
    summary = Summary(
        outcome="UserError", exit_code=10, attempt=1, index=0, step=7, metrics=metrics, failure=failure
    )  # fmt: skip
    text = summary.to_message()
    assert len(text.encode()) <= SUMMARY_BYTES
    read = Summary.from_message(text)
    assert read
    assert (read.exit_code, read.step) == (10, 7)


def test_what_is_no_summary_is_none() -> None:
    assert Summary.from_message("Killed") is None


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        (Gate(metric="accuracy", min=0.93), "accuracy 0.9 is below min 0.93"),
        (Gate(metric="accuracy", max=0.5), "accuracy 0.9 is above max 0.5"),
        (Gate(metric="accuracy", min=0.9, max=0.9), None),
        (Gate(metric="recall", min=0.1), "gate on recall: there is no such metric; the metrics are accuracy"),
    ],
)
def test_a_gate_says_figure_and_threshold(gate: Gate, said: str | None) -> None:
    assert gate.breach({"accuracy": 0.9}) == said


def test_a_figure_that_is_no_number_passes_no_gate() -> None:
    assert Gate(metric="loss", max=1).breach({"loss": float("nan")})


def test_progress_that_nobody_told_yet_is_starting() -> None:
    assert Progress().phase == "Starting"


def test_a_log_is_in_the_summary_as_far_as_there_is_room() -> None:
    lines = tuple(f"{number}" + "é" * 150 for number in range(5))
    said = {"outcome": "Hung", "exit_code": 23, "attempt": 1, "index": 0, "log": lines}
    assert Summary.from_message(Summary.model_validate(said).to_message()) == Summary.model_validate(said)
    failure = Failure(type="Hung", message="x" * 1500, frames=("f" * 200,) * 4)
    fitted = Summary.from_message(Summary.model_validate({**said, "failure": failure}).to_message())
    assert fitted is not None
    assert fitted.failure == failure, "what the log says goes first"
    assert fitted.log == lines[len(lines) - len(fitted.log) :]
    assert len(fitted.log) < len(lines)


def test_slices_are_in_the_summary_as_far_as_there_is_room_and_before_classes() -> None:
    parts = tuple(
        PartFigures(name="c" * 60 + str(number), rows=10, metrics={"accuracy": 0.123456789}) for number in range(32)
    )
    said = Summary(outcome="Succeeded", exit_code=0, attempt=1, index=0, slices=parts, classes=parts[:10])
    text = said.to_message()
    assert len(text.encode()) <= SUMMARY_BYTES
    fitted = Summary.from_message(text)
    assert fitted is not None
    assert fitted.classes == ()
    assert 10 < len(fitted.slices) < 32
    assert fitted.slices == parts[: len(fitted.slices)]
