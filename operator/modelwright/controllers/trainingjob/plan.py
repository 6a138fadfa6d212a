"""The decisions of a TrainingJob, pure: from what is wanted and what is seen to what is to be done.

An attempt is one Job. Resume, preemption and node loss are all "a checkpoint, then a new attempt": the plan only ever
asks whether the newest attempt still runs, how it ended, and whether there may be another.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence

from modelwright.contract import Summary
from modelwright.controllers.trainingjob.observed import JobView, PodView
from modelwright.controllers.trainingjob.outcome import Failure, failure
from modelwright.kube import conditions
from modelwright.kube.conditions import State

# A failed attempt's successor waits a little longer each time, so that a store that is down is not hammered.
BACKOFF_SECONDS = (0.0, 10.0, 30.0, 60.0, 120.0, 300.0)
# Between two looks at how far a running attempt is.
PROGRESS_SECONDS = 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What the spec asks for, as far as the plan goes."""

    suspend: bool
    workers: int
    max_restarts: int
    version_name: str
    run_hash: str = ""
    """Of what an attempt is made from: one made from something else is ended, and another follows."""
    problem_reason: str = ""
    problem: str = ""
    """What is wrong with the spec that the API server could not see; nothing is started then."""


@dataclasses.dataclass(frozen=True, slots=True)
class Start:
    """Make the children of this attempt."""

    number: int


@dataclasses.dataclass(frozen=True, slots=True)
class Suspend:
    """Suspend the attempt's Job: its pods get SIGTERM, save a checkpoint and end."""

    job: JobView


@dataclasses.dataclass(frozen=True, slots=True)
class Publish:
    """Make the ModelVersion from what rank 0 left in its termination message."""

    artifact_uri: str
    artifact_digest: str
    metrics: tuple[tuple[str, float], ...]
    epoch: int = 0
    step: int = 0


Action = Start | Suspend | Publish


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """What status says already, which outlives Jobs and pods: the newest attempt, the result once it was read, and
    whether all has come to rest as the user wished."""

    attempt: int = 0
    result: Publish | None = None
    suspended: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """`look_again` is in seconds; None: only when something happens."""

    phase: str
    state: State
    action: Action | None = None
    attempt: int = 0
    restarts: int = 0
    event: tuple[str, str] | None = None
    look_again: float | None = None


def plan(
    wanted: Wanted,
    jobs: Sequence[JobView],
    pods: Sequence[PodView],
    *,
    published: bool,
    now: datetime.datetime,
    told: Told = Told(),
) -> Plan:
    """`published`: the ModelVersion is there, from this TrainingJob. `pods` may be of Jobs that are there no longer."""
    attempts = sorted((job for job in jobs if job.attempt > 0), key=lambda job: job.attempt)
    newest = attempts[-1] if attempts else None
    # What failed before the spec was changed says nothing of what the change makes of it.
    failures = [failure(job, pods) for job in attempts if job.ended == "Failed" and job.run_hash == wanted.run_hash]
    restarts = sum(one.counted for one in failures)
    number = newest.attempt if newest else 0

    if published:
        message = f"published as ModelVersion {wanted.version_name}"
        return Plan(
            "Succeeded", conditions.achieved("Succeeded", "Published", message), attempt=number, restarts=restarts
        )
    if told.result is not None:
        return _publishing(wanted, told.result, number, restarts)
    if number < told.attempt and not wanted.problem:
        return _after_deletion(wanted, told.attempt, jobs, pods, restarts)
    if newest is not None and newest.ended == "Complete":
        return _after_success(wanted, newest, pods, restarts)
    if newest is not None and newest.ended == "Failed" and newest.run_hash == wanted.run_hash:
        return _after_failure(wanted, newest, failures, restarts, now, told)
    if wanted.problem:
        state = conditions.stalled("Succeeded", wanted.problem_reason, wanted.problem)
        return Plan("Failed", state, attempt=number, restarts=restarts, event=(wanted.problem_reason, wanted.problem))
    if newest is None:
        if wanted.suspend:
            return Plan("Suspended", _suspended("nothing has been started yet"))
        return _start(1, 0, "the first attempt")
    if newest.run_hash != wanted.run_hash:
        return _after_change(wanted, newest, restarts)
    return _while_running(wanted, newest, pods, restarts)


