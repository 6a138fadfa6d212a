"""A TrainingJob on a Dataset: what it waits for, what it keeps of it, and what a later change does to it."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from modelwright.api.dataset import Dataset
from modelwright.api.evaluation import Gate
from modelwright.api.training_job import TrainingData, TrainingJob
from modelwright.controllers.trainingjob import dataset, resolve
from modelwright.controllers.trainingjob.dataset import Missing
from modelwright.controllers.trainingjob.plan import Plan, Start, plan
from modelwright.kube import conditions

from tests.unit.test_trainingjob_plan import failed, planned, with_
from tests.unit.test_trainingjob_resolve import OBJECT, SETTINGS

DIGEST = "sha256:" + "1" * 64
NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
READY: dict[str, Any] = {
    "phase": "Succeeded",
    "observedGeneration": 1,
    "artifact": {"uri": "s3://data/datasets/team/digits/manifests/1.json", "digest": DIGEST},
    "splits": {"train": 1437, "validation": 180, "test": 180},
    "storage": {"uri": "s3://data/store", "endpoint": "http://elsewhere", "region": "eu-west-1"},
}


def a_dataset(status: dict[str, Any], message: str = "", generation: int = 1) -> Dataset:
    main = {"type": "Succeeded", "status": "False", "reason": "X", "message": message, "observedGeneration": 1}
    return Dataset.model_validate(
        {
            "metadata": {"name": "digits", "namespace": "team", "uid": "d", "generation": generation},
            "spec": {
                "source": {"uri": "s3://data/raw/digits.csv"},
                "schema": {"target": "label", "task": "Classification"},
            },
            "status": {**status, "conditions": [{**main, "lastTransitionTime": "2030-01-01T00:00:00Z"}]},
        }
    )


def a_job(status: dict[str, Any] | None = None, **spec: Any) -> TrainingJob:
    stated = {**OBJECT["spec"], "data": {"datasetRef": {"name": "digits"}}, **spec}
    return TrainingJob.model_validate({**OBJECT, "spec": stated, "status": status or {}})


def pin(digest: str = DIGEST) -> TrainingData:
    artifact = {**READY["artifact"], "digest": digest}
    seen = dataset.found("digits", a_dataset({**READY, "artifact": artifact}))
    assert isinstance(seen, TrainingData)
    return seen


def told(made: Plan, data: TrainingData | None = None) -> dict[str, Any]:
    """The status after the plan, as it would be on the wire."""
    facts = conditions.merge_dicts((), made.state, generation=1, now=NOW)
    seen: dict[str, Any] = {"phase": made.phase, "observedGeneration": 1, "conditions": facts}
    return {**seen, **({"data": data.to_object()} if data else {})}


@pytest.mark.parametrize(
    ("seen", "reason", "words", "stalled"),
    [
        (None, "DatasetNotReady", "waiting for Dataset digits, which does not exist: create it, or mend", False),
        (a_dataset({}), "DatasetNotReady", "waiting for Dataset digits, which is looked at", False),
        (
            a_dataset({"phase": "Running", "observedGeneration": 1}, "s3://data/raw/digits.csv is prepared"),
            "DatasetNotReady",
            "waiting for Dataset digits, which is Running: s3://data/raw/digits.csv is prepared",
            False,
        ),
        (a_dataset(READY, generation=2), "DatasetNotReady", "waiting for Dataset digits, which is looked at", False),
        (
            a_dataset({"phase": "Failed", "observedGeneration": 1}, "checks.minRows: the source has 2 rows"),
            "DatasetFailed",
            "Dataset digits failed: checks.minRows: the source has 2 rows",
            True,
        ),
    ],
)
def test_no_attempt_is_started_before_the_dataset_is_ready(
    seen: Dataset | None, reason: str, words: str, stalled: bool
) -> None:
    missing = dataset.found("digits", seen)
    assert isinstance(missing, Missing)
    made = dataset.settled(planned(), missing)
    assert (made.action, made.attempt, made.phase) == (None, 0, "Pending")
    assert made.state.main.reason == reason
    assert made.state.main.message.startswith(words)
    assert (made.state.activity is conditions.Activity.STALLED) == stalled


def test_a_ready_dataset_is_written_down_before_the_attempt_is_made_of_it() -> None:
    made = dataset.settled(planned(), pin())
    assert (made.action, made.attempt, made.look_again) == (None, 0, 0.0)
    after = a_job(told(made, pin()))
    assert dataset.pinned(after) == pin()
    assert planned(told=resolve.told(after)).action == Start(1)


def test_the_attempt_is_told_manifest_and_digest_and_how_to_reach_them() -> None:
    run = resolve.blueprint(
        a_job({"phase": "Starting", "data": pin().to_object()}), SETTINGS, attempt=1, owner={"uid": "u"}
    ).run
    assert (run.data.uri, run.data.digest) == (READY["artifact"]["uri"], DIGEST)
    assert (run.data.target, run.data.split) == (None, None)
    assert run.data.store is not None
    assert (run.data.store.uri, run.data.store.endpoint, run.data.store.region) == (
        "s3://data", "http://elsewhere", "eu-west-1",
    )  # fmt: skip
    assert run.store.endpoint == "http://s3"


def test_own_code_is_brought_the_data_set_that_is_kept() -> None:
    trainer = {"image": "registry/team/own:1"}
    asked = a_job({"phase": "Starting", "data": pin().to_object()}, trainer=trainer)
    run = resolve.blueprint(asked, SETTINGS, attempt=1, owner={"uid": "u"}).run
    assert (run.data.uri, run.data.digest) == (READY["artifact"]["uri"], DIGEST)
    assert run.data.store is not None
    assert run.data.store.endpoint == "http://elsewhere"


def test_a_later_change_of_the_dataset_changes_no_further_attempt() -> None:
    for phase in ("Starting", "Running", "Restarting", "Suspended", "Pending"):
        assert dataset.pinned(a_job({"phase": phase, "data": pin().to_object()})) == pin()


def test_after_a_failure_for_good_or_with_another_reference_the_dataset_is_looked_at_anew() -> None:
    assert dataset.pinned(a_job({"phase": "Failed", "data": pin().to_object()})) is None
    other = a_job({"phase": "Running", "data": pin().to_object()}, data={"datasetRef": {"name": "others"}})
    assert dataset.pinned(other) is None


def test_a_resume_that_waited_for_the_dataset_is_still_a_resume() -> None:
    """After a failure for good only a resume starts another attempt: that it was one must outlive the waiting."""
    wanted = with_(run_hash="")
    job = failed(1, resolve.contract.Outcome.DATA_ERROR)
    resumed = resolve.told(a_job({"phase": "Suspended", "attempt": {"number": 1, "jobName": "digits-1"}}))
    started = planned(wanted, (job,), told=resumed)
    assert started.action == Start(2)
    waiting = dataset.settled(started, Missing("DatasetNotReady", "waiting"))
    assert waiting.attempt == 1
    later = resolve.told(a_job({**told(waiting), "attempt": {"number": 1, "jobName": "digits-1"}}))
    assert plan(wanted, (job,), (), published=False, now=NOW, told=later).action == Start(2)


def test_gates_that_a_small_test_split_cannot_tell_are_named_with_what_would_do() -> None:
    gates = [Gate.model_validate({"metric": "accuracy", "min": "0.93"})]
    (said,) = dataset.warnings(pin(), gates)
    assert said == (
        "small test split: accuracy measured on 180 rows is uncertain by at least ±3.7 percentage points (95 %) at min"
        " 0.93, so that the gate decides by chance between models that are closer; 205 rows would tell them apart to"
        " ±3.5"
    )
    large = pin().model_copy(update={"rows": pin().rows.model_copy(update={"test": 205})})  # type: ignore[union-attr]
    assert dataset.warnings(large, gates) == ()


@pytest.mark.parametrize("gate", [{"metric": "log_loss", "max": "0.3"}, {"metric": "accuracy", "min": "0", "max": "1"}])
def test_gates_that_are_no_shares_of_rows_are_not_guessed_at(gate: dict[str, Any]) -> None:
    assert dataset.warnings(pin(), [Gate.model_validate(gate)]) == ()


def test_the_version_hangs_on_the_digest_of_its_data() -> None:
    from modelwright.api.model_version import ModelVersion
    from modelwright.controllers.modelversion.reconcile import plan_training

    artifact = {"uri": "s3://b/versions/1.0.0/manifest.json", "digest": DIGEST}
    job = a_job({"phase": "Running", "data": pin().to_object(), "artifact": artifact})
    source = {"trainingJobRef": {"name": "digits"}}
    version = ModelVersion.model_validate(
        {"metadata": {"name": "digits-v1-0-0"}, "spec": {"model": "digits", "version": "1.0.0", "source": source}}
    )
    lineage = plan_training(version, "digits", job).status.lineage
    assert lineage is not None
    assert lineage.dataset_ref is not None
    assert (lineage.dataset_ref.name, lineage.data_uri, lineage.dataset_digest) == (
        "digits", READY["artifact"]["uri"], DIGEST,
    )  # fmt: skip
