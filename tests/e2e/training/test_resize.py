"""How many workers a training has changes in mid-run: by its user, for want of room, for a pod of higher priority, and
by another writer of its Job's `suspend`. The steps that status tells of show that nothing was lost or done twice."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from dev.target import Target
from tests.e2e.training.jobs import Space, condition, has_checkpoint, succeeded, trainer, training_job

GPU, GPUS = "nvidia.com/gpu", 8
CLASSES = {"e2e-low": -10, "e2e-high": 1000}
TRAIN_ROWS, BATCH = 1437, 64
Seen = Mapping[str, Any]


def long(name: str, version: str, epochs: int = 300, workers: dict[str, Any] | None = None, **spec: Any) -> Any:
    """A training of a minute or two, with workers so small that four fit beside all else; it publishes what it
    reaches."""
    asked = {"replicas": 1, "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}}, **(workers or {})}
    spec = {"evaluation": {"metrics": ["accuracy"]}, "checkpoint": {"everySteps": 200, "keep": 2}, **spec}
    return training_job(name, version, trainer=trainer(hiddenSizes="16", epochs=str(epochs)), workers=asked, **spec)


def gpus(count: int) -> dict[str, Any]:
    """Workers that compute on the CPU, and hold GPUs, of which the node has eight."""
    return {
        "processesPerWorker": 1,
        "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {GPU: count}},
    }


def trains(attempt: int, step: int = 0) -> Callable[[Seen], bool]:
    """In this attempt, after this step, and it has told from where it began."""

    def check(seen: Seen) -> bool:
        told = seen.get("attempt") or {}
        at = (seen.get("progress") or {}).get("step") or 0
        return told.get("number") == attempt and "fromStep" in told and at > step

    return check


def reason_is(reason: str) -> Callable[[Seen], bool]:
    return lambda seen: condition(seen).get("reason") == reason


def patch(space: Space, kind: str, name: str, spec: dict[str, Any]) -> None:
    space.kubectl("patch", kind, name, "--type=merge", "--patch", json.dumps({"spec": spec}))


def alive(space: Space, name: str) -> list[str]:
    pods = space.items("pods", selector=f"modelwright.dev/trainingjob={name}")
    return [pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] in {"Pending", "Running"}]


def test_resized_from_2_to_4_to_1_no_step_is_lost_or_done_twice(space: Space) -> None:
    epochs = 300
    space.apply(long("resized", "6.0.0", epochs, {"replicas": 2}))
    space.until("resized", "trains on two", trains(1))
    patch(space, "trainingjob", "resized", {"workers": {"replicas": 4}})
    seen = space.until("resized", "trains on four", trains(2), seconds=300)
    assert seen["attempt"]["workers"] == 4
    patch(space, "trainingjob", "resized", {"workers": {"replicas": 1}})
    seen = space.until("resized", "succeeds", succeeded, seconds=400)
    two, four, one = seen["history"]
    print(f"\n  {json.dumps(seen['history'], indent=1)}")
    assert [end["workers"] for end in (two, four, one)] == [2, 4, 1]
    assert [end["reason"] for end in (two, four, one)] == ["Resized", "Resized", "Succeeded"]
    assert two["message"] == "resized from 2 to 4 workers"
    assert (two["fromStep"], two["toStep"] > 0) == (0, True)
    assert four["fromStep"] == two["toStep"]
    assert four["toStep"] > four["fromStep"]
    assert one["fromStep"] == four["toStep"]
    assert one["toStep"] == seen["progress"]["totalSteps"] == epochs * math.ceil(TRAIN_ROWS / BATCH)
    assert seen["restarts"] == {"counted": 0, "notCounted": 2}
    assert all(any("Preempted: stopped by SIGTERM" in line for line in end["log"]) for end in (two, four))
    curve = [point["step"] for point in seen["curve"]]
    assert curve == sorted(set(curve))
    assert 2 < len(curve) <= 50
    events = space.kubectl("get", "events", "--field-selector", "involvedObject.name=resized", "--output", "json")
    assert "attempt 2: resized from 2 to 4 workers" in events


@pytest.mark.long
def test_without_room_for_all_it_trains_on_as_many_as_there_is_room_for(space: Space) -> None:
    space.apply(long("shrunk", "6.1.0", 20, {**gpus(3), "replicas": 3, "minReplicas": 1}))
    seen = space.until("shrunk", "succeeds", succeeded, seconds=300)
    first, second = seen["history"]
    assert (first["reason"], first["workers"]) == ("Shrunk", 3)
    assert first["message"] == "there is room for 2 of 3 workers"
    assert (second["reason"], second["workers"]) == ("Succeeded", 2)
    assert seen["restarts"] == {"counted": 0, "notCounted": 1}


@pytest.fixture(scope="module")
def classes(operator: Target) -> Iterator[None]:
    for name, value in CLASSES.items():
        made = {
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value,
        }  # fmt: skip
        operator.kubectl("apply", "--filename", "-", stdin=json.dumps(made))
    yield
    operator.kubectl("delete", "priorityclass", *CLASSES)


def urgent(image: str) -> dict[str, Any]:
    """A pod of higher priority that needs all GPUs, for as long as it is there."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "urgent"},
        "spec": {
            "priorityClassName": "e2e-high",
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "sleeps",
                    "image": image,
                    "command": ["sleep", "3600"],
                    "resources": {"limits": {GPU: GPUS}},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }


