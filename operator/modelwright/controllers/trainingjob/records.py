"""What a TrainingJob's plan is made from beside its Jobs and pods, and what comes of it."""

from __future__ import annotations

import dataclasses
import datetime

from modelwright.contract import PartFigures
from modelwright.controllers.trainingjob.observed import JobView
from modelwright.controllers.trainingjob.outcome import Failure
from modelwright.kube.conditions import State

# Reasons of the main condition while the operator ends an attempt, by which the next pass knows why it did.
SUSPENDING, RESIZING, OVERDUE = "Suspending", "Resizing", "DeadlineExceeded"


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
    unsized_hash: str = ""
    """As `run_hash`, but for the number of workers."""
    min_workers: int | None = None
    workers_in: int = 1
    """Of how many workers their number is a multiple: so many hold the whole model together, where it is sharded."""
    queue: str = ""
    deadline: float | None = None
    """Seconds of work in all."""


@dataclasses.dataclass(frozen=True, slots=True)
class Start:
    """Make the children of this attempt. `workers`: how many, where it is not as many as the spec asks for."""

    number: int
    workers: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Suspend:
    """Suspend the attempt's Job: its pods get SIGTERM, save a checkpoint and end. `shrink_to`: how many workers the
    next attempt has, where there is no room for all.

    A queued Job is deleted instead: its queue, which has let it run, would let it run again.
    """

    job: JobView
    shrink_to: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Publish:
    """Make the ModelVersion from what rank 0 left in its termination message."""

    artifact_uri: str
    artifact_digest: str
    metrics: tuple[tuple[str, float], ...]
    epoch: int = 0
    step: int = 0
    slices: tuple[PartFigures, ...] = ()
    classes: tuple[PartFigures, ...] = ()


Action = Start | Suspend | Publish


@dataclasses.dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended; it outlives the attempt's Job. `succeeded`: the failure says nothing but the step."""

    attempt: int
    failure: Failure
    run_hash: str = ""
    at: datetime.datetime | None = None
    workers: int = 0
    succeeded: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Active:
    """Time at work: so many seconds, and what has passed `since`."""

    seconds: float = 0.0
    since: datetime.datetime | None = None

    def at(self, now: datetime.datetime) -> float:
        return self.seconds + ((now - self.since).total_seconds() if self.since else 0.0)


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """What status says already, which outlives Jobs and pods: the newest attempt, the result once it was read, whether
    all has come to rest as the user wished, how attempts ended, and the reason and message of the main condition."""

    attempt: int = 0
    result: Publish | None = None
    suspended: bool = False
    ends: tuple[End, ...] = ()
    reason: str = ""
    message: str = ""
    step: int | None = None
    active: Active = Active()


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """`look_again` is in seconds; None: only when something happens. `workers` are the attempt's, 0 where that is not
    known; `ends` are of all attempts that have ended."""

    phase: str
    state: State
    action: Action | None = None
    attempt: int = 0
    restarts: int = 0
    event: tuple[str, str] | None = None
    look_again: float | None = None
    workers: int = 0
    ends: tuple[End, ...] = ()
