"""What a pod of one container tells of itself, and a Job of its end: read once for all kinds whose work is one Job."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

from modelwright.contract import Failure, Outcome
from modelwright.kube.resources import Object

UNSCHEDULABLE = "Unschedulable"


@dataclasses.dataclass(frozen=True, slots=True)
class PodState:
    """`waits` is why it does not run, in Kubernetes' words, and `waits_reason` the word for programs; `exit_code` is
    None until it has ended, `message` is what it left."""

    phase: str = "Pending"
    waits_reason: str = ""
    waits: str = ""
    exit_code: int | None = None
    exit_reason: str = ""
    message: str = ""


def pod_state(obj: Object) -> PodState:
    status = obj.get("status") or {}
    reason = waits = message = exit_reason = ""
    exit_code: int | None = None
    for container in status.get("containerStatuses") or ():
        state = container.get("state") or {}
        waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
        # "ContainerCreating" has no message: it is on its way.
        if waiting.get("message"):
            reason, waits = str(waiting["reason"]), str(waiting["message"])
        if ended:
            exit_code, exit_reason = int(ended["exitCode"]), str(ended.get("reason", ""))
            message = str(ended.get("message", ""))
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            reason, waits = UNSCHEDULABLE, str(condition.get("message", ""))
    return PodState(str(status.get("phase", "Pending")), reason, waits, exit_code, exit_reason, message)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """`ended` is "Complete", "Failed" or empty, `message` of its failure."""

    name: str
    uid: str
    ended: str
    message: str
    deleting: bool


def job_state(obj: Object) -> JobState:
    metadata = obj["metadata"]
    ended, message = job_end(obj)
    return JobState(
        name=metadata["name"],
        uid=metadata["uid"],
        ended=ended,
        message=message,
        deleting=bool(metadata.get("deletionTimestamp")),
    )


def label_of(obj: Object, name: str) -> str:
    """Empty where it has none."""
    return str((obj["metadata"].get("labels") or {}).get(name, ""))


def annotation_of(obj: Object, name: str) -> str:
    """Empty where it has none."""
    return str((obj["metadata"].get("annotations") or {}).get(name, ""))


class Said(Protocol):
    """A pod's summary, as far as it tells of a failure."""

    @property
    def outcome(self) -> str: ...
    @property
    def failure(self) -> Failure | None: ...


def why(
    job: JobState, pods: Sequence[PodState], said: Said | None, read: Callable[[str], Said | None], memory: str
) -> tuple[str, str]:
    """Reason and words of a Job that failed. `read` reads what a pod left, `memory` is the field of its limit."""
    if said is not None and said.failure is not None:
        return said.outcome, said.failure.message
    ended = [pod for pod in pods if pod.exit_code]
    if ended:
        return why_pod(ended[-1], read, memory)
    return "JobFailed", job.message or "the pods are gone, and left no word"


def why_pod(pod: PodState, read: Callable[[str], Said | None], memory: str) -> tuple[str, str]:
    said = read(pod.message)
    if said is not None and said.failure is not None:
        return said.outcome, said.failure.message
    if pod.exit_reason == "OOMKilled":
        return Outcome.OUT_OF_MEMORY.reason, f"the container passed its memory limit; raise {memory}"
    return "ContainerFailed", f"the container ended with exit code {pod.exit_code}"


def job_end(obj: Object) -> tuple[str, str]:
    """Whether it is "Complete", "Failed" or neither, and the message of a failure."""
    held = {one["type"]: one for one in (obj.get("status") or {}).get("conditions") or () if one["status"] == "True"}
    ended = "Complete" if "Complete" in held else "Failed" if "Failed" in held else ""
    return ended, str(held.get("Failed", {}).get("message", ""))
