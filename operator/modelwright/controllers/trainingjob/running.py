"""The decisions about an attempt that has not ended: let it run, end it, or wait with it. Pure."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence

from modelwright.controllers.trainingjob.observed import JobView, PodView, own_pods
from modelwright.controllers.trainingjob.outcome import DISRUPTIONS, disruption
from modelwright.controllers.trainingjob.records import RESIZING, SUSPENDING, Plan, Start, Suspend, Told, Wanted
from modelwright.kube import conditions
from modelwright.kube.conditions import State

# Between two looks at how far a running attempt is.
PROGRESS_SECONDS = 5.0
# How long a pod may be unschedulable before the attempt shrinks: a node that joins, or a pod that ends, takes as long.
SHRINK_SECONDS = 45.0
QUEUED = "Queued"


def start(number: int, restarts: int, why: str, workers: int | None = None) -> Plan:
    state = conditions.in_progress("Succeeded", "Starting", f"attempt {number} is starting: {why}")
    return Plan(
        "Starting",
        state,
        Start(number, workers),
        number,
        restarts,
        ("AttemptStarted", f"attempt {number}: {why}"),
        look_again=1.0,
    )


def at_rest(message: str) -> State:
    """By the user's own wish: neither on its way nor stalled."""
    return State(conditions.Fact("Succeeded", "False", "Suspended", f"suspended: {message}"))


def suspended(job: JobView, restarts: int, when: str) -> Plan:
    return Plan("Suspended", at_rest(f"{when} attempt {job.attempt}"), attempt=job.attempt, restarts=restarts)


def ending(job: JobView, restarts: int, reason: str = SUSPENDING, why: str = "") -> Plan:
    message = f"{why}: " if why else ""
    message += f"attempt {job.attempt} saves a checkpoint and ends"
    state = conditions.in_progress("Succeeded", reason, message)
    return Plan(
        "Running", state, attempt=job.attempt, restarts=restarts, event=(reason, message) if why else None
    )  # fmt: skip


def change(wanted: Wanted, job: JobView) -> tuple[str, str]:
    """How the spec differs from what the attempt was made from: the reason that is told while it ends, and words."""
    if job.unsized_hash and job.unsized_hash == wanted.unsized_hash:
        return RESIZING, f"resized from {job.replicas} to {wanted.workers} workers"
    return SUSPENDING, "the spec was changed"


def after_change(wanted: Wanted, job: JobView, restarts: int) -> Plan:
    """The attempt was made from a spec that is no longer the one."""
    reason, why = change(wanted, job)
    on_its_way = ending(job, restarts, reason, why if reason == RESIZING else "")
    if not job.ended and (not job.suspended or job.queue):
        return dataclasses.replace(on_its_way, action=Suspend(job))
    if job.active:
        return on_its_way
    if wanted.suspend:
        return suspended(job, restarts, "after")
    return start(job.attempt + 1, restarts, why)


def while_running(
    wanted: Wanted, job: JobView, pods: Sequence[PodView], restarts: int, now: datetime.datetime, told: Told
) -> Plan:
    if wanted.suspend:
        if not job.suspended or job.queue:
            return dataclasses.replace(ending(job, restarts), action=Suspend(job))
        return ending(job, restarts) if job.active else suspended(job, restarts, "in")
    if job.suspended_by_queue:
        return _queued(job, restarts)
    if job.suspended:
        if job.shrink_to is not None:
            why = f"there is room for {job.shrink_to} of {wanted.workers} workers"
            return (
                ending(job, restarts, "Shrinking", why)
                if job.active
                else start(job.attempt + 1, restarts, why, job.shrink_to)
            )
        return ending(job, restarts) if job.active else start(job.attempt + 1, restarts, RESUMED)
    own = own_pods(job, pods)
    taken = disruption(own)
    reason, message = (taken.reason, taken.message) if taken else (told.reason, told.message)
    if taken is not None or (told.attempt == job.attempt and told.reason in DISRUPTIONS):
        # Said until its Job has ended, since the pod that is taken away is soon gone, and what it knows with it.
        state = conditions.in_progress("Succeeded", reason, message)
        return Plan("Running", state, attempt=job.attempt, restarts=restarts, event=(reason, message))
    return _waiting(wanted, job, own, restarts, now) or _at_work(wanted, job, own, restarts)


