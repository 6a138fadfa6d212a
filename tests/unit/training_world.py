"""A TrainingJob's world for its plan: Jobs, pods, and what they end with."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Literal

from modelwright.contract import Outcome, Summary
from modelwright.controllers.trainingjob.observed import JobView, PodView
from modelwright.controllers.trainingjob.outcome import RULES
from modelwright.controllers.trainingjob.plan import Plan, Told, Wanted, plan

NOTHING_TOLD = Told()
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
WANTED = Wanted(suspend=False, workers=2, max_restarts=2, version_name="digits-v1-0-0")


def job(attempt: int = 1, **changes: object) -> JobView:
    values: dict[str, object] = {
        "name": f"digits-{attempt}", "uid": f"job-{attempt}", "training_job": "digits", "attempt": attempt,
        "run_hash": "", "suspended": False, "active": 2, "ended": "", "reason": "", "message": "",
        "deleting": False, "ended_at": None,
    }  # fmt: skip
    return JobView(**{**values, **changes})  # type: ignore[arg-type]


# What an attempt can end with: one of the outcomes, an eviction, or nothing that anybody told.
Fate = Outcome | Literal["Disrupted"] | None
FATES: tuple[Fate, ...] = (*RULES, "Disrupted", None)


def counts(fate: Fate) -> bool:
    return fate.counted if isinstance(fate, Outcome) else fate is None


def failed(attempt: int, fate: Fate, *, active: int = 0) -> JobView:
    index = 0 if fate == "Disrupted" else RULES.index(fate) + 1 if isinstance(fate, Outcome) else None
    message = "Container …" if index is None else f"Container … matching FailJob rule at index {index}"
    return job(attempt, ended="Failed", active=active, reason="PodFailurePolicy", message=message)


def summary(outcome: Outcome, **changes: object) -> str:
    values = {"outcome": outcome.reason, "exit_code": outcome.code, "attempt": 1, "index": 0, **changes}
    return Summary.model_validate(values).to_message()


def pod(index: int = 0, attempt: int = 1, **changes: object) -> PodView:
    values: dict[str, object] = {
        "name": f"digits-{attempt}-{index}", "training_job": "digits",
        "job_uid": f"job-{attempt}", "index": index, "phase": "Running",
        "ip": "10.0.0.1", "unschedulable": "", "trouble_reason": "", "trouble": "",
        "exit_code": None, "exit_reason": "",
        "termination_message": "", "disrupted": "", "deleting": False,
    }  # fmt: skip
    return PodView(**{**values, **changes})  # type: ignore[arg-type]


def planned(
    wanted: Wanted = WANTED,
    jobs: tuple[JobView, ...] = (),
    pods: tuple[PodView, ...] = (),
    *,
    published: bool = False,
    ended: float | None = None,
    told: Told = NOTHING_TOLD,
) -> Plan:
    """`ended`: so many seconds ago the attempts ended."""
    if ended is not None:
        jobs = tuple(dataclasses.replace(one, ended_at=NOW - datetime.timedelta(seconds=ended)) for one in jobs)
    return plan(wanted, jobs, pods, published=published, now=NOW, told=told)


def with_(wanted: Wanted = WANTED, **changes: object) -> Wanted:
    return dataclasses.replace(wanted, **changes)  # type: ignore[arg-type]