@pytest.mark.usefixtures("classes")
def test_a_pod_of_higher_priority_goes_first_and_costs_no_step_and_no_restart(
    space: Space, refs: Mapping[str, str]
) -> None:
    asked = {**gpus(GPUS), "priorityClassName": "e2e-low"}
    space.apply(long("preempted", "6.2.0", workers=asked, failurePolicy={"maxRestarts": 0}))
    space.until("preempted", "trains", trains(1, 200))
    space.apply(urgent(refs["trainer"]))
    try:
        seen = space.until("preempted", "waits", reason_is("Unschedulable"))
        assert seen["attempt"]["number"] == 2
        (end,) = seen["history"]
        print(f"\n  {end['reason']}: {end['message']}")
        assert end["reason"] == "Preempted"
        assert end["message"].startswith("worker 0 made room for a pod of higher priority")
        assert end["counted"] is False
    finally:
        space.kubectl("delete", "pod", "urgent", "--wait")
    seen = space.until("preempted", "trains on", trains(2))
    assert seen["attempt"]["fromStep"] == end["toStep"] > 200
    seen = space.until("preempted", "succeeds", succeeded, seconds=300)
    assert seen["restarts"] == {"counted": 0, "notCounted": 1}


def test_another_writer_of_suspend_stops_a_queued_job_and_lets_it_go_on(space: Space) -> None:
    """As Kueue does, which is not in this cluster: the test is the queue."""
    space.apply(long("queued", "6.3.0", workers={"replicas": 2}, queueName="team-a"))
    seen = space.until("queued", "waits in the queue", reason_is("Queued"))
    assert seen["phase"] == "Pending"
    job = seen["attempt"]["jobName"]
    assert alive(space, "queued") == []
    patch(space, "job", job, {"suspend": False})
    space.until("queued", "has a checkpoint", lambda seen: has_checkpoint(seen) and trains(1, 200)(seen))
    patch(space, "job", job, {"suspend": True})
    at = space.until("queued", "is stopped", lambda seen: "waits in the queue" in condition(seen).get("message", ""))
    assert alive(space, "queued") == []
    patch(space, "job", job, {"suspend": False})
    step = at["progress"]["step"]
    seen = space.until("queued", "trains on", lambda seen: (seen["attempt"].get("fromStep") or 0) >= step)
    assert seen["attempt"]["number"] == 1, "in the same Job"
    seen = space.until("queued", "succeeds", succeeded, seconds=300)
    assert (seen["attempt"]["number"], seen["restarts"]) == (1, {"counted": 0, "notCounted": 0})
    assert seen["history"][0]["fromStep"] >= step


def test_a_queued_job_that_its_user_suspends_waits_in_the_queue_anew(space: Space) -> None:
    space.apply(long("queued-twice", "6.4.0", 20, queueName="team-a"))
    seen = space.until("queued-twice", "waits in the queue", reason_is("Queued"))
    patch(space, "trainingjob", "queued-twice", {"suspend": True})
    space.until("queued-twice", "is suspended", lambda seen: seen["phase"] == "Suspended")
    assert space.items("jobs", selector="modelwright.dev/trainingjob=queued-twice") == []
    patch(space, "trainingjob", "queued-twice", {"suspend": False})
    seen = space.until("queued-twice", "waits in the queue", lambda seen: seen["attempt"]["number"] == 2)
    patch(space, "job", seen["attempt"]["jobName"], {"suspend": False})
    space.until("queued-twice", "succeeds", succeeded)
