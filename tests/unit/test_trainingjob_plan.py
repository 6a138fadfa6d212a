"""The decisions of a TrainingJob: which attempt follows which, what counts, and what is said."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelwright.api.training_job import TrainingJob
from modelwright.contract import Failure, Outcome, PartFigures, Published
from modelwright.controllers.trainingjob import resolve
from modelwright.controllers.trainingjob.observed import JobView
from modelwright.controllers.trainingjob.outcome import RULES, failure
from modelwright.controllers.trainingjob.plan import Publish, Start, Suspend, Told

from dev import examples
from tests.unit.training_world import FATES, Fate, counts, failed, job, planned, pod, summary, with_


def test_the_first_attempt_is_started() -> None:
    assert planned().action == Start(1)


def test_a_suspended_job_starts_nothing_and_is_neither_on_its_way_nor_stalled() -> None:
    made = planned(with_(suspend=True))
    assert (made.phase, made.action) == ("Suspended", None)
    assert [fact.type for fact in made.state.facts()] == ["Succeeded"]


def test_a_problem_of_the_spec_starts_nothing_and_says_what_to_do() -> None:
    made = planned(with_(problem_reason="InvalidHyperparameter", problem="learningRate: …"))
    assert made.action is None
    assert {fact.type: fact.status for fact in made.state.facts()} == {"Succeeded": "False", "Stalled": "True"}
    assert made.state.main.message == "learningRate: …"


def test_a_running_attempt_is_left_alone_and_looked_at() -> None:
    made = planned(jobs=(job(),), pods=(pod(0), pod(1)))
    assert (made.phase, made.action, made.look_again) == ("Running", None, 5.0)


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        (
            {"unschedulable": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."},
            "Unschedulable",
            "Insufficient nvidia",
        ),
        ({"trouble_reason": "ErrImagePull", "trouble": "not found"}, "ErrImagePull", "ErrImagePull: not found"),
        (
            {"trouble_reason": "CreateContainerConfigError", "trouble": 'secret "store" not found'},
            "CreateContainerConfigError",
            'secret "store" not found',
        ),
    ],
)
def test_what_a_pod_waits_for_is_carried_up_in_its_own_words(changes: dict[str, str], reason: str, words: str) -> None:
    made = planned(jobs=(job(),), pods=(pod(0), pod(1, phase="Pending", **changes)))
    assert made.state.main.reason == reason
    assert words in made.state.main.message
    assert "worker 1" in made.state.main.message


def test_a_result_is_published_once() -> None:
    artifact = Published(uri="s3://b/m", digest="sha256:ab")
    said = summary(Outcome.SUCCEEDED, artifact=artifact, metrics={"accuracy": 0.97})
    done = job(ended="Complete", active=0)
    made = planned(jobs=(done,), pods=(pod(1), pod(0, exit_code=0, termination_message=said)))
    assert made.action == Publish("s3://b/m", "sha256:ab", (("accuracy", 0.97),))
    again = planned(jobs=(done,), pods=(), published=True)
    assert (again.phase, again.action, again.state.main.status) == ("Succeeded", None, "True")


TRAINED = TrainingJob.model_validate(examples.training_job())


def test_what_is_told_of_slices_and_classes_is_in_the_result() -> None:
    artifact = Published(uri="s3://b/m", digest="sha256:ab")
    young = PartFigures(name="age<30", rows=12, metrics={"accuracy": 0.5})
    worst = PartFigures(name="cat", rows=3, metrics={"f1": 0.25})
    said = summary(Outcome.SUCCEEDED, artifact=artifact, slices=(young,), classes=(worst,))
    made = planned(jobs=(job(ended="Complete", active=0),), pods=(pod(0, exit_code=0, termination_message=said),))
    assert isinstance(made.action, Publish)
    assert (made.action.slices, made.action.classes) == ((young,), (worst,))
    told = resolve.published(TRAINED, made.action)
    assert [one.to_object() for one in told["slices"]] == [
        {"name": "age<30", "rows": 12, "metrics": {"accuracy": "0.5"}}
    ]
    assert told["classes"][0].metrics == {"f1": "0.25"}
    assert "slices" not in resolve.published(TRAINED, Publish("s3://b/m", "sha256:ab", ())), "as they are in status"


def test_a_result_that_was_lost_with_its_pod_is_fetched_by_another_attempt() -> None:
    made = planned(jobs=(job(ended="Complete", active=0),))
    assert made.action == Start(2)
    assert made.restarts == 0


@pytest.mark.parametrize("fate", FATES)
def test_the_cause_is_read_from_the_job_alone(fate: Fate) -> None:
    expected = fate.reason if isinstance(fate, Outcome) else fate or Outcome.WORKER_CRASHED.reason
    assert failure(failed(1, fate), ()).reason == expected


@pytest.mark.parametrize("outcome", RULES)
def test_the_cause_is_read_from_the_pods_where_the_job_does_not_say(outcome: Outcome) -> None:
    assert failure(failed(1, None), (pod(0, exit_code=outcome.code),)).reason == outcome.reason


def test_the_rank_that_began_it_is_quoted_not_those_that_lost_their_peer() -> None:
    said = summary(Outcome.DATA_ERROR, failure=Failure(type="DataError", message="no column 'lable'"))
    lost = summary(Outcome.PEER_LOST, failure=Failure(type="PeerLost", message="rank 1 is gone"))
    made = failure(
        failed(1, Outcome.PEER_LOST),
        (pod(0, exit_code=25, termination_message=lost), pod(1, exit_code=11, termination_message=said)),
    )
    assert (made.reason, made.message) == ("DataError", "worker 1: DataError: no column 'lable'")


def test_memory_is_told_with_the_remedy() -> None:
    made = failure(failed(1, None), (pod(1, exit_code=137, exit_reason="OOMKilled"),))
    assert made.reason == "OutOfMemory"
    assert "raise spec.workers.resources" in made.message


@pytest.mark.parametrize("fate", FATES)
def test_errors_of_the_user_are_not_tried_again_and_disruptions_do_not_count(fate: Fate) -> None:
    made = planned(jobs=(failed(1, fate),), ended=1000)
    if fate is None or fate == "Disrupted" or fate.retried:
        assert made.action == Start(2)
        assert made.restarts == int(counts(fate))
    else:
        assert (made.phase, made.action) == ("Failed", None)


def test_restarts_end_where_the_spec_says() -> None:
    two = (failed(1, Outcome.WORKER_CRASHED), failed(2, Outcome.WORKER_CRASHED))
    assert planned(jobs=two, ended=1000).action == Start(3)
    made = planned(jobs=(*two, failed(3, Outcome.WORKER_CRASHED)), ended=1000)
    assert (made.phase, made.restarts) == ("Failed", 3)
    assert "after 2 of 2 restarts" in made.state.main.message
    assert planned(with_(max_restarts=3), (*two, failed(3, Outcome.WORKER_CRASHED)), ended=1000).action == Start(4)


def test_a_restart_waits_and_says_when_to_look_again() -> None:
    made = planned(jobs=(failed(1, Outcome.WORKER_CRASHED),), ended=4)
    assert (made.phase, made.action, made.look_again) == ("Restarting", None, 6.0)


def test_no_attempt_starts_beside_pods_of_the_last_one() -> None:
    assert planned(jobs=(failed(1, Outcome.PREEMPTED, active=1),), ended=1000).action is None


def test_a_changed_spec_ends_the_attempt_and_is_given_a_fresh_count() -> None:
    changed = with_(run_hash="new")
    running = job()
    assert planned(changed, (running,)).action == Suspend(running)
    assert planned(changed, (job(suspended=True),)).action is None
    assert planned(changed, (job(suspended=True, active=0),)).action == Start(2)
    made = planned(changed, (failed(1, Outcome.DATA_ERROR),), ended=0)
    assert (made.action, made.restarts) == (Start(2), 0)


def test_suspension_ends_the_pods_first_and_resume_is_a_new_attempt() -> None:
    suspended = with_(suspend=True)
    running = job()
    assert planned(suspended, (running,)).action == Suspend(running)
    assert planned(suspended, (job(suspended=True),)).state.main.reason == "Suspending"
    assert planned(suspended, (job(suspended=True, active=0),)).phase == "Suspended"
    assert planned(jobs=(job(suspended=True),)).action is None
    assert planned(jobs=(job(suspended=True, active=0),)).action == Start(2)


@given(st.lists(st.sampled_from(FATES), max_size=12), st.integers(0, 5))
def test_whatever_happens_attempts_follow_one_another_and_the_counted_ones_are_bounded(
    fates: list[Fate], most: int
) -> None:
    """Attempts meet their fates in turn, until the plan starts no other."""
    wanted = with_(max_restarts=most)
    jobs: tuple[JobView, ...] = ()
    for fate in fates:
        made = planned(wanted, jobs, ended=10_000)
        if made.action is None:
            break
        assert made.action == Start(len(jobs) + 1)
        assert planned(with_(max_restarts=most, suspend=True), jobs, ended=10_000).action is None
        busy = tuple(dataclasses.replace(one, active=1) for one in jobs)
        assert not busy or planned(wanted, busy, ended=10_000).action is None, "never beside another"
        jobs += (failed(len(jobs) + 1, fate),)
    final = planned(wanted, jobs, ended=10_000)
    counted = sum(counts(fate) for fate in fates[: len(jobs)])
    assert final.restarts == counted <= most + 1
    types = [fact.type for fact in final.state.facts()]
    assert len(types) == len(set(types))
    assert not {"Stalled", "Reconciling"} <= set(types)
    assert ("Stalled" in types) == (final.phase == "Failed")


def test_a_result_that_was_read_is_published_without_its_pod_and_job() -> None:
    result = Publish("s3://abc/manifest.json", "sha256:0", (("accuracy", 0.9),))
    for jobs in ((), (job(ended="Complete", active=0),), (failed(1, Outcome.WORKER_CRASHED),)):
        assert planned(jobs=jobs, told=Told(1, result)).action is result
    assert planned(published=True, told=Told(1, result)).phase == "Succeeded"


def test_a_deleted_job_is_followed_by_an_attempt_of_another_name_once_its_pods_have_ended() -> None:
    stray = pod(attempt=2)
    waits = planned(jobs=(failed(1, Outcome.PREEMPTED),), pods=(stray,), told=Told(2))
    assert (waits.action, waits.phase) == (None, "Restarting")
    assert waits.state.main.message == "the Job of attempt 2 was deleted; waiting for its pods to end"
    for ended in ("Succeeded", "Failed"):
        goes_on = planned(pods=(dataclasses.replace(stray, phase=ended),), told=Told(2))
        assert goes_on.action == Start(3)
    assert planned(with_(suspend=True), told=Told(2)).phase == "Suspended"


def test_a_worker_that_has_failed_does_not_look_as_if_it_started() -> None:
    made = planned(jobs=(job(),), pods=(pod(0), pod(1, phase="Failed", exit_code=24)))
    assert (made.phase, made.state.main.reason) == ("Running", "Finishing")


def test_suspended_and_resumed_is_another_try_after_a_failure_for_good_too() -> None:
    refused = (failed(1, Outcome.STORE_REFUSED),)
    assert planned(jobs=refused, ended=5).phase == "Failed"
    assert planned(with_(suspend=True), refused, ended=5).phase == "Suspended"
    resumed = planned(jobs=refused, ended=5, told=Told(1, suspended=True))
    assert resumed.action == Start(2)
    once_more = (*refused, failed(2, Outcome.STORE_REFUSED))
    assert planned(jobs=once_more, ended=5, told=Told(2)).phase == "Failed"
