"""What the controller of a derived version does and says, whatever becomes of its Jobs."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelwright.api.base import UidRef
from modelwright.api.model_version import ModelVersion, VersionLineage
from modelwright.api.storage import StorageStatus
from modelwright.contract import Outcome
from modelwright.controllers.modelversion.derive_observed import StageJobView, StagePodView
from modelwright.controllers.modelversion.observed import VersionView, version_view
from modelwright.derivation import Candidate, DerivationSummary, Searched, Step
from modelwright.kube.resources import Key

from tests.unit.derived_world import (
    DIGEST,
    after,
    failed,
    job,
    planned,
    pod,
    published,
    reason,
    said,
    size,
    version,
    view,
)

AGAIN = "A version is immutable: delete it, mend what is wrong, and create it again"


def at_stage(stage: int, of: ModelVersion | None = None) -> ModelVersion:
    """A version whose stages before that one have succeeded."""
    made = of or version()
    made = after(made, planned(made))
    for index in range(stage):
        made = after(made, planned(made, (job(index, "Complete"), [said(index)])))
    return made


def test_the_parent_is_pinned_before_anything_is_started() -> None:
    trained = VersionLineage(training_job=UidRef(name="t", uid="x"), data_uri="s3://bucket/rows.parquet")
    made = planned(version(), inherited=trained)
    assert (made.start, made.look_again) == (None, 0.0)
    assert reason(made) == (
        "Pending",
        "Compressing",
        "step 1 of 3 (prune) begins: on digits-v1-0-0 (sha256:111111111111…)",
    )
    lineage = made.status.to_object()["lineage"]
    assert lineage["parents"][0]["digest"] == DIGEST
    assert (lineage["trainingJob"], lineage["steps"]) == ({"name": "t", "uid": "x"}, 3)
    assert [one.name for one in made.status.steps or ()] == ["prune", "cluster", "quantize", "publish"]


def test_what_is_pinned_is_not_looked_for_again() -> None:
    pinned = at_stage(0)
    made = planned(pinned, versions={})
    assert made.start == 0
    assert made.status.lineage == pinned.status.lineage


def test_a_step_is_recorded_and_the_next_begins_after_that() -> None:
    first = at_stage(0)
    made = planned(first, (job(0, "Complete"), [said(0, notes=("conv1: kept, since …",))]))
    assert (made.start, made.end, made.look_again) == (None, (), 0.0)
    step = (made.status.steps or ())[0].to_object()
    assert step == {
        "number": 1, "name": "prune", "state": "Succeeded", "seconds": "2.5", "notes": ["conv1: kept, since …"],
        "before": {
            "bytes": 4100, "weightsBytes": 4000, "parameters": 1000, "sparsity": "0", "metrics": {"accuracy": "0.97"},
            "latencyP50": "0.25ms",
        },
        "after": {
            "bytes": 4100, "weightsBytes": 4000, "parameters": 1000, "sparsity": "0.9", "metrics": {"accuracy": "0.96"},
            "latencyP50": "0.25ms",
        },
    }  # fmt: skip
    assert [(one.reason, one.message) for one in made.told] == [
        (
            "StepSucceeded",
            "step 1 of 3 (prune): 4000 to 4000 bytes of weights, accuracy 0.97 to 0.96, p50 0.25 to 0.25 ms",
        )
    ]
    second = planned(after(first, made), (job(0, "Complete"), [said(0)]))
    assert (second.start, second.end) == (1, (job(0, "Complete"),))
    assert reason(second) == ("Running", "Compressing", "step 2 of 3 (cluster) begins")


def test_the_publication_makes_it_ready_and_its_jobs_go_once_that_is_written() -> None:
    last = at_stage(3)
    made = planned(last, (job(3, "Complete"), [published(3)]))
    words = "compressed out of digits-v1-0-0 in 3 steps, 500 bytes of 4100"
    assert reason(made) == ("Ready", "Published", words)
    status = made.status.to_object()
    assert status["artifact"]["digest"] == "sha256:" + "2" * 64
    assert status["metrics"] == {"accuracy": "0.95", "log_loss": "0.2"}
    assert (status["size"]["parent"]["bytes"], status["size"]["version"]["bytes"]) == (4100, 500)
    assert made.end == ()
    again = planned(after(last, made), (job(3, "Complete"), [published(3)]))
    assert (reason(again), again.start, again.end) == (reason(made), None, (job(3, "Complete"),))
    assert planned(after(last, made)).status == again.status


def test_a_lost_word_is_asked_for_again() -> None:
    made = planned(at_stage(1), (job(1, "Complete"), []))
    assert (made.start, made.end) == (None, (job(1, "Complete"),))
    assert made.state.main.message.startswith("step 2 of 3 (cluster) is run again: the pod was lost before")
    assert planned(at_stage(1)).start == 1


def test_an_ended_job_whose_pod_seems_to_run_waits_for_its_word() -> None:
    made = planned(at_stage(1), (job(1, "Failed"), [pod(phase="Running")]))
    assert (made.start, made.end, made.status.phase) == (None, (), "Running")


def test_why_a_pod_waits_is_told() -> None:
    waits = pod(waits_reason="Unschedulable", waits="0/1 nodes are available: 1 Insufficient cpu.")
    made = planned(at_stage(1), (job(1), [waits]))
    assert reason(made)[1:] == (
        "Compressing",
        "step 2 of 3 (cluster) waits: the pod cannot start: Unschedulable: 0/1 nodes are available: 1 Insufficient"
        " cpu.",
    )


def test_another_try_is_told_with_what_ended_the_first() -> None:
    lost = failed(0, Outcome.INFRASTRUCTURE, "the store does not answer")
    made = planned(at_stage(0), (job(0), [lost, pod()]))
    assert made.state.main.message == "step 1 of 3 (prune) is tried again: the store does not answer"


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (Outcome.STEP_NEEDS_MODULE, "the parent was imported without a module"),
        (Outcome.STORE_REFUSED, "access denied"),
        (Outcome.VERSION_CONFLICT, "published already, with other content"),
    ],
)
def test_a_step_that_fails_for_good_says_which_and_why(outcome: Outcome, message: str) -> None:
    running = at_stage(1)
    made = planned(running, (job(1, "Failed"), [failed(1, outcome, message)]))
    assert reason(made) == ("Failed", outcome.reason, f"step 2 of 3 (cluster): {message}. {AGAIN}")
    step = (made.status.steps or ())[1]
    assert (step.state, step.message) == ("Failed", message)
    # It stays so, and its Job for the logs; also when that is gone.
    for jobs in ([(job(1, "Failed"), [])], []):
        again = planned(after(running, made), *jobs)
        assert (reason(again), again.start, again.end) == (reason(made), None, ())


def test_a_gate_that_fails_says_by_how_much_and_at_which_step() -> None:
    gated = version(evaluation={"gates": [{"metric": "accuracy", "maxRegression": "0.01"}]})
    made = at_stage(0, gated)
    for index, (before, now) in enumerate([(0.97, 0.96), (0.96, 0.71), (0.71, 0.7)]):
        word = said(index, before=size(1000, before), after=size(1000, now))
        made = after(made, planned(made, (job(index, "Complete"), [word])))
    words = "accuracy 0.69 is 0.28 below digits-v1-0-0's 0.97; maxRegression allows 0.01"
    word = failed(
        3, Outcome.GATE_FAILED, words, metrics={"accuracy": 0.69}, before=size(9, 0.97), after=size(1, 0.69)
    )  # fmt: skip
    ended = planned(made, (job(3, "Failed"), [word]))
    assert reason(ended) == (
        "Failed",
        "GateFailed",
        f"the publication: {words}. Most changed at step 2 of 3 (cluster): accuracy 0.96 before it and 0.71 after"
        f" (validation split). {AGAIN}",
    )
    assert ended.status.artifact is None
    assert ended.status.metrics == {"accuracy": "0.69"}
    assert [one.warning for one in ended.told] == [True]


def test_a_container_that_was_killed_says_what_to_raise() -> None:
    killed = pod(phase="Failed", exit_code=137, exit_reason="OOMKilled")
    made = planned(at_stage(0), (job(0, "Failed"), [killed]))
    assert reason(made)[1:] == (
        "OutOfMemory",
        "step 1 of 3 (prune): the container passed its memory limit; raise resources.limits.memory of the source."
        f" {AGAIN}",
    )


def test_a_combination_is_one_job() -> None:
    members = [{"version": "1.0.0"}, {"version": "1.1.0"}]
    known = {name: view(name) for name in ("digits-v1-0-0", "digits-v1-1-0")}
    combined = version({"combine": {"members": members, "method": "Vote"}})
    pinned = planned(combined, versions=known)
    assert reason(pinned)[1:] == (
        "Combining",
        "the combination begins: on digits-v1-0-0 (sha256:111111111111…), digits-v1-1-0 (sha256:111111111111…)",
    )
    combined = after(combined, pinned)
    assert planned(combined).start == 0
    made = planned(combined, (job(0, "Complete"), [published(0)]))
    assert reason(made) == ("Ready", "Published", "combined of digits-v1-0-0, digits-v1-1-0 (Vote)")
    differ = failed(0, Outcome.MEMBERS_DIFFER, "inputs of digits-v1-1-0 are float32[?, 64], not float32[?, 784]")
    made = planned(combined, (job(0, "Failed"), [differ]))
    assert reason(made)[1] == "MembersDiffer"
    assert made.state.main.message.startswith("the combination: inputs of digits-v1-1-0")


@pytest.mark.parametrize(
    ("versions", "phase", "expected", "message", "stalled"),
    [
        ({}, "Pending", "WaitingForParent", "waiting for ModelVersion digits-v1-0-0, which does not exist: create it",
         False),
        ({"digits-v1-0-0": view(ready=False)}, "Pending", "WaitingForParent",
         "waiting for ModelVersion digits-v1-0-0, which is not Ready", False),
        ({"digits-v1-0-0": view(deleting=True)}, "Pending", "WaitingForParent",
         "waiting for ModelVersion digits-v1-0-0, which is being deleted", False),
        ({"digits-v1-0-0": view(ready=False, failure="gone wrong")}, "Pending", "ParentFailed",
         "ModelVersion digits-v1-0-0 failed: gone wrong", True),
        ({"digits-v1-0-0": view(retracted="it leaks")}, "Pending", "ParentRetracted",
         "ModelVersion digits-v1-0-0 was taken back: it leaks. Delete this one, and make it of another", True),
        ({"digits-v1-0-0": view(parents=("digits-v2-0-0",)), "digits-v2-0-0": view(parents=("digits-v1-0-0--small",))},
         "Pending", "Cycle",
         "digits-v1-0-0--small, which is made of digits-v1-0-0, which is made of digits-v2-0-0, which is made of"
         " digits-v1-0-0--small: none of them can be the first; delete one, and create it out of another version",
         True),
    ],
)  # fmt: skip
def test_nothing_is_begun_without_its_parent(
    versions: dict[str, VersionView], phase: str, expected: str, message: str, stalled: bool
) -> None:
    made = planned(version(), versions=versions)
    assert (made.start, made.look_again, made.status.lineage) == (None, None, None)
    assert reason(made) == (phase, expected, message)
    assert (made.state.activity.value == "Stalled") is stalled
    # What was mended is seen.
    assert reason(planned(after(version(), made)))[1] == "Compressing"


def test_a_circle_that_it_is_not_part_of_is_its_parent_s_to_tell() -> None:
    versions = {
        "digits-v1-0-0": view(ready=False, parents=("digits-v2-0-0",)),
        "digits-v2-0-0": view(ready=False, parents=("digits-v1-0-0",)),
    }
    assert reason(planned(version(), versions=versions))[1] == "WaitingForParent"


def test_without_a_store_nothing_is_begun() -> None:
    made = planned(version(), storage=StorageStatus(uri=""))
    assert reason(made)[1] == "NoStorage"
    assert made.status.lineage is None


def test_a_view_names_all_that_a_version_waits_for() -> None:
    gates = [
        {"metric": "accuracy", "maxRegression": "0.01", "against": {"version": "1.1.0", "variant": "int8"}},
        {"metric": "log_loss", "maxRegression": "0.1", "against": {"channel": "stable"}},
    ]
    made = version(evaluation={"datasetRef": {"name": "rows"}, "gates": gates})
    seen = version_view({
        "metadata": {"namespace": "team", "name": made.metadata.name}, "spec": made.spec.to_object(),
    })  # fmt: skip
    assert (seen.key, seen.parents) == (Key("team", "digits-v1-0-0--small"), ("digits-v1-0-0",))
    assert (seen.compared, seen.datasets, seen.has_channel) == (("digits-v1-1-0--int8",), ("rows",), True)


def test_an_import_waits_for_the_data_that_it_is_measured_on() -> None:
    seen = version_view({
        "metadata": {"namespace": "team", "name": "foreign-v1-0-0"},
        "spec": {"model": "foreign", "version": "1.0.0", "source": {"import": {"uri": "s3://b/m.onnx"}},
                 "evaluation": {"datasetRef": {"name": "rows"}}},
    })  # fmt: skip
    assert (seen.parents, seen.datasets) == ((), ("rows",))


ENDS = st.sampled_from(["crash", "lost", "deleted", "running", "done"])


@given(st.lists(ENDS, max_size=40), st.randoms(use_true_random=False))
def test_whatever_is_lost_each_step_is_recorded_once_and_the_end_is_published(
    ends: list[str], random: random.Random
) -> None:
    """A world in which Jobs finish, lose their word, are deleted, and the operator dies before it has written."""
    made, jobs, recorded = version(), {}, []
    for index in range(len(ends) + 30):
        end = ends[index] if index < len(ends) else "done"
        for stage, (one, _) in list(jobs.items()):
            if not one.ended and end in ("lost", "done"):
                word = published(stage) if stage == 3 else said(stage)
                jobs[stage] = (job(stage, "Complete"), [word] if end == "done" else [])
            elif end == "deleted" and random.random() < 0.5:
                del jobs[stage]
        plan = planned(made, *jobs.values())
        # The order of the controller: Jobs go, then one is made, then status is written.
        for ended in plan.end:
            jobs.pop(ended.stage, None)
        if plan.start is not None:
            assert plan.start not in jobs
            jobs[plan.start] = fresh(plan.start)
        if end == "crash":
            continue
        recorded += [one.message.split(":")[0] for one in plan.told if one.reason in ("StepSucceeded", "Published")]
        made = after(made, plan)
    assert made.status.phase == "Ready"
    assert [name.split(" (")[0] for name in recorded] == [
        "step 1 of 3", "step 2 of 3", "step 3 of 3",
        "compressed out of digits-v1-0-0 in 3 steps, 500 bytes of 4100",
    ]  # fmt: skip
    assert jobs == {}


def fresh(stage: int) -> tuple[StageJobView, list[StagePodView]]:
    return job(stage), [pod(phase="Running")]


TARGET = {"compress": {"from": {"version": "1.0.0"}, "target": {"bytes": "20Ki", "maxRegression": "0.01"}}}
FRONT = (
    Candidate(
        steps="prune 90 %, cluster 4 bits", bytes=900, latency_p50_ms=0.25, figure=0.96, regression=0.01, fits=True
    ),
    Candidate(steps="cluster 6 bits", bytes=2000, latency_p50_ms=0.25, figure=0.97, regression=0.0),
)  # fmt: skip


def test_a_search_tells_what_it_saw_and_which_it_chose() -> None:
    made = at_stage(0, version(TARGET))
    assert [one.name for one in made.status.steps or ()] == ["search", "publish"]
    assert made.status.lineage is not None
    assert made.status.lineage.steps is None
    chosen = tuple(Step.model_validate(one) for one in ({"prune": {"sparsity": 0.9}}, {"cluster": {"bits": 4}}))
    seen = Searched(
        metric="accuracy", reference=0.97, tried=7, front=FRONT, chosen=chosen, chosen_words=FRONT[0].steps
    )  # fmt: skip
    found = planned(made, (job(0, "Complete"), [said(0, search=seen)]))
    assert reason(found)[1:] == ("Compressing", "the publication begins")
    assert found.status.to_object()["search"] == {
        "outcome": "Accepted", "metric": "accuracy", "reference": "0.97", "tried": 7,
        "chosen": "prune 90 %, cluster 4 bits",
        "front": [
            {"steps": "prune 90 %, cluster 4 bits", "bytes": 900, "latencyP50": "0.25ms", "figure": "0.96",
             "regression": "0.01", "fits": True},
            {"steps": "cluster 6 bits", "bytes": 2000, "latencyP50": "0.25ms", "figure": "0.97", "regression": "0",
             "fits": False},
        ],
    }  # fmt: skip
    made = after(made, found)
    assert made.status.lineage is not None
    assert made.status.lineage.steps == 2
    ended = planned(made, (job(1, "Complete"), [published(1)]))
    words = "compressed out of digits-v1-0-0 by prune 90 %, cluster 4 bits, 500 bytes of 4100"
    assert reason(ended) == ("Ready", "Published", words)


@pytest.mark.parametrize("outcome", [Outcome.INFEASIBLE, Outcome.REGRESSION])
def test_a_target_that_is_missed_says_how_and_shows_the_front(outcome: Outcome) -> None:
    made = at_stage(0, version(TARGET))
    seen = Searched(metric="accuracy", reference=0.97, tried=7, front=FRONT)
    word = failed(0, outcome, "spec.source.compress.target: none of 7 candidates fits", search=seen)
    ended = planned(made, (job(0, "Failed"), [word]))
    assert reason(ended) == (
        "Failed",
        outcome.reason,
        f"the search: spec.source.compress.target: none of 7 candidates fits. {AGAIN}",
    )
    assert ended.status.search is not None
    assert (ended.status.search.outcome, ended.status.search.chosen) == (outcome.reason, None)
    assert len(ended.status.search.front or ()) == 2


def test_a_front_that_is_too_long_for_a_word_loses_its_largest() -> None:
    front = tuple(FRONT[0].model_copy(update={"bytes": 900 + one, "steps": "x" * 100}) for one in range(40))
    seen = Searched(metric="accuracy", reference=0.97, tried=40, front=front)
    summary = DerivationSummary(outcome="Infeasible", search=seen)
    again = DerivationSummary.from_message(summary.to_message())
    assert again is not None
    assert again.search is not None
    assert len(summary.to_message()) <= 3072
    assert again.search.front == front[: len(again.search.front)]
    assert len(again.search.front) > 10
