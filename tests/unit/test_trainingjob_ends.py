"""Why an attempt ended, what follows from it, and what is kept of it when Jobs and pods are gone."""

from __future__ import annotations

import pytest
from modelwright.contract import Failure, Outcome, Progress, Published
from modelwright.controllers.trainingjob.lost import LostPods
from modelwright.controllers.trainingjob.outcome import RULES, failure
from modelwright.controllers.trainingjob.plan import Publish, Start, Suspend
from modelwright.kube.resources import Key

from tests.unit.training_story import Story, story
from tests.unit.training_world import failed, pod, summary

DISRUPTED = "Pod team/digits-0 has condition DisruptionTarget matching FailJob rule at index 0"


def by_code(outcome: Outcome) -> str:
    index = RULES.index(outcome) + 1
    return (
        f"Container trainer for pod team/x failed with exit code {outcome.code} matching FailJob rule at index {index}"
    )


# Causes


@pytest.mark.parametrize(
    ("told", "reason", "words"),
    [
        ("PreemptionByScheduler", "Preempted", "worker 1 made room for a pod of higher priority (node-0): said"),
        ("EvictionByEvictionAPI", "Evicted", "worker 1 was evicted, as for the drain of its node (node-0): said"),
        ("TerminationByKubelet", "Evicted", "worker 1 was ended by its node's kubelet (node-0): said"),
        (
            "DeletionByTaintManager",
            "NodeLost",
            "worker 1 was taken off its node, which does not answer or was tainted (node-0): said",
        ),
        ("DeletionByPodGC", "NodeLost", "worker 1 was lost with its node (node-0): said"),
        ("Otherwise", "Disrupted", "worker 1 was evicted (Otherwise) (node-0): said"),
    ],
)
def test_what_kubernetes_takes_away_is_told_by_its_cause_and_not_counted(told: str, reason: str, words: str) -> None:
    taken = pod(1, disrupted=told, disruption="said", node="node-0")
    found = failure(failed(1, "Disrupted"), (pod(0), taken))
    assert (found.reason, found.message, found.retried, found.counted) == (reason, words, True, False)


@pytest.mark.parametrize("outcome", [Outcome.PREEMPTED, Outcome.PEER_LOST, Outcome.HUNG, Outcome.INFRASTRUCTURE])
def test_what_the_others_end_with_is_not_the_cause(outcome: Outcome) -> None:
    """Where they notice before Kubernetes does, the Job fails of them."""
    pods = (pod(0, exit_code=outcome.code), pod(1, disrupted="DeletionByPodGC"))
    found = failure(failed(1, outcome), pods)
    assert (found.reason, found.counted) == ("NodeLost", False)


@pytest.mark.parametrize("outcome", [Outcome.DATA_ERROR, Outcome.OUT_OF_MEMORY, Outcome.GATE_FAILED])
def test_an_eviction_does_not_hide_what_is_wrong_with_the_training(outcome: Outcome) -> None:
    pods = (pod(0, exit_code=outcome.code), pod(1, disrupted="EvictionByEvictionAPI"))
    assert failure(failed(1, outcome), pods).reason == outcome.reason


def test_why_a_pod_was_taken_away_is_remembered_when_it_is_gone() -> None:
    told = story()
    told.run_pods(1)
    told.pods[1] = pod(1, disrupted="PreemptionByScheduler", node="node-0", deleting=True)
    told.look()
    assert (told.reason, told.status["phase"]) == ("Preempted", "Running")
    told.pods = [pod(0)]
    told.look()
    assert told.reason == "Preempted", "until its Job has ended"
    told.fail(1, DISRUPTED)
    assert told.look().action == Start(2)
    (end,) = told.status["history"]
    assert end["message"] == "worker 1 made room for a pod of higher priority (node-0)"
    assert (end["reason"], end["counted"]) == ("Preempted", False)
    assert told.status["restarts"] == {"counted": 0, "notCounted": 1}


def test_the_limit_of_a_container_that_was_killed_for_memory_is_told_as_its_peak() -> None:
    killed = pod(0, exit_code=137, exit_reason="OOMKilled", memory_limit="512Mi")
    assert failure(failed(1, None), (killed,)).message == (
        "worker 0: the container passed its memory limit of 512Mi, its peak; raise spec.workers.resources, or lower the"
        " batch size"
    )


# The same error again


def crash(told: Story, attempt: int, message: str, step: int, outcome: Outcome = Outcome.WORKER_CRASHED) -> None:
    words = summary(outcome, failure=Failure(type="Error", message=message), attempt=attempt, step=step)
    told.pods = [pod(0, attempt, phase="Failed", exit_code=outcome.code, termination_message=words)]
    told.fail(attempt, by_code(outcome))
    told.passes(100)  # longer than the pause before another attempt


