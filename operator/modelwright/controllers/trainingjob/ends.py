"""How attempts ended, kept in status: what was once recorded is believed, and outlives the attempt's Job. Pure."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Sequence

from modelwright.api.training_history import HISTORY_LENGTH
from modelwright.controllers.trainingjob.observed import JobView, PodView, newest_of_each, own_pods
from modelwright.controllers.trainingjob.outcome import DISRUPTIONS, Failure, failure, last_lines, last_step
from modelwright.controllers.trainingjob.records import (
    OVERDUE,
    RESIZING,
    SUSPENDING,
    End,
    Plan,
    Publish,
    Start,
    Told,
    Wanted,
)
from modelwright.controllers.trainingjob.running import change


def attempts_of(jobs: Iterable[JobView], ends: Iterable[End]) -> list[JobView]:
    """The Jobs of attempts in their order; of those whose Job is gone, as if it were there, what was recorded."""
    there = [job for job in jobs if job.attempt > 0]
    known = {job.attempt for job in there}
    gone = [_as_job(end) for end in ends if end.attempt not in known]
    return sorted([*there, *gone], key=lambda job: job.attempt)


def _as_job(end: End) -> JobView:
    return JobView(
        name="",
        uid="",
        training_job="",
        attempt=end.attempt,
        run_hash=end.run_hash,
        suspended=False,
        active=0,
        ended="Complete" if end.succeeded else "Failed",
        reason=end.failure.reason,
        message=end.failure.message,
        deleting=False,
        ended_at=end.at,
        workers=end.workers,
    )


def failure_of(job: JobView, pods: Sequence[PodView], told: Told) -> Failure:
    """How a failed attempt failed. Where its pods do not say at which step, it is the last one that was told of."""
    recorded = next((end.failure for end in told.ends if end.attempt == job.attempt), None)
    if recorded is not None:
        return recorded
    newest = job.attempt == told.attempt
    noted = Failure(told.reason, told.message, retried=True, counted=False) if told.reason in DISRUPTIONS else None
    found = failure(job, pods, noted if newest else None)
    if not newest or found.step is not None:
        return found
    # Code that tells of no steps is always at the same one.
    return dataclasses.replace(found, step=(told.step or 0) if job.own_code else told.step)


def recorded(
    wanted: Wanted,
    attempts: Sequence[JobView],
    pods: Sequence[PodView],
    made: Plan,
    now: datetime.datetime,
    told: Told,
) -> tuple[End, ...]:
    """The ends of all attempts, with those that this plan is the first to see."""
    ends = {end.attempt: end for end in told.ends}
    for job in attempts:
        if job.attempt not in ends:
            found = _end(wanted, job, pods, made, told)
            if found is not None:
                at = job.ended_at or now
                succeeded = job.ended == "Complete"
                ends[job.attempt] = End(job.attempt, found, job.run_hash, at, job.workers, succeeded)
    missing = told.attempt and told.attempt not in ends and all(job.attempt != told.attempt for job in attempts)
    if missing and _left_behind(made, told.attempt):
        # Its Job is gone; where it was ours to end it, the condition said why.
        there = {job.uid for job in attempts}
        strays = [pod for pod in pods if pod.job_uid not in there]
        failed = _without_failure(*_words_of_deletion(told), strays, told)
        ends[told.attempt] = End(told.attempt, failed, wanted.run_hash, now, 0)
    return tuple(ends[attempt] for attempt in sorted(ends))[-HISTORY_LENGTH:]


def _words_of_deletion(told: Told) -> tuple[str, str]:
    if told.suspended or told.reason == SUSPENDING:
        return "Suspended", ""
    if told.reason in (RESIZING, OVERDUE):
        return "Resized" if told.reason == RESIZING else OVERDUE, told.message.partition(":")[0]
    return "JobDeleted", f"the Job of attempt {told.attempt} was deleted"


def _left_behind(made: Plan, attempt: int) -> bool:
    """Whether the plan has done with the attempt."""
    return made.phase in ("Suspended", "Failed") or (isinstance(made.action, Start) and made.action.number > attempt)


def _end(wanted: Wanted, job: JobView, pods: Sequence[PodView], made: Plan, told: Told) -> Failure | None:
    if job.ended == "Failed":
        return failure_of(job, pods, told)
    if job.ended == "Complete":
        step = made.action.step if isinstance(made.action, Publish) else None
        own = own_pods(job, pods)
        return Failure("Succeeded", "", retried=False, counted=False, step=step, log=last_lines(own))
    if not job.suspended or job.active or not _left_behind(made, job.attempt):
        return None
    reason, words = "Suspended", ""
    if made.state.main.reason == OVERDUE:
        reason, words = OVERDUE, made.state.main.message
    elif job.shrink_to is not None:
        reason, words = "Shrunk", f"there is room for {job.shrink_to} of {wanted.workers} workers"
    elif job.run_hash != wanted.run_hash:
        reason, words = change(wanted, job)
        reason = "Resized" if reason == RESIZING else "SpecChanged"
    return _without_failure(reason, words, [pod for pod in pods if pod.job_uid == job.uid], told)


def _without_failure(reason: str, words: str, pods: Sequence[PodView], told: Told) -> Failure:
    step = last_step(pods)
    return Failure(
        reason,
        words,
        retried=True,
        counted=False,
        step=told.step if step is None else step,
        log=last_lines(newest_of_each(pods)),
    )
