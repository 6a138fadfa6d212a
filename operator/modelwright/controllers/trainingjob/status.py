"""What status says of a TrainingJob, from what it said before and what was decided. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from modelwright import contract
from modelwright.api.base import StatusRef
from modelwright.api.training_history import CURVE_LENGTH, MESSAGE_LENGTH, ActiveTime, AttemptEnd, CurvePoint
from modelwright.api.training_job import Attempt, Restarts, TrainingJob, TrainingJobStatus, TrainingProgress
from modelwright.controllers.trainingjob import children, resolve
from modelwright.controllers.trainingjob.records import Active, End, Plan, Publish
from modelwright.controllers.trainingjob.running import QUEUED
from modelwright.settings import Settings

# Phases that say that nothing goes on any more; conditions say why.
ENDED = frozenset({"Succeeded", "Failed"})


def status(
    job: TrainingJob, settings: Settings, made: Plan, progress: contract.Progress | None, at: datetime.datetime
) -> TrainingJobStatus:
    """`at` is now, to the second; `progress` what rank 0 tells, where it was asked."""
    before = job.status
    update: dict[str, Any] = {
        "phase": made.phase,
        "observed_generation": job.metadata.generation,
        "storage": resolve.storage_status(job, settings),
        "history": tuple(_ended(end, before) for end in made.ends) or None,
        "active": _active(before.active, made, at),
    }
    if made.attempt:
        further = made.attempt - 1
        counted = min(made.restarts, further)
        update["attempt"] = _attempt(job, made, progress)
        update["restarts"] = Restarts(counted=counted, not_counted=further - counted)
        update["start_time"] = before.start_time or at
    ended = made.phase in ENDED
    update["completion_time"] = (before.completion_time or at) if ended else None
    if not ended:
        update["cleanup_time"] = None
    if progress is not None:
        update["progress"] = progress_status(progress, before.progress)
        update["curve"] = curve(before.curve or (), progress) or None
    if isinstance(made.action, Publish):
        update |= resolve.published(job, made.action)
    elif made.phase == "Succeeded":
        # Also where the version was there before this object: one that is restored from Git trains nothing anew.
        update["model_version_ref"] = StatusRef(name=resolve.version_name(job))
    return before.model_copy(update=update)


def _attempt(job: TrainingJob, made: Plan, progress: contract.Progress | None) -> Attempt:
    known = job.status.attempt if job.status.attempt and job.status.attempt.number == made.attempt else None
    from_step = known.from_step if known else None
    if progress is not None and progress.attempt == made.attempt and progress.phase == "Training":
        from_step = progress.resumed_from_step or 0
    return Attempt(
        number=made.attempt,
        job_name=children.attempt_name(job.metadata.name, job.metadata.uid, made.attempt),
        workers=made.workers or (known.workers if known else None),
        from_step=from_step,
    )


def _ended(end: End, before: TrainingJobStatus) -> AttemptEnd:
    """As it was recorded; of one that is new, with what status says of it."""
    known = next((one for one in before.history or () if one.number == end.attempt), None)
    if known is not None:
        return known
    attempt = before.attempt if before.attempt and before.attempt.number == end.attempt else None
    return AttemptEnd(
        number=end.attempt,
        workers=end.workers or (attempt.workers if attempt else None) or 0,
        reason=end.failure.reason,
        message=end.failure.message[:MESSAGE_LENGTH],
        counted=end.failure.counted,
        from_step=attempt.from_step if attempt else None,
        to_step=end.failure.step,
        log=end.failure.log or None,
        ended_at=end.at.replace(microsecond=0) if end.at else None,
        run_hash=end.run_hash,
    )


def _active(before: ActiveTime | None, made: Plan, at: datetime.datetime) -> ActiveTime | None:
    """It is at work from its first attempt to its end, but where it is suspended by its user or by its queue."""
    known = before or ActiveTime()
    at_work = bool(made.attempt) and made.phase not in {*ENDED, "Suspended"} and made.state.main.reason != QUEUED
    if at_work == (known.since is not None):
        return before
    if at_work:
        return ActiveTime(seconds=known.seconds, since=at)
    return ActiveTime(seconds=int(Active(known.seconds, known.since).at(at)))


def curve(before: Sequence[CurvePoint], told: contract.Progress) -> tuple[CurvePoint, ...]:
    """With the point that is told of, where it lies far enough from the last: so many points at most, about evenly
    apart, and a status that is written as often as ever and changes by a list of them only now and then."""
    # An attempt that goes on from a checkpoint does anew what the one before did after it.
    kept = [point for point in before if point.step < told.step]
    if told.train_loss is None or told.phase != "Training":
        return tuple(before)
    apart = -(-told.total_steps // (CURVE_LENGTH - 1)) if told.total_steps else 1
    if kept and told.step - kept[-1].step < apart:
        return tuple(before) if len(kept) == len(before) else tuple(kept)
    if len(kept) == CURVE_LENGTH:
        # It goes on for longer than it said.
        kept = kept[::2]
    losses = {"train_loss": _figure(told.train_loss), "validation_loss": _figure(told.validation_loss)}
    return (*kept, CurvePoint(step=told.step, **losses))


def _figure(value: float | None) -> str | None:
    return None if value is None else f"{value:.6g}"


def _percent(value: float | None) -> int | None:
    return None if value is None else min(100, max(0, round(value)))


def progress_status(told: contract.Progress, before: TrainingProgress | None = None) -> TrainingProgress:
    """What was measured of checkpoints `before` stands until another is."""
    known = before or TrainingProgress()
    return TrainingProgress(
        phase=told.phase,
        epoch=told.epoch,
        epochs=told.epochs,
        step=told.step,
        total_steps=told.total_steps,
        percent=min(100, 100 * told.step // told.total_steps) if told.total_steps else None,
        train_loss=_figure(told.train_loss),
        validation_loss=_figure(told.validation_loss),
        samples_per_second=_figure(told.samples_per_second),
        gpu_percent=_percent(told.gpu_percent),
        gpu_memory_percent=_percent(told.gpu_memory_percent),
        eta_seconds=None if told.eta_seconds is None else round(told.eta_seconds),
        last_checkpoint_step=told.last_checkpoint_step,
        checkpoint_bytes=known.checkpoint_bytes if told.checkpoint_bytes is None else told.checkpoint_bytes,
        checkpoint_seconds=_figure(told.checkpoint_seconds) or known.checkpoint_seconds,
        updated_at=datetime.datetime.fromtimestamp(told.updated, datetime.UTC).replace(microsecond=0)
        if told.updated
        else None,
    )