def _suspended(message: str) -> State:
    # At rest by the user's own wish: neither on its way nor stalled.
    return State(conditions.Fact("Succeeded", "False", "Suspended", f"suspended: {message}"))


def _start(number: int, restarts: int, why: str) -> Plan:
    state = conditions.in_progress("Succeeded", "Starting", f"attempt {number} is starting: {why}")
    return Plan(
        "Starting",
        state,
        Start(number),
        number,
        restarts,
        ("AttemptStarted", f"attempt {number}: {why}"),
        look_again=1.0,
    )


def _after_success(wanted: Wanted, job: JobView, pods: Sequence[PodView], restarts: int) -> Plan:
    for pod in pods:
        if pod.job_uid != job.uid or pod.index != 0:
            continue
        said = Summary.from_message(pod.termination_message)
        if said is not None and said.artifact is not None:
            metrics = tuple(sorted(said.metrics.items()))
            result = Publish(said.artifact.uri, said.artifact.digest, metrics, said.epoch, said.step)
            return _publishing(wanted, result, job.attempt, restarts)
    # The word was lost with its pod. What was published is in the store and publishing it again changes nothing, so
    # another attempt, which starts from the last checkpoint, finds it.
    return _start(job.attempt + 1, restarts, "the pod of the last one was lost before its result was read")


def _publishing(wanted: Wanted, result: Publish, attempt: int, restarts: int) -> Plan:
    state = conditions.in_progress("Succeeded", "Publishing", f"publishing ModelVersion {wanted.version_name}")
    return Plan("Running", state, result, attempt, restarts)


def _after_deletion(
    wanted: Wanted, attempt: int, jobs: Sequence[JobView], pods: Sequence[PodView], restarts: int
) -> Plan:
    """Somebody deleted the Job of the newest attempt. Its name is not used again, and its pods end first: they have the
    same checkpoints."""
    there = {job.uid for job in jobs}
    if any(pod.job_uid not in there and pod.phase in {"Pending", "Running"} for pod in pods):
        words = f"the Job of attempt {attempt} was deleted; waiting for its pods to end"
        state = conditions.in_progress("Succeeded", "JobDeleted", words)
        return Plan("Restarting", state, attempt=attempt, restarts=restarts)
    if wanted.suspend:
        return Plan("Suspended", _suspended(f"after attempt {attempt}"), attempt=attempt, restarts=restarts)
    return _start(attempt + 1, restarts, f"the Job of attempt {attempt} was deleted")


def _after_failure(
    wanted: Wanted,
    job: JobView,
    failures: Sequence[Failure],
    restarts: int,
    now: datetime.datetime,
    told: Told,
) -> Plan:
    last = failures[-1]
    if wanted.suspend:
        if job.active:
            return _suspending(job, restarts)
        return Plan("Suspended", _suspended(f"after attempt {job.attempt}"), attempt=job.attempt, restarts=restarts)
    if told.suspended and not job.active:
        # Also after a failure for good: what was wrong may lie where nobody looks for changes, such as in a Secret, and
        # so this is how a person asks for another try.
        return _start(job.attempt + 1, restarts, "resumed from the last checkpoint")
    if not last.retried or (last.counted and restarts > wanted.max_restarts):
        used = f" (after {restarts - 1} of {wanted.max_restarts} restarts)" if last.retried else ""
        message = f"{last.message}{used}"
        state = conditions.stalled("Succeeded", last.reason, message)
        return Plan("Failed", state, attempt=job.attempt, restarts=restarts, event=(last.reason, message))
    wait = BACKOFF_SECONDS[min(restarts, len(BACKOFF_SECONDS) - 1)] if last.counted else 0.0
    passed = (now - job.ended_at).total_seconds() if job.ended_at else wait
    if passed < wait:
        state = conditions.in_progress("Succeeded", last.reason, f"attempt {job.attempt + 1} follows: {last.message}")
        return Plan(
            "Restarting", state, attempt=job.attempt, restarts=restarts, event=(last.reason, last.message),
            look_again=wait - passed,
        )  # fmt: skip
    if job.active:
        # Two attempts at once would write each other's checkpoints.
        state = conditions.in_progress("Succeeded", last.reason, f"waiting for attempt {job.attempt}'s pods to end")
        return Plan("Restarting", state, attempt=job.attempt, restarts=restarts)
    return _start(job.attempt + 1, restarts, last.message)


