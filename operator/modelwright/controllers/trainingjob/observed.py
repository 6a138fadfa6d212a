"""What a plan sees of a TrainingJob's children: small frozen records, made where the objects come in."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

from modelwright.kube.resources import Object, controller_uid_of

NAME_LABEL = "modelwright.dev/trainingjob"
ATTEMPT_LABEL = "modelwright.dev/attempt"
HASH_ANNOTATION = "modelwright.dev/run-hash"
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"
# A container that waits for one of these will not start until somebody does something.
_IMAGE_TROUBLE = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_CONFIG_TROUBLE = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


@dataclasses.dataclass(frozen=True, slots=True)
class JobView:
    """An attempt's Job. `ended` is "Complete", "Failed" or empty; `reason`, `message` are of its failure."""

    name: str
    uid: str
    training_job: str
    attempt: int
    run_hash: str
    suspended: bool
    active: int
    ended: str
    reason: str
    message: str
    deleting: bool
    ended_at: datetime.datetime | None


@dataclasses.dataclass(frozen=True, slots=True)
class PodView:
    """A pod of an attempt. `trouble` says why its container does not start, in Kubernetes' words; `exit_code` and
    `termination_message` are of the ended container; `disrupted` is why it was evicted."""

    name: str
    training_job: str
    job_uid: str
    index: int
    phase: str
    ip: str
    unschedulable: str
    trouble_reason: str
    trouble: str
    exit_code: int | None
    exit_reason: str
    termination_message: str
    disrupted: str
    deleting: bool


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    for condition in status.get("conditions") or ():
        if condition["type"] == kind and condition["status"] == "True":
            found: Mapping[str, Any] = condition
            return found
    return {}


def _time(text: str | None) -> datetime.datetime | None:
    return datetime.datetime.fromisoformat(text) if text else None


def job_view(obj: Object) -> JobView:
    metadata, status = obj["metadata"], obj.get("status") or {}
    failed, complete = _condition(status, "Failed"), _condition(status, "Complete")
    # Before the Job ends it says that it will: from then on its outcome is known, though pods may still be ending.
    cause = failed or _condition(status, "FailureTarget")
    return JobView(
        name=metadata["name"],
        uid=metadata["uid"],
        training_job=(metadata.get("labels") or {}).get(NAME_LABEL, ""),
        attempt=int((metadata.get("labels") or {}).get(ATTEMPT_LABEL, "0")),
        run_hash=(metadata.get("annotations") or {}).get(HASH_ANNOTATION, ""),
        suspended=bool(obj["spec"].get("suspend")),
        active=int(status.get("active", 0)) + int(status.get("terminating", 0) or 0),
        ended="Complete" if complete else "Failed" if failed else "",
        reason=str(cause.get("reason", "")),
        message=str(cause.get("message", "")),
        deleting=bool(metadata.get("deletionTimestamp")),
        ended_at=_time((complete or failed).get("lastTransitionTime")),
    )


def pod_view(obj: Object) -> PodView:
    metadata, status = obj["metadata"], obj.get("status") or {}
    waiting: Mapping[str, Any] = {}
    terminated: Mapping[str, Any] = {}
    for container in status.get("containerStatuses") or ():
        state = container.get("state") or {}
        waiting = state.get("waiting") or waiting
        terminated = state.get("terminated") or terminated
    reason = str(waiting.get("reason", ""))
    troubled = reason in _IMAGE_TROUBLE or reason in _CONFIG_TROUBLE
    unschedulable = ""
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            unschedulable = str(condition.get("message", condition.get("reason", "")))
    index = (metadata.get("annotations") or {}).get(INDEX_ANNOTATION, "-1")
    return PodView(
        name=metadata["name"],
        training_job=(metadata.get("labels") or {}).get(NAME_LABEL, ""),
        job_uid=controller_uid_of(obj) or "",
        index=int(index),
        phase=str(status.get("phase", "Pending")),
        ip=str(status.get("podIP", "")),
        unschedulable=unschedulable,
        trouble_reason=reason if troubled else "",
        trouble=str(waiting.get("message", "")) if troubled else "",
        exit_code=int(terminated["exitCode"]) if terminated else None,
        exit_reason=str(terminated.get("reason", "")),
        termination_message=str(terminated.get("message", "")),
        disrupted=str(_condition(status, "DisruptionTarget").get("reason", "")),
        deleting=bool(metadata.get("deletionTimestamp")),
    )
