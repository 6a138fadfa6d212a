"""The decisions of a TrainingJob, pure: from what is wanted and what is seen to what is to be done.

An attempt is one Job. Resize, resume, preemption and node loss are all "a checkpoint, then a new attempt": the plan
only ever asks whether the newest attempt still runs, how it ended, and whether there may be another.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence

from modelwright.contract import Summary
from modelwright.controllers.trainingjob.ends import attempts_of, failure_of, recorded
from modelwright.controllers.trainingjob.observed import JobView, PodView
from modelwright.controllers.trainingjob.outcome import Failure, same
from modelwright.controllers.trainingjob.records import (
    OVERDUE,
    RESIZING,
    SUSPENDING,
    Active,
    End,
    Plan,
    Publish,
    Start,
    Suspend,
    Told,
    Wanted,
)
from modelwright.controllers.trainingjob.running import (
    RESUMED,
    after_change,
    at_rest,
    ending,
    start,
    suspended,
    while_running,
)
from modelwright.kube import conditions

__all__ = ["Active", "End", "Plan", "Publish", "Start", "Suspend", "Told", "Wanted", "plan"]

# A failed attempt's successor waits a little longer each time, so that a store that is down is not hammered.
BACKOFF_SECONDS = (0.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_NOTHING_TOLD = Told()


def plan(
    wanted: Wanted,
    jobs: Sequence[JobView],
    pods: Sequence[PodView],
    *,
    published: bool,
    now: datetime.datetime,
    told: Told = _NOTHING_TOLD,
) -> Plan:
    """`published`: the ModelVersion is there, from this TrainingJob. `pods` may be of Jobs that are there no longer."""
    attempts = attempts_of(jobs, told.ends)
    # What failed before the spec was changed says nothing of what the change makes of it.
    failures = {
        job.attempt: failure_of(job, pods, told)
        for job in attempts
        if job.ended == "Failed" and job.run_hash == wanted.run_hash
    }
    newest = attempts[-1] if attempts else None
    made = _decided(wanted, newest, failures, jobs, pods, published=published, now=now, told=told)
    made = _in_time(wanted, newest, made, now, told)
    workers = newest.workers if newest is not None and newest.attempt == made.attempt else 0
    if isinstance(made.action, Start):
        workers = made.action.workers or wanted.workers
    return dataclasses.replace(made, workers=workers, ends=recorded(wanted, attempts, pods, made, now, told))


def _decided(
    wanted: Wanted,
    newest: JobView | None,
    failures: Mapping[int, Failure],
    jobs: Sequence[JobView],
    pods: Sequence[PodView],
    *,
    published: bool,
    now: datetime.datetime,
    told: Told,
) -> Plan:
    restarts = sum(one.counted for one in failures.values())
    number = newest.attempt if newest else 0
    if published:
        message = f"published as ModelVersion {wanted.version_name}"
        return Plan(
            "Succeeded", conditions.achieved("Succeeded", "Published", message), attempt=number, restarts=restarts
        )
    if told.result is not None:
        return _publishing(wanted, told.result, number, restarts)
    if number < told.attempt and not wanted.problem:
        return _after_deletion(wanted, jobs, pods, restarts, told)
    if newest is not None and newest.ended == "Complete":
        return _after_success(wanted, newest, pods, restarts)
    if newest is not None and newest.ended == "Failed" and newest.run_hash == wanted.run_hash:
        return _after_failure(wanted, newest, failures, restarts, now, told)
    if wanted.problem:
        state = conditions.stalled("Succeeded", wanted.problem_reason, wanted.problem)
        return Plan("Failed", state, attempt=number, restarts=restarts, event=(wanted.problem_reason, wanted.problem))
    if newest is None:
        if wanted.suspend:
            return Plan("Suspended", at_rest("nothing has been started yet"))
        return start(1, 0, "the first attempt")
    if newest.run_hash != wanted.run_hash:
        return after_change(wanted, newest, restarts)
    return while_running(wanted, newest, pods, restarts, now, told)


def _after_success(wanted: Wanted, job: JobView, pods: Sequence[PodView], restarts: int) -> Plan:
    for pod in pods:
        if pod.job_uid != job.uid or pod.index != 0:
            continue
        said = Summary.from_message(pod.termination_message)
        if said is not None and said.artifact is not None:
            metrics = tuple(sorted(said.metrics.items()))
            result = Publish(
                said.artifact.uri, said.artifact.digest, metrics, said.epoch, said.step, said.slices, said.classes
            )
            return _publishing(wanted, result, job.attempt, restarts)
    # The word was lost with its pod. What was published is in the store and publishing it again changes nothing, so
    # another attempt, which starts from the last checkpoint, finds it.
    return start(job.attempt + 1, restarts, "the pod of the last one was lost before its result was read")


def _publishing(wanted: Wanted, result: Publish, attempt: int, restarts: int) -> Plan:
    state = conditions.in_progress("Succeeded", "Publishing", f"publishing ModelVersion {wanted.version_name}")
    return Plan("Running", state, result, attempt, restarts)


def _after_deletion(
    wanted: Wanted, jobs: Sequence[JobView], pods: Sequence[PodView], restarts: int, told: Told
) -> Plan:
    """The Job of the newest attempt was deleted: by somebody, or as a queued one by us, to end it. Its name is not used
    again, and its pods end first: they have the same checkpoints."""
    attempt, ours = told.attempt, told.reason in (SUSPENDING, RESIZING, OVERDUE)
    there = {job.uid for job in jobs}
    if any(pod.job_uid not in there and pod.phase in {"Pending", "Running"} for pod in pods):
        reason, words = told.reason, told.message
        if not ours:
            reason, words = "JobDeleted", f"the Job of attempt {attempt} was deleted; waiting for its pods to end"
        state = conditions.in_progress("Succeeded", reason, words)
        return Plan("Restarting", state, attempt=attempt, restarts=restarts)
    if wanted.suspend:
        return Plan("Suspended", at_rest(f"after attempt {attempt}"), attempt=attempt, restarts=restarts)
    why = f"the Job of attempt {attempt} was deleted"
    if told.suspended:
        why = RESUMED
    elif told.reason == RESIZING:
        why = told.message.partition(":")[0]
    return start(attempt + 1, restarts, why)


def _after_failure(
    wanted: Wanted,
    job: JobView,
    failures: Mapping[int, Failure],
    restarts: int,
    now: datetime.datetime,
    told: Told,
) -> Plan:
    last, before = failures[job.attempt], failures.get(job.attempt - 1)
    if wanted.suspend:
        return ending(job, restarts) if job.active else suspended(job, restarts, "after")
    if told.suspended and not job.active:
        # Also after a failure for good: what was wrong may lie where nobody looks for changes, such as in a Secret, and
        # so this is how a person asks for another try.
        return start(job.attempt + 1, restarts, RESUMED)
    final = _final(wanted, last, before, restarts)
    if final is not None:
        state = conditions.stalled("Succeeded", last.reason, final)
        return Plan("Failed", state, attempt=job.attempt, restarts=restarts, event=(last.reason, final))
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
    return start(job.attempt + 1, restarts, last.message, job.shrink_to)


def _final(wanted: Wanted, last: Failure, before: Failure | None, restarts: int) -> str | None:
    """Why no attempt follows, in words; None where one does."""
    if not last.retried:
        return last.message
    if before is not None and same(last, before):
        return (
            f"{last.message} (the same error at step {last.step} as in the attempt before: it is not tried again; mend"
            " it, or suspend and resume)"
        )
    if last.counted and restarts > wanted.max_restarts:
        return f"{last.message} (after {restarts - 1} of {wanted.max_restarts} restarts)"
    return None


def _in_time(wanted: Wanted, newest: JobView | None, made: Plan, now: datetime.datetime, told: Told) -> Plan:
    """The plan, unless the time for it is over; with a look at the moment when it will be."""
    if wanted.deadline is None or made.phase in {"Succeeded", "Failed", "Suspended"}:
        return made
    if isinstance(made.action, Publish) or (newest is not None and newest.ended == "Complete"):
        return made
    left = wanted.deadline - told.active.at(now)
    if left > 0:
        if told.active.since is None:
            return made
        return dataclasses.replace(made, look_again=left if made.look_again is None else min(made.look_again, left))
    why = f"activeDeadline: {wanted.deadline:g} s of work are over"
    if newest is not None and not newest.ended and newest.attempt >= told.attempt:
        on_its_way = ending(newest, made.restarts, OVERDUE, why)
        if not newest.suspended or newest.queue:
            return dataclasses.replace(on_its_way, action=Suspend(newest))
        if newest.active:
            return on_its_way
    elif made.action is None and made.attempt and (newest is None or newest.active or newest.attempt < told.attempt):
        # Its pods are still ending.
        return made
    message = f"{why}; raise spec.failurePolicy.activeDeadline, and it goes on from the last checkpoint"
    state = conditions.stalled("Succeeded", OVERDUE, message)
    attempt = max(told.attempt, newest.attempt if newest else 0)
    return Plan("Failed", state, attempt=attempt, restarts=made.restarts, event=(OVERDUE, message))
