"""Conditions in kstatus's sense: pure functions from what holds now to the list in `status.conditions`.

Each object has one main condition: `Ready` (lasting kinds) or `Succeeded` (bounded ones). `Reconciling` and `Stalled`
are "abnormal-true": present, and True, only while they hold, and never both. So `kubectl wait`, Flux and Argo CD tell
"done", "in progress" and "failed" apart without knowing our kinds.
https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

Status = Literal["True", "False", "Unknown"]
MainType = Literal["Ready", "Succeeded"]

RECONCILING = "Reconciling"
STALLED = "Stalled"
# The API's own pattern and bounds (metav1.Condition); a message so long is read by nobody, and etcd keeps each.
_REASON = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")
_LONGEST_REASON = 1024
_EPOCH_YEAR = 1970
_LONGEST_MESSAGE = 4096


@dataclasses.dataclass(frozen=True, slots=True)
class Fact:
    """A condition without its history. Raises ValueError for a reason that the API would refuse."""

    type: str
    status: Status
    reason: str
    message: str = ""

    def __post_init__(self) -> None:
        if len(self.reason) > _LONGEST_REASON or not _REASON.fullmatch(self.reason):
            raise ValueError(f"{self.type}: {self.reason!r} is no reason: CamelCase, without spaces")


@dataclasses.dataclass(frozen=True, slots=True)
class Condition:
    """A condition as it is in status. `last_transition_time` is when `status` became what it is."""

    type: str
    status: Status
    reason: str
    message: str
    observed_generation: int
    last_transition_time: datetime.datetime

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Condition:
        return cls(
            type=found["type"],
            status=found["status"],
            reason=found.get("reason", ""),
            message=found.get("message", ""),
            observed_generation=int(found.get("observedGeneration", 0)),
            last_transition_time=datetime.datetime.fromisoformat(found["lastTransitionTime"]),
        )

    def to_dict(self) -> dict[str, Any]:
        at = self.last_transition_time.astimezone(datetime.UTC)
        return {
            "type": self.type,
            "status": self.status,
            "reason": self.reason,
            "message": self.message,
            "observedGeneration": self.observed_generation,
            "lastTransitionTime": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


class Activity(enum.Enum):
    """What the operator is about with the object. One value, so that the two conditions cannot both hold."""

    AT_REST = None
    RECONCILING = RECONCILING
    STALLED = STALLED


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """All that an object's conditions say: the main one, the activity (with its own words), and further ones."""

    main: Fact
    activity: Activity = Activity.AT_REST
    activity_reason: str = ""
    activity_message: str = ""
    others: tuple[Fact, ...] = ()

    def facts(self) -> tuple[Fact, ...]:
        if self.activity is Activity.AT_REST:
            return (self.main, *self.others)
        reason = self.activity_reason or self.main.reason
        message = self.activity_message or self.main.message
        return (self.main, Fact(self.activity.value, "True", reason, message), *self.others)


def achieved(main: MainType, reason: str, message: str = "", *others: Fact) -> State:
    """Ready, or Succeeded; nothing left to do."""
    return State(Fact(main, "True", reason, message), others=others)


def in_progress(main: MainType, reason: str, message: str = "", *others: Fact, status: Status = "False") -> State:
    """On the way. `status` is "True" for a lasting kind that serves on while it changes."""
    return State(Fact(main, status, reason, message), Activity.RECONCILING, others=others)


def stalled(main: MainType, reason: str, message: str, *others: Fact, status: Status = "False") -> State:
    """Nothing goes on until a person acts, which `message` tells them to: a failure, or a spec that cannot be done."""
    return State(Fact(main, status, reason, message), Activity.STALLED, others=others)


def merge(
    existing: Iterable[Condition], state: State, *, generation: int, now: datetime.datetime
) -> tuple[Condition, ...]:
    """The conditions that say `state`. Those of `existing` that it does not name are gone.

    `last_transition_time` moves only with `status`, so that a pass that finds nothing new changes nothing.
    """
    before = {condition.type: condition for condition in existing}
    merged = []
    for fact in state.facts():
        known = before.get(fact.type)
        # What the CRD gives a new object as its status is dated 1970: nobody knew then.
        dated = known is not None and known.last_transition_time.year > _EPOCH_YEAR
        since = known.last_transition_time if known is not None and dated and known.status == fact.status else now
        merged.append(Condition(fact.type, fact.status, fact.reason, _cut(fact.message), generation, since))
    return tuple(merged)


def state_of(existing: Sequence[Mapping[str, Any]], main: MainType) -> State:
    """What conditions on the wire say, for a write that has nothing to add to them. Raises KeyError without `main`."""
    facts = {one["type"]: Fact(one["type"], one["status"], one["reason"], one.get("message", "")) for one in existing}
    told = facts.pop(main)
    for activity in (Activity.RECONCILING, Activity.STALLED):
        found = facts.pop(str(activity.value), None)
        if found is not None:
            return State(told, activity, found.reason, found.message, tuple(facts.values()))
    return State(told, others=tuple(facts.values()))


def merge_dicts(
    existing: Sequence[Mapping[str, Any]], state: State, *, generation: int, now: datetime.datetime
) -> list[dict[str, Any]]:
    """As `merge`, from and to what is on the wire."""
    known = [Condition.from_dict(one) for one in existing]
    return [condition.to_dict() for condition in merge(known, state, generation=generation, now=now)]


def kstatus(obj: Mapping[str, Any]) -> Literal["Current", "InProgress", "Failed", "Terminating"]:
    """What kstatus makes of one of our objects; its rules for a kind that it does not know."""
    if obj["metadata"].get("deletionTimestamp"):
        return "Terminating"
    status = obj.get("status") or {}
    generation = obj["metadata"].get("generation")
    if status.get("observedGeneration", generation) != generation:
        return "InProgress"
    conditions = {one["type"]: one["status"] for one in status.get("conditions") or ()}
    if conditions.get(RECONCILING) == "True":
        return "InProgress"
    if conditions.get(STALLED) == "True":
        return "Failed"
    return "InProgress" if conditions.get("Ready", "True") != "True" else "Current"


def _cut(message: str) -> str:
    return message if len(message) <= _LONGEST_MESSAGE else message[: _LONGEST_MESSAGE - 1] + "…"
