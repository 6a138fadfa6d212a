"""What a Dataset's controller does and says, whatever became of its Job."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelwright.api.dataset import Dataset
from modelwright.api.storage import StorageStatus
from modelwright.contract import Failure, Outcome, Published
from modelwright.controllers.dataset import job
from modelwright.controllers.dataset.observed import JobView, PodView, job_view, pod_view
from modelwright.controllers.dataset.plan import Plan, plan
from modelwright.datasets import DATASET_VARIABLE, DatasetRun, DatasetSummary
from modelwright.kube import conditions
from modelwright.settings import Settings, StorageDefaults

STORAGE = StorageStatus(uri="s3://bucket")
SETTINGS = Settings(
    "modelwright", "registry/trainer:1", storage=StorageDefaults("s3://bucket", "http://s3", "", "store")
)
DIGEST = "sha256:" + "1" * 64
DONE = DatasetSummary(
    outcome="Succeeded", exit_code=0, manifest=Published(uri="s3://bucket/m.json", digest=DIGEST), rows=10, bytes=99,
    columns=3, splits={"train": 8, "validation": 1, "test": 1}, class_count=2, classes={"a": 3, "b": 7},
    warnings=("small test split: …",),
)  # fmt: skip


def dataset(status: dict[str, Any] | None = None, generation: int = 1, **spec: Any) -> Dataset:
    stated = {
        "source": {"uri": "s3://bucket/raw/rows.csv"}, "schema": {"target": "label", "task": "Classification"}, **spec,
    }  # fmt: skip
    metadata = {"name": "rows", "namespace": "team", "uid": "u", "generation": generation}
    return Dataset.model_validate({"metadata": metadata, "spec": stated, "status": status or {}})


def a_job(ended: str = "", run_hash: str = "h", **more: Any) -> JobView:
    return JobView(**{
        "name": f"rows-{run_hash}", "uid": f"uid-{run_hash}", "dataset": "rows", "run_hash": run_hash, "ended": ended,
        "message": "Job has reached the specified backoff limit" if ended == "Failed" else "",
        "deleting": False, **more,
    })  # fmt: skip


def a_pod(**more: Any) -> PodView:
    return PodView(**{
        "name": "p", "dataset": "rows", "phase": "Pending", "waits_reason": "", "waits": "", "exit_code": None,
        "exit_reason": "", "message": "", **more,
    })  # fmt: skip


def planned(*pods: PodView, job: JobView | None = None, of: Dataset | None = None) -> Plan:
    jobs = [job] if job else []
    return plan(of or dataset(), "h", STORAGE, jobs, [(one.uid, pod) for one in jobs for pod in pods])


def ended(summary: DatasetSummary, code: int = 0) -> PodView:
    return a_pod(phase="Failed" if code else "Succeeded", exit_code=code, message=summary.to_message())


def said(made: Plan) -> tuple[str, str, str, str]:
    return made.status.phase, made.state.main.status, made.state.main.reason, made.state.main.message


def told(made: Plan, generation: int = 1) -> dict[str, Any]:
    """The status as it would be on the wire."""
    facts = conditions.merge_dicts((), made.state, generation=generation, now=conditions_time())
    return {**made.status.to_object(), "conditions": facts}


def conditions_time() -> Any:
    import datetime

    return datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


def test_a_new_dataset_starts_one_job() -> None:
    made = planned()
    assert (made.start, made.end) == (True, ())
    assert said(made)[:3] == ("Pending", "False", "Preparing")


def test_a_job_that_is_there_is_not_started_again() -> None:
    assert not planned(job=a_job()).start


def test_what_the_pod_said_is_in_status_and_the_job_stays_until_it_is_written() -> None:
    made = planned(ended(DONE), job=a_job("Complete"))
    assert said(made) == ("Succeeded", "True", "Prepared", "10 rows in 3 columns, 1 warnings")
    assert made.end == ()
    status = made.status.to_object()
    assert status["artifact"] == {"uri": "s3://bucket/m.json", "digest": DIGEST}
    assert status["splits"] == {"train": 8, "validation": 1, "test": 1}
    assert status["classes"] == [{"name": "b", "rows": 7}, {"name": "a", "rows": 3}]
    after = planned(ended(DONE), job=a_job("Complete"), of=dataset(told(made)))
    assert after.end == (a_job("Complete"),)
    assert after.status.artifact == made.status.artifact


def test_a_result_stays_when_its_job_is_gone() -> None:
    made = planned(ended(DONE), job=a_job("Complete"))
    after = planned(of=dataset(told(made)))
    assert (after.start, said(after)) == (False, said(made))


def test_a_lost_result_is_asked_for_again() -> None:
    made = planned(job=a_job("Complete"))
    assert made.end == (a_job("Complete"),)
    assert said(made)[:3] == ("Pending", "False", "Preparing")
    assert planned().start


def test_another_spec_is_another_run_and_says_nothing_of_the_old_one() -> None:
    before = planned(ended(DONE), job=a_job("Complete", run_hash="old"), of=dataset(told(planned(), 1)))
    assert before.end == (a_job("Complete", run_hash="old"),)
    assert before.start
    succeeded = told(planned(ended(DONE), job=a_job("Complete")))
    after = planned(of=dataset(succeeded, generation=2))
    assert after.start
    assert (after.status.artifact, after.status.rows) == (None, None)


@pytest.mark.parametrize(
    ("pod", "reason", "words"),
    [
        (
            a_pod(waits_reason="CreateContainerConfigError", waits='secret "store" not found'),
            "CreateContainerConfigError",
            'the pod cannot start: CreateContainerConfigError: secret "store" not found',
        ),
        (a_pod(waits_reason="Unschedulable", waits="0/1 nodes"), "Unschedulable", "cannot start: Unschedulable: 0/1"),
        (a_pod(waits_reason="ImagePullBackOff", waits="back-off"), "ImagePullBackOff", "ImagePullBackOff: back-off"),
        (a_pod(phase="Failed", exit_code=137, exit_reason="OOMKilled"), "OutOfMemory", "another try follows: the cont"),
        (a_pod(phase="Running"), "Preparing", "s3://bucket/raw/rows.csv is prepared"),
    ],
)
def test_while_it_runs_the_pods_words_are_told(pod: PodView, reason: str, words: str) -> None:
    made = planned(pod, job=a_job())
    assert said(made)[2] == reason
    assert words in said(made)[3]
    assert made.state.activity is conditions.Activity.RECONCILING


def test_failed_checks_are_terminal_and_in_the_pods_words() -> None:
    failure = Failure(type="ChecksFailed", message="checks.minRows: the source has 2 rows, and 5 are asked for")
    summary = DatasetSummary(outcome="DataError", exit_code=11, failed_checks=True, failure=failure)
    made = planned(ended(summary, 11), job=a_job("Failed"))
    assert said(made) == (
        "Failed", "False", "ChecksFailed",
        "checks.minRows: the source has 2 rows, and 5 are asked for. To try again, change the spec, or delete the"
        " Dataset and create it anew",
    )  # fmt: skip
    assert made.state.activity is conditions.Activity.STALLED
    after = planned(ended(summary, 11), job=a_job("Failed"), of=dataset(told(made)))
    assert (after.start, after.end, said(after)) == (False, (), said(made))


@pytest.mark.parametrize("outcome", [one for one in Outcome if one.code])
def test_each_outcome_is_the_reason_of_a_failure(outcome: Outcome) -> None:
    failure = Failure(type="X", message="words")
    summary = DatasetSummary(outcome=outcome.reason, exit_code=outcome.code, failure=failure)
    assert said(planned(ended(summary, outcome.code), job=a_job("Failed")))[2] == outcome.reason


def test_a_job_that_failed_without_a_word_is_told_in_kubernetes_words() -> None:
    assert said(planned(job=a_job("Failed")))[2:] == (
        "JobFailed",
        "Job has reached the specified backoff limit. To try again, change the spec, or delete the Dataset and create"
        " it anew",
    )


def test_without_a_store_nothing_is_started() -> None:
    made = plan(dataset(), "h", StorageStatus(uri=""), [], [])
    assert (made.start, said(made)[2]) == (False, "NoStorage")


@given(
    st.sampled_from(["", "Complete", "Failed"]),
    st.lists(
        st.builds(
            a_pod,
            phase=st.sampled_from(["Pending", "Running", "Succeeded", "Failed"]),
            waits=st.sampled_from(["", "x"]),
            waits_reason=st.just("Waits"),
            exit_code=st.sampled_from([None, 0, 11, 137]),
            message=st.sampled_from(["", "no JSON", DONE.to_message()]),
        ),
        max_size=3,
    ),
)
def test_an_ended_run_is_never_started_twice_at_once(end: str, pods: list[PodView]) -> None:
    made = planned(*pods, job=a_job(end))
    assert not made.start
    assert (made.status.phase == "Succeeded") == (made.status.artifact is not None)


def test_the_job_holds_no_credentials_of_kubernetes_and_keeps_to_the_restricted_standard() -> None:
    overlay = {"spec": {"nodeSelector": {"disk": "fast"}, "containers": [{"name": "dataset", "env": []}]}}
    made = job.dataset_job(dataset(podTemplate=overlay), SETTINGS, {"uid": "u", "controller": True})
    pod = made["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["nodeSelector"] == {"disk": "fast"}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["envFrom"] == [{"secretRef": {"name": "store"}}]
    assert made["spec"]["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"] == [*range(10, 20), 26]


def test_the_job_is_told_the_whole_spec() -> None:
    spec = {
        "split": {"train": "0.7", "validation": "0.2", "test": "0.1", "stratify": False, "seed": 7},
        "checks": {"minRows": 5, "noMissing": ["x"], "minClassFraction": "0.05", "unique": ["id"]},
    }
    made = job.dataset_job(dataset(**spec), SETTINGS, {"uid": "u", "controller": True})
    (variable,) = made["spec"]["template"]["spec"]["containers"][0]["env"]
    run = DatasetRun.model_validate_json(variable["value"])
    assert variable["name"] == DATASET_VARIABLE
    assert (run.source_uri, run.store.uri, run.store.endpoint) == (
        "s3://bucket/raw/rows.csv",
        "s3://bucket",
        "http://s3",
    )
    assert (run.split.train, run.split.stratify, run.split.seed) == (0.7, False, 7)
    assert (run.checks.min_rows, run.checks.no_missing) == (5, ("x",))
    assert (run.checks.min_class_fraction, run.checks.unique) == (0.05, ("id",))


def test_names_are_of_the_uid_and_the_spec_and_fit() -> None:
    one, other = dataset(), dataset(checks={"minRows": 1})
    assert job.job_name(one) != job.job_name(other)
    assert job.job_name(one) == job.job_name(dataset(generation=9))
    longest = one.model_copy(update={"metadata": one.metadata.model_copy(update={"name": "a" * 40})})
    assert len(job.job_name(longest)) <= 57  # a pod's name adds six


def test_jobs_and_pods_are_read_from_the_wire() -> None:
    made = job.dataset_job(dataset(), SETTINGS, {"uid": "u", "controller": True})
    made["metadata"]["uid"] = "j"
    made["status"] = {"conditions": [{"type": "Failed", "status": "True", "message": "words"}]}
    assert job_view(made) == JobView(
        name=job.job_name(dataset()), uid="j", dataset="rows", run_hash=job.run_hash(dataset()), ended="Failed",
        message="words", deleting=False,
    )  # fmt: skip
    terminated = {"exitCode": 11, "reason": "Error", "message": "{}"}
    pod = {
        "metadata": {"name": "p", "labels": made["metadata"]["labels"]},
        "status": {"phase": "Failed", "containerStatuses": [{"state": {"terminated": terminated}}]},
    }
    assert pod_view(pod) == a_pod(phase="Failed", exit_code=11, exit_reason="Error", message="{}")
