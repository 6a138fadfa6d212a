"""How many workers an attempt has: resized in mid-run, fewer where there is no room, none before the queue says so."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelwright.controllers.trainingjob import resolve
from modelwright.controllers.trainingjob.plan import Start, Suspend
from modelwright.controllers.trainingjob.running import SHRINK_SECONDS

from tests.unit.training_story import SETTINGS, Story, story
from tests.unit.training_world import NOW, pod

# Resizing


def test_a_resize_ends_the_attempt_after_a_checkpoint_and_another_of_the_new_size_follows() -> None:
    told = story(workers={"replicas": 2})
    told.run_pods(1)
    told.look()
    told.edit(workers={"replicas": 4})
    made = told.look()
    assert isinstance(made.action, Suspend)
    assert (told.reason, told.status["phase"]) == ("Resizing", "Running")
    assert told.main["message"] == "resized from 2 to 4 workers: attempt 1 saves a checkpoint and ends"
    assert told.look().action is None, "it waits for the pods"
    told.end_pods()
    assert told.look().action == Start(2)
    assert told.status["attempt"]["workers"] == 4
    assert told.status["restarts"] == {"counted": 0, "notCounted": 1}
    assert ("AttemptStarted", "attempt 2: resized from 2 to 4 workers") in told.events
    (end,) = told.status["history"]
    assert (end["reason"], end["message"], end["workers"]) == ("Resized", "resized from 2 to 4 workers", 2)


def test_a_change_of_more_than_the_size_is_not_called_a_resize() -> None:
    told = story()
    told.edit(workers={"replicas": 4}, trainer={"recipe": "mlp", "hyperparameters": {"epochs": "3"}})
    told.settle()
    assert told.history == [(1, "SpecChanged")]
    assert ("AttemptStarted", "attempt 2: the spec was changed") in told.events


def test_what_does_not_concern_the_workers_restarts_none_of_them() -> None:
    told = story(workers={"replicas": 4})
    told.edit(
        workers={"replicas": 4, "minReplicas": 2},
        cleanup={"after": "1h"},
        failurePolicy={"maxRestarts": 9, "activeDeadline": "1h"},
    )
    assert told.look().action is None


def test_the_checkpoint_of_another_size_is_the_same_training_s() -> None:
    told = Story()
    prints = set()
    for replicas in (1, 2, 4):
        told.spec["workers"] = {"replicas": replicas}
        run = resolve.blueprint(told.object(), SETTINGS, attempt=replicas, owner={}).run
        prints.add(run.fingerprint("sha256:0", {}))  # type: ignore[call-arg]
    assert len(prints) == 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 3)), max_size=6))
def test_whatever_the_sizes_one_attempt_follows_another_and_the_last_has_the_last_size(
    resizes: list[tuple[int, int]],
) -> None:
    """Each resize comes so many passes after the one before, in the midst of its being done perhaps."""
    told = story(workers={"replicas": 2})
    for replicas, passes in resizes:
        told.edit(workers={"replicas": replicas})
        for _ in range(passes):
            told.look()
            told.end_pods()
    told.settle()
    last = max(told.jobs)
    assert sorted(told.jobs) == list(range(1, last + 1))
    assert told.jobs[last]["spec"]["completions"] == told.spec["workers"]["replicas"]
    assert not told.jobs[last]["spec"].get("suspend")
    assert all(told.jobs[number]["spec"]["suspend"] for number in range(1, last))
    assert {reason for _, reason in told.history} <= {"Resized", "Suspended"}
    assert told.status["restarts"]["counted"] == 0


# No room


def crowded(found_room: int, of: int = 4, seconds: float = 0, **workers: int) -> Story:
    told = story(workers={"replicas": of, **workers})
    since = NOW - datetime.timedelta(seconds=seconds)
    told.pods = [
        pod(index, scheduled=True) if index < found_room else
        pod(index, phase="Pending", unschedulable="Insufficient cpu", unschedulable_since=since)
        for index in range(of)
    ]  # fmt: skip
    return told


def test_without_min_replicas_it_waits_for_room_for_all() -> None:
    told = crowded(2, seconds=1000)
    assert told.look().action is None
    assert told.reason == "Unschedulable"


def test_a_shortage_is_waited_for_a_while() -> None:
    made = crowded(2, seconds=40, minReplicas=1).look()
    assert (made.action, made.look_again) == (None, SHRINK_SECONDS - 40)


def test_it_goes_on_with_as_many_as_found_room_and_says_so() -> None:
    told = crowded(3, seconds=50, minReplicas=2)
    made = told.look()
    assert isinstance(made.action, Suspend)
    assert told.reason == "Shrinking"
    assert told.main["message"].startswith(
        "there is room for 3 of 4 workers (worker 3 cannot be scheduled: Insufficient cpu)"
    )
    told.end_pods()
    told.pods = []
    assert told.look().action == Start(2, 3)
    assert told.status["attempt"]["workers"] == 3
    assert told.jobs[2]["spec"]["completions"] == 3
    assert told.history == [(1, "Shrunk")]
    told.run_pods(2)
    assert told.look().action is None, "fewer than the spec asks for is no resize"
    assert told.main["message"] == "attempt 2: 3 (of 4) workers run"


def test_a_model_that_is_sharded_over_two_workers_goes_on_with_an_even_number() -> None:
    told = crowded(3, seconds=50, minReplicas=1)
    told.spec["strategy"] = {"type": "FSDP", "shardSize": 2}
    told.jobs, told.status, pods = {}, {}, told.pods
    told.look()
    told.pods = pods
    told.look()
    told.end_pods()
    told.pods = []
    assert told.look().action == Start(2, 2)


def test_it_asks_for_all_again_with_the_next_attempt() -> None:
    told = crowded(3, seconds=50, minReplicas=2)
    told.settle()
    assert told.jobs[2]["spec"]["completions"] == 3
    told.pods = [pod(0, 2, disrupted="PreemptionByScheduler")]
    told.look()
    told.fail(2, "Pod team/digits has condition DisruptionTarget matching FailJob rule at index 0")
    assert told.look().action == Start(3)
    assert told.jobs[3]["spec"]["completions"] == 4


def test_with_less_room_than_min_replicas_it_waits_and_says_how_much_there_is() -> None:
    told = crowded(1, seconds=500, minReplicas=2)
    assert told.look().action is None
    assert told.main["message"].endswith("(1 of 4 workers found room, and minReplicas is 2)")


# Queues


def queued(**spec: object) -> Story:
    return story(queueName="team-a", **spec)


def admit(told: Story, attempt: int) -> None:
    told.jobs[attempt]["spec"]["suspend"] = False
    told.jobs[attempt]["status"] = {"active": 2}
    told.run_pods(attempt)


def test_a_queued_job_is_made_suspended_and_waits_without_being_ended_or_started() -> None:
    told = queued()
    job = told.jobs[1]
    assert (job["spec"]["suspend"], job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]) == (True, "team-a")
    assert "kueue.x-k8s.io/queue-name" not in job["spec"]["template"]["metadata"]["labels"]
    for _ in range(3):
        assert told.look().action is None
    assert (told.status["phase"], told.reason) == ("Pending", "Queued")
    assert told.main["message"] == "attempt 1 waits in the queue team-a"
    admit(told, 1)
    told.look()
    assert told.status["phase"] == "Running"


def test_what_the_queue_stops_goes_on_in_the_same_job_once_the_queue_lets_it() -> None:
    told = queued()
    admit(told, 1)
    told.look()
    told.jobs[1]["spec"]["suspend"] = True
    assert told.look().action is None
    assert told.main["message"] == "the queue team-a suspended attempt 1: its workers save a checkpoint and end"
    told.end_pods()
    told.pods = [pod(0, phase="Failed", exit_code=20), pod(1, phase="Failed", exit_code=20)]
    assert told.look().action is None
    assert (told.reason, told.history) == ("Queued", [])
    admit(told, 1)
    told.pods += [pod(0, phase="Failed", exit_code=20), pod(1, phase="Failed", exit_code=20)]
    told.look()
    assert (told.status["phase"], told.reason) == ("Running", "Training"), "pods of before are passed over"


def test_a_pod_that_the_queue_stops_has_not_failed() -> None:
    rules = {
        rule["action"]: rule["onExitCodes"]["values"]
        for rule in queued().jobs[1]["spec"]["podFailurePolicy"]["rules"]
        if rule["action"] == "Ignore"
    }
    assert rules == {"Ignore": [20, 143]}
    plain = story().jobs[1]["spec"]["podFailurePolicy"]["rules"]
    assert {rule["action"] for rule in plain} == {"FailJob"}


@pytest.mark.parametrize("admitted", [False, True])
def test_to_end_a_queued_attempt_its_job_is_deleted_since_the_queue_would_start_it_again(admitted: bool) -> None:
    told = queued()
    if admitted:
        admit(told, 1)
        told.look()
    told.edit(suspend=True)
    made = told.look()
    assert isinstance(made.action, Suspend)
    assert told.jobs == {}
    told.pods = [pod()]
    made = told.look()
    assert (made.action, told.reason) == (None, "Suspending")
    told.pods = []
    told.look()
    assert (told.status["phase"], told.history) == ("Suspended", [(1, "Suspended")])
    told.edit(suspend=False)
    assert told.look().action == Start(2)
    assert told.jobs[2]["spec"]["suspend"] is True, "the next one waits in the queue, too"
    assert told.status["restarts"] == {"counted": 0, "notCounted": 1}


def test_a_resize_of_a_queued_job_waits_in_the_queue_anew() -> None:
    told = queued()
    admit(told, 1)
    told.look()
    told.edit(workers={"replicas": 3})
    told.look()
    told.pods = []
    assert told.look().action == Start(2)
    assert told.history == [(1, "Resized")]
    assert ("AttemptStarted", "attempt 2: resized from 2 to 3 workers") in told.events


def test_a_queued_job_whose_pods_could_not_end_in_time_is_followed_by_another_and_not_counted() -> None:
    told = queued()
    admit(told, 1)
    told.look()
    told.jobs[1]["spec"]["suspend"] = True
    told.fail(1, "Container trainer for pod team/digits-0 failed with exit code 24 matching FailJob rule at index 11")
    told.passes(1000)
    assert told.look().action == Start(2)
    assert told.status["restarts"] == {"counted": 0, "notCounted": 1}
