"""What a pod of one container tells of itself, and a Job of its end: read once for all kinds whose work is one Job."""

from __future__ import annotations

import dataclasses

from modelwright.kube.resources import Object


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
            reason, waits = "Unschedulable", str(condition.get("message", ""))
    return PodState(str(status.get("phase", "Pending")), reason, waits, exit_code, exit_reason, message)


def job_end(obj: Object) -> tuple[str, str]:
    """Whether it is "Complete", "Failed" or neither, and the message of a failure."""
    held = {one["type"]: one for one in (obj.get("status") or {}).get("conditions") or () if one["status"] == "True"}
    ended = "Complete" if "Complete" in held else "Failed" if "Failed" in held else ""
    return ended, str(held.get("Failed", {}).get("message", ""))