RESUMED = "resumed from the last checkpoint"


def _queued(job: JobView, restarts: int) -> Plan:
    message = f"attempt {job.attempt} waits in the queue {job.queue}"
    if job.active:
        message = f"the queue {job.queue} suspended attempt {job.attempt}: its workers save a checkpoint and end"
    state = conditions.in_progress("Succeeded", QUEUED, message)
    return Plan("Pending", state, attempt=job.attempt, restarts=restarts, event=(QUEUED, message))


def _waiting(
    wanted: Wanted, job: JobView, own: Sequence[PodView], restarts: int, now: datetime.datetime
) -> Plan | None:
    """What a pod waits for, which keeps it from starting; None where none does."""
    for pod in own:
        if pod.trouble_reason:
            message = f"worker {pod.index} cannot start: {pod.trouble_reason}: {pod.trouble}"
            state = conditions.in_progress("Succeeded", pod.trouble_reason, message)
            return Plan("Pending", state, attempt=job.attempt, restarts=restarts, event=(pod.trouble_reason, message))
    for pod in own:
        if pod.unschedulable:
            message = f"worker {pod.index} cannot be scheduled: {pod.unschedulable}"
            return _without_room(wanted, job, own, message, restarts, now)
    return None


def _without_room(
    wanted: Wanted, job: JobView, own: Sequence[PodView], message: str, restarts: int, now: datetime.datetime
) -> Plan:
    """Waits for room, or goes on with as many workers as found some."""
    least, all_ = wanted.min_workers, job.workers or wanted.workers
    room = sum(pod.scheduled for pod in own)
    look_again: float | None = None
    if least is not None and least < all_:
        since = [pod.unschedulable_since for pod in own if pod.unschedulable and pod.unschedulable_since]
        waited = (now - min(since)).total_seconds() if since else 0.0
        fit = room - room % wanted.workers_in
        if waited < SHRINK_SECONDS:
            look_again = SHRINK_SECONDS - waited
        elif fit >= least:
            why = f"there is room for {fit} of {wanted.workers} workers"
            return dataclasses.replace(
                ending(job, restarts, "Shrinking", f"{why} ({message})"), action=Suspend(job, fit)
            )
        else:
            message += f" ({room} of {all_} workers found room, and minReplicas is {least})"
    state = conditions.in_progress("Succeeded", "Unschedulable", message)
    return Plan(
        "Pending", state, attempt=job.attempt, restarts=restarts, event=("Unschedulable", message),
        look_again=look_again,
    )  # fmt: skip


def _at_work(wanted: Wanted, job: JobView, own: Sequence[PodView], restarts: int) -> Plan:
    all_ = job.workers or wanted.workers
    running = sum(pod.phase == "Running" for pod in own)
    if any(pod.phase in {"Succeeded", "Failed"} for pod in own):
        # How it ended is the Job's to tell, in a moment.
        state = conditions.in_progress("Succeeded", "Finishing", f"attempt {job.attempt}: the workers end")
        return Plan("Running", state, attempt=job.attempt, restarts=restarts)
    of = f"{all_}" if all_ == wanted.workers else f"{all_} (of {wanted.workers})"
    if running < all_:
        message = f"attempt {job.attempt}: {running} of {of} workers run"
        return Plan("Starting", conditions.in_progress("Succeeded", "Starting", message), None, job.attempt, restarts)
    state = conditions.in_progress("Succeeded", "Training", f"attempt {job.attempt}: {of} workers run")
    return Plan("Running", state, attempt=job.attempt, restarts=restarts, look_again=PROGRESS_SECONDS)
