"""What a plan sees of a Dataset's Job and its pods; and what the other kinds' plans see of a Dataset."""

from __future__ import annotations

import dataclasses

from modelwright.kube.resources import Object

DATASET_LABEL = "modelwright.dev/dataset"
HASH_ANNOTATION = "modelwright.dev/run-hash"


@dataclasses.dataclass(frozen=True, slots=True)
class JobView:
    """The Job of a run. `ended` is "Complete", "Failed" or empty, `message` of its failure."""

    name: str
    uid: str
    dataset: str
    run_hash: str
    ended: str
    message: str
    deleting: bool


@dataclasses.dataclass(frozen=True, slots=True)
class PodView:
    """A pod of such a Job. `waits` is why it does not run, in Kubernetes' words, and `waits_reason` the word for
    programs; `exit_code` is None until it has ended, `message` is what it left."""

    name: str
    dataset: str
    phase: str
    waits_reason: str
    waits: str
    exit_code: int | None
    exit_reason: str
    message: str


def job_view(obj: Object) -> JobView:
    metadata, status = obj["metadata"], obj.get("status") or {}
    held = {one["type"]: one for one in status.get("conditions") or () if one["status"] == "True"}
    return JobView(
        name=metadata["name"],
        uid=metadata["uid"],
        dataset=(metadata.get("labels") or {}).get(DATASET_LABEL, ""),
        run_hash=(metadata.get("annotations") or {}).get(HASH_ANNOTATION, ""),
        ended="Complete" if "Complete" in held else "Failed" if "Failed" in held else "",
        message=str(held.get("Failed", {}).get("message", "")),
        deleting=bool(metadata.get("deletionTimestamp")),
    )


def pod_view(obj: Object) -> PodView:
    metadata, status = obj["metadata"], obj.get("status") or {}
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
            reason, waits = "Unschedulable", str(condition.get("message", ""))
    return PodView(
        name=metadata["name"],
        dataset=(metadata.get("labels") or {}).get(DATASET_LABEL, ""),
        phase=str(status.get("phase", "Pending")),
        waits_reason=reason,
        waits=waits,
        exit_code=exit_code,
        exit_reason=exit_reason,
        message=message,
    )