def _after_change(wanted: Wanted, job: JobView, restarts: int) -> Plan:
    """The attempt was made from a spec that is no longer the one."""
    if not job.ended and not job.suspended:
        return dataclasses.replace(_suspending(job, restarts), action=Suspend(job))
    if job.active:
        return _suspending(job, restarts)
    if wanted.suspend:
        return Plan("Suspended", _suspended(f"after attempt {job.attempt}"), attempt=job.attempt, restarts=restarts)
    return _start(job.attempt + 1, restarts, "the spec was changed")


def _suspending(job: JobView, restarts: int) -> Plan:
    state = conditions.in_progress("Succeeded", "Suspending", f"attempt {job.attempt} saves a checkpoint and ends")
    return Plan("Running", state, attempt=job.attempt, restarts=restarts)


def _while_running(wanted: Wanted, job: JobView, pods: Sequence[PodView], restarts: int) -> Plan:
    if wanted.suspend:
        if not job.suspended:
            return dataclasses.replace(_suspending(job, restarts), action=Suspend(job))
        if job.active:
            return _suspending(job, restarts)
        return Plan("Suspended", _suspended(f"in attempt {job.attempt}"), attempt=job.attempt, restarts=restarts)
    if job.suspended:
        if job.active:
            return _suspending(job, restarts)
        return _start(job.attempt + 1, restarts, "resumed from the last checkpoint")
    own = [pod for pod in pods if pod.job_uid == job.uid]
    for pod in own:
        if pod.trouble_reason:
            message = f"worker {pod.index} cannot start: {pod.trouble_reason}: {pod.trouble}"
            state = conditions.in_progress("Succeeded", pod.trouble_reason, message)
            return Plan("Pending", state, attempt=job.attempt, restarts=restarts, event=(pod.trouble_reason, message))
    for pod in own:
        if pod.unschedulable:
            message = f"worker {pod.index} cannot be scheduled: {pod.unschedulable}"
            state = conditions.in_progress("Succeeded", "Unschedulable", message)
            return Plan("Pending", state, attempt=job.attempt, restarts=restarts, event=("Unschedulable", message))
    running = sum(pod.phase == "Running" for pod in own)
    if any(pod.phase in {"Succeeded", "Failed"} for pod in own):
        # How it ended is the Job's to tell, in a moment.
        state = conditions.in_progress("Succeeded", "Finishing", f"attempt {job.attempt}: the workers end")
        return Plan("Running", state, attempt=job.attempt, restarts=restarts)
    if running < wanted.workers:
        message = f"attempt {job.attempt}: {running} of {wanted.workers} workers run"
        return Plan("Starting", conditions.in_progress("Succeeded", "Starting", message), None, job.attempt, restarts)
    state = conditions.in_progress("Succeeded", "Training", f"attempt {job.attempt}: {wanted.workers} workers run")
    return Plan("Running", state, attempt=job.attempt, restarts=restarts, look_again=PROGRESS_SECONDS)