def test_the_same_error_at_the_same_step_twice_in_a_row_is_not_tried_again() -> None:
    told = story()
    crash(told, 1, "no column x", 40)
    assert told.look().action == Start(2), "once may be chance"
    crash(told, 2, "no column x", 40)
    made = told.look()
    assert (made.action, told.status["phase"], told.reason) == (None, "Failed", "WorkerCrashed")
    assert told.main["message"] == (
        "worker 0: Error: no column x (the same error at step 40 as in the attempt before: it is not tried again; mend"
        " it, or suspend and resume)"
    )


@pytest.mark.parametrize(("message", "step"), [("no column y", 40), ("no column x", 41)])
def test_another_error_or_another_step_is_tried_again(message: str, step: int) -> None:
    told = story()
    crash(told, 1, "no column x", 40)
    told.look()
    crash(told, 2, message, step)
    assert told.look().action == Start(3)


def test_too_little_memory_at_the_same_step_is_the_same_whatever_the_figures() -> None:
    told = story()
    crash(told, 1, "limit 512Mi, peak 511Mi", 7, Outcome.OUT_OF_MEMORY)
    told.look()
    crash(told, 2, "limit 512Mi, peak 510Mi", 7, Outcome.OUT_OF_MEMORY)
    told.look()
    assert (told.status["phase"], told.reason) == ("Failed", "OutOfMemory")


@pytest.mark.parametrize("outcome", [Outcome.INFRASTRUCTURE, Outcome.PEER_LOST, Outcome.PREEMPTED])
def test_what_lies_outside_of_the_training_is_tried_again_though_it_looks_the_same(outcome: Outcome) -> None:
    told = story()
    for attempt in (1, 2):
        crash(told, attempt, "the store does not answer", 0, outcome)
        assert told.look().action == Start(attempt + 1)


def test_code_of_the_user_s_that_was_stopped_twice_has_no_error() -> None:
    """Its exit codes are its own, and code that tells of no steps is always at the same one."""
    told = story(queueName="team-a", trainer={"image": "team/own:1"}, data={"uri": "s3://bucket/raw/"})
    for attempt in (1, 2):
        told.jobs[attempt]["spec"]["suspend"] = True
        told.pods = [pod(0, attempt, phase="Failed", exit_code=143, own_exit=True)]
        words = (
            f"Container trainer for pod team/own-{attempt} failed with exit code 143 matching FailJob rule at index 1"
        )
        told.fail(attempt, words)
        assert told.look().action == Start(attempt + 1)
    assert told.status["restarts"] == {"counted": 0, "notCounted": 2}


def test_code_of_the_user_s_that_fails_twice_in_the_same_words_has_one() -> None:
    told = story(trainer={"image": "team/own:1"}, data={"uri": "s3://bucket/raw/"})
    for attempt in (1, 2):
        told.pods = [pod(0, attempt, phase="Failed", exit_code=3, own_exit=True, termination_message="a\nno column\n")]
        words = f"Container trainer for pod team/own-{attempt} failed with exit code 3 matching FailJob rule at index 1"
        told.fail(attempt, words)
        told.passes(100)
        told.look()
    assert told.status["phase"] == "Failed"
    assert "the same error at step 0 as in the attempt before" in told.main["message"]
    assert told.status["history"][0]["log"] == ["a", "no column"]


def test_suspended_and_resumed_it_is_tried_once_more() -> None:
    told = story()
    for attempt in (1, 2):
        crash(told, attempt, "no column x", 40)
        told.look()
    assert told.status["phase"] == "Failed"
    told.edit(suspend=True)
    told.look()
    told.edit(suspend=False)
    assert told.look().action == Start(3)


# What is kept


def test_an_attempt_is_kept_with_its_steps_when_its_job_and_pods_are_gone() -> None:
    told = story()
    told.run_pods(1)
    told.look(Progress(phase="Training", attempt=1, step=30, resumed_from_step=20))
    crash(told, 1, "no luck", 35)
    told.look()
    told.jobs.pop(1)
    told.pods = []
    told.run_pods(2)
    told.look()
    (end,) = told.status["history"]
    assert (end["number"], end["workers"], end["fromStep"], end["toStep"]) == (1, 2, 20, 35)
    assert (end["reason"], end["message"], end["counted"]) == ("WorkerCrashed", "worker 0: Error: no luck", True)
    assert told.status["restarts"] == {"counted": 1, "notCounted": 0}, "its Job's deletion makes it none the less"


def test_what_a_pod_says_last_is_kept_though_it_is_deleted_at_once() -> None:
    lost, key = LostPods(), Key("team", "digits")
    words = summary(Outcome.PREEMPTED, step=77)
    lost.keep(key, pod(0, phase="Running", exit_code=20, termination_message=words))
    lost.keep(key, pod(1))
    (kept,) = lost.of(key)
    assert (kept.phase, kept.exit_code) == ("Failed", 20), "it cannot be waited for"
    told = story()
    told.edit(suspend=True)
    told.look()
    told.end_pods()
    told.pods = lost.of(key)
    told.look()
    assert told.status["history"][0]["toStep"] == 77
    lost.forget(key)
    assert lost.of(key) == []


