"""What a plan sees of a TrainingJob's children: small frozen records, made where the objects come in."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from modelwright.contract import Outcome
from modelwright.controllers.trainingjob.owncode import PROGRESS, TRAINER
from modelwright.kube.resources import Object, controller_uid_of

NAME_LABEL = "modelwright.dev/trainingjob"
ATTEMPT_LABEL = "modelwright.dev/attempt"
HASH_ANNOTATION = "modelwright.dev/run-hash"
# Of all but the number of workers, and that number as the spec had it: where there is no room, an attempt has fewer.
UNSIZED_ANNOTATION = "modelwright.dev/unsized-hash"
REPLICAS_ANNOTATION = "modelwright.dev/replicas"
# Set on an attempt that is ended for want of room: how many workers the next one has.
SHRINK_ANNOTATION = "modelwright.dev/shrink-to"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"
# A container that waits for one of these will not start until somebody does something.
_IMAGE_TROUBLE = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_CONFIG_TROUBLE = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_TROUBLE = _IMAGE_TROUBLE | _CONFIG_TROUBLE


@dataclasses.dataclass(frozen=True, slots=True)
class JobView:
    """An attempt's Job. `ended` is "Complete", "Failed" or empty; `reason`, `message` are of its failure. `own_code`:
    its pods run the user's own. `workers` is how many pods it has, `replicas` how many the spec asked for; 0 where an
    older operator made it. `shrink_to`: it ends for want of room, and the next has so many. `queue`: who else writes
    its `suspend`."""

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
    own_code: bool = False
    workers: int = 0
    replicas: int = 0
    unsized_hash: str = ""
    shrink_to: int | None = None
    queue: str = ""

    @property
    def suspended_by_queue(self) -> bool:
        """Nobody else suspends a queued Job: to end one, the operator deletes it."""
        return self.suspended and bool(self.queue)


@dataclasses.dataclass(frozen=True, slots=True)
class PodView:
    """A pod of an attempt. `trouble` says why its container does not start, in Kubernetes' words; `exit_code` and
    `termination_message` are of the ended container; `disrupted` is why it was evicted, `disruption` the same in words.
    `own_exit`: what ended is the user's own code, whose exit codes are the user's; the message is then the last lines
    of its log. `memory_limit` is the worker's, as it was written."""

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
    own_exit: bool = False
    scheduled: bool = False
    unschedulable_since: datetime.datetime | None = None
    disruption: str = ""
    node: str = ""
    memory_limit: str = ""
    created: datetime.datetime | None = None


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    for condition in status.get("conditions") or ():
        if condition["type"] == kind and condition["status"] == "True":
            found: Mapping[str, Any] = condition
            return found
    return {}


def _time(text: str | None) -> datetime.datetime | None:
    return datetime.datetime.fromisoformat(text) if text else None


def newest_of_each(pods: Iterable[PodView]) -> list[PodView]:
    """One pod for each index: where a queue stopped a Job and lets it run again, those of before are there as well."""
    found: dict[int, PodView] = {}
    for pod in pods:
        known = found.get(pod.index)
        if known is None or _age(pod) >= _age(known):
            found[pod.index] = pod
    return [found[index] for index in sorted(found)]


def own_pods(job: JobView, pods: Iterable[PodView]) -> list[PodView]:
    """The newest pod of each index of an attempt."""
    return newest_of_each(pod for pod in pods if pod.job_uid == job.uid)


def _age(pod: PodView) -> tuple[bool, float]:
    return (pod.phase not in ("Succeeded", "Failed"), pod.created.timestamp() if pod.created else 0.0)


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0