def test_the_history_is_bounded() -> None:
    told = story(failurePolicy={"maxRestarts": 100})
    for attempt in range(1, 31):
        crash(told, attempt, f"{attempt}", attempt)
        told.passes(1000)
        told.look()
    assert [number for number, _ in told.history] == list(range(15, 31))


# The deadline


def deadline(**spec: object) -> Story:
    told = story(failurePolicy={"activeDeadline": "1h"}, **spec)
    told.run_pods(1)
    told.look()
    return told


def test_a_deadline_ends_the_attempt_after_a_checkpoint_and_the_job_for_good() -> None:
    told = deadline()
    told.passes(3599)
    assert told.look().look_again == 1
    told.passes(1)
    made = told.look()
    assert isinstance(made.action, Suspend)
    assert (told.status["phase"], told.reason) == ("Running", "DeadlineExceeded")
    told.end_pods()
    told.look()
    assert (told.status["phase"], told.reason) == ("Failed", "DeadlineExceeded")
    assert told.main["message"] == (
        "activeDeadline: 3600 s of work are over; raise spec.failurePolicy.activeDeadline, and it goes on from the last"
        " checkpoint"
    )
    assert told.history == [(1, "DeadlineExceeded")]
    told.passes(10_000)
    told.edit(failurePolicy={"activeDeadline": "2h"})
    assert told.look().action == Start(2), "the time in which it had failed does not count"


def test_a_deadline_counts_all_attempts_but_not_the_time_in_which_it_was_suspended() -> None:
    told = deadline()
    told.passes(1800)
    told.edit(suspend=True)
    told.look()
    told.end_pods()
    told.look()
    assert told.status["active"] == {"seconds": 1800}
    told.passes(100_000)
    told.edit(suspend=False)
    assert told.look().action == Start(2)
    told.passes(1700)
    told.run_pods(2)
    assert told.look().action is None
    told.passes(100)
    assert isinstance(told.look().action, Suspend)


def test_between_two_attempts_a_deadline_starts_no_other() -> None:
    told = deadline()
    crash(told, 1, "no luck", 1)
    told.passes(3600)
    made = told.look()
    assert (made.action, told.status["phase"], told.reason) == (None, "Failed", "DeadlineExceeded")


def test_what_is_done_by_the_deadline_is_published() -> None:
    told = deadline()
    said = summary(Outcome.SUCCEEDED, artifact=Published(uri="s3://b/m", digest="sha256:ab"))
    told.jobs[1]["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    told.pods = [pod(0, exit_code=0, termination_message=said)]
    told.passes(10_000)
    assert isinstance(told.look().action, Publish)


def test_a_queued_attempt_that_is_over_its_deadline_waits_for_its_pods_too() -> None:
    told = deadline(queueName="team-a")
    told.jobs[1]["spec"]["suspend"] = False
    told.jobs[1]["status"] = {"active": 2}
    told.look()
    told.passes(3600)
    assert isinstance(told.look().action, Suspend)
    assert told.jobs == {}
    assert told.look().phase == "Restarting"
    told.pods = []
    told.look()
    assert (told.status["phase"], told.reason) == ("Failed", "DeadlineExceeded")
    assert told.history == [(1, "DeadlineExceeded")]


# Cleaning up


def refused(**spec: object) -> Story:
    """It has failed for good."""
    told = story(**spec)
    crash(told, 1, "no such column", 0, Outcome.DATA_ERROR)
    told.look()
    assert told.status["phase"] == "Failed"
    return told


def test_by_default_everything_is_kept() -> None:
    told = refused()
    told.passes(1e9)
    assert not told.clean_up()


def test_what_is_cleaned_up_does_not_run_again_and_says_what_it_said() -> None:
    told = refused(cleanup={"after": "1h"})
    said = told.main
    told.passes(3599)
    assert not told.clean_up()
    told.passes(1)
    assert told.clean_up()
    assert not told.clean_up(), "once"
    for change in ({"cleanup": {"after": "2h"}}, {"failurePolicy": {"maxRestarts": 9}}):
        told.edit(**change)
        made = told.look()
        assert (made.action, told.status["phase"]) == (None, "Failed")
        assert (told.main["reason"], told.main["message"]) == (said["reason"], said["message"])
    told.edit(trainer={"recipe": "mlp", "hyperparameters": {"epochs": "3"}})
    assert told.look().action == Start(2), "another name than that of what was cleaned up"
    assert "cleanupTime" not in told.status


def test_a_cleaned_up_result_is_still_there_to_be_published() -> None:
    told = story(cleanup={"after": "0s"})
    said = summary(Outcome.SUCCEEDED, artifact=Published(uri="s3://b/m", digest="sha256:" + "0" * 64), step=90)
    told.jobs[1]["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    told.pods = [pod(0, exit_code=0, termination_message=said)]
    published = told.look().action
    assert told.history == [(1, "Succeeded")]
    told.jobs, told.pods = {}, []
    assert told.look().action == published