def job_view(obj: Object) -> JobView:
    metadata, status = obj["metadata"], obj.get("status") or {}
    annotations, labels = metadata.get("annotations") or {}, metadata.get("labels") or {}
    failed, complete = _condition(status, "Failed"), _condition(status, "Complete")
    # Before the Job ends it says that it will: from then on its outcome is known, though pods may still be ending.
    cause = failed or _condition(status, "FailureTarget")
    return JobView(
        name=metadata["name"],
        uid=metadata["uid"],
        training_job=labels.get(NAME_LABEL, ""),
        attempt=int(labels.get(ATTEMPT_LABEL, "0")),
        run_hash=annotations.get(HASH_ANNOTATION, ""),
        suspended=bool(obj["spec"].get("suspend")),
        active=int(status.get("active", 0)) + int(status.get("terminating", 0) or 0),
        ended="Complete" if complete else "Failed" if failed else "",
        reason=str(cause.get("reason", "")),
        message=str(cause.get("message", "")),
        deleting=bool(metadata.get("deletionTimestamp")),
        ended_at=_time((complete or failed).get("lastTransitionTime")),
        own_code=any(one["name"] == TRAINER for one in obj["spec"]["template"]["spec"].get("initContainers") or ()),
        workers=int(obj["spec"].get("completions") or 0),
        replicas=_number(annotations.get(REPLICAS_ANNOTATION)),
        unsized_hash=annotations.get(UNSIZED_ANNOTATION, ""),
        shrink_to=_number(annotations.get(SHRINK_ANNOTATION)) or None,
        queue=labels.get(QUEUE_LABEL, ""),
    )


def pod_view(obj: Object) -> PodView:
    metadata, status = obj["metadata"], obj.get("status") or {}
    init, main = status.get("initContainerStatuses") or (), status.get("containerStatuses") or ()
    states = [one.get("state") or {} for one in (*init, *main)]
    waits = (state.get("waiting") or {} for state in states)
    waiting: Mapping[str, Any] = next((one for one in waits if one.get("reason") in _TROUBLE), {})
    reason = str(waiting.get("reason", ""))
    ended = _ended(init, main)
    terminated: Mapping[str, Any] = (ended.get("state") or {}).get("terminated") or {}
    unschedulable, since = "", None
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            unschedulable = str(condition.get("message", condition.get("reason", "")))
            since = _time(condition.get("lastTransitionTime"))
    disruption = _condition(status, "DisruptionTarget")
    node = str((obj.get("spec") or {}).get("nodeName", ""))
    index = (metadata.get("annotations") or {}).get(INDEX_ANNOTATION, "-1")
    return PodView(
        name=metadata["name"],
        training_job=(metadata.get("labels") or {}).get(NAME_LABEL, ""),
        job_uid=controller_uid_of(obj) or "",
        index=int(index),
        phase=_phase(status, init),
        ip=str(status.get("podIP", "")),
        unschedulable=unschedulable,
        trouble_reason=reason,
        trouble=str(waiting.get("message", "")),
        exit_code=int(terminated["exitCode"]) if terminated else None,
        exit_reason=str(terminated.get("reason", "")),
        termination_message=str(terminated.get("message", "")),
        disrupted=str(disruption.get("reason", "")),
        deleting=bool(metadata.get("deletionTimestamp")),
        own_exit=ended.get("name") == TRAINER and ended in init,
        scheduled=bool(node),
        unschedulable_since=since,
        disruption=str(disruption.get("message", "")),
        node=node,
        memory_limit=_memory_limit(obj),
        created=_time(metadata.get("creationTimestamp")),
    )


def _memory_limit(pod: Object) -> str:
    spec = pod.get("spec") or {}
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        if container["name"] == TRAINER:
            return str(((container.get("resources") or {}).get("limits") or {}).get("memory", ""))
    return ""


def _ended(init: Sequence[Object], main: Sequence[Object]) -> Object:
    """The container that tells how the pod ended: the one that failed, but before all ours that ended the user's code
    and knows why; where none failed, the last of the main ones."""

    def end(container: Object) -> Mapping[str, Any]:
        found: Mapping[str, Any] = (container.get("state") or {}).get("terminated") or {}
        return found

    failed = [one for one in (*main, *init) if end(one).get("exitCode")]
    hung = [one for one in failed if one["name"] == PROGRESS and end(one)["exitCode"] == Outcome.HUNG.code]
    others = [one for one in failed if one["name"] != PROGRESS]
    done = [one for one in main if end(one)]
    return next(iter([*hung, *others, *done[-1:]]), {})


def _phase(status: Mapping[str, Any], init: Sequence[Object]) -> str:
    """As Kubernetes has it, but for a pod whose worker is an init container: it is Pending all the while, and runs once
    its code does."""
    phase = str(status.get("phase", "Pending"))
    begun = any(one["name"] == TRAINER and not (one.get("state") or {}).get("waiting") for one in init)
    return "Running" if phase == "Pending" and begun else phase
