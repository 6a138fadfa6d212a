"""The decisions of a Dataset, pure: from its spec and its Jobs to what is to be done, and what status says."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from modelwright.api.dataset import ClassRows, Dataset, DatasetStatus, SplitRows
from modelwright.api.storage import ArtifactRef, StorageStatus
from modelwright.controllers import podstate
from modelwright.controllers.dataset.observed import JobView, PodView
from modelwright.datasets import DatasetSummary
from modelwright.kube import conditions
from modelwright.kube.conditions import State

_MEMORY = "spec.resources.limits.memory"
_AGAIN = "To try again, change the spec, or delete the Dataset and create it anew"


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """`start`: make the Job of this spec. `end`: Jobs that have done their work, or are of another spec, and go."""

    status: DatasetStatus
    state: State
    start: bool = False
    end: tuple[JobView, ...] = ()


def plan(
    dataset: Dataset,
    run_hash: str,
    storage: StorageStatus,
    jobs: Sequence[JobView],
    pods: Sequence[tuple[str, PodView]],
) -> Plan:
    """`pods` are with the uid of their Job."""
    before, generation = dataset.status, dataset.metadata.generation
    if before.observed_generation == generation and before.phase in ("Succeeded", "Failed"):
        # What was prepared never changes, and a failure lasts until somebody acts.
        held = next((one for one in before.conditions or () if one.type == "Succeeded"), None)
        if held is not None:
            if before.phase == "Succeeded":
                return Plan(before, conditions.achieved("Succeeded", held.reason, held.message), end=tuple(jobs))
            # Its Job stays, for its pods' logs.
            return Plan(before, conditions.stalled("Succeeded", held.reason, held.message))
    # Of another spec nothing is said any more.
    blank = DatasetStatus(phase="Pending", observed_generation=generation, storage=storage)
    old = tuple(job for job in jobs if job.run_hash != run_hash)
    if not storage.uri:
        words = "spec.storage.uri: required, since the operator has no default store (chart: storage.uri)"
        return Plan(_failed(blank), conditions.stalled("Succeeded", "NoStorage", words), end=old)
    job = next((job for job in jobs if job.run_hash == run_hash), None)
    source = dataset.spec.source.said
    if job is None:
        return Plan(blank, conditions.in_progress("Succeeded", "Preparing", f"{source} is prepared"), True, old)
    own = [pod for uid, pod in pods if uid == job.uid]
    if job.deleting:
        return Plan(blank, conditions.in_progress("Succeeded", "JobDeleted", f"Job {job.name} goes"), end=old)
    if not job.ended:
        return dataclasses.replace(_under_way(blank, source, own), end=old)
    said = _said(own)
    if job.ended == "Complete":
        if said is None or said.manifest is None:
            # Its word was lost with its pod: it is asked again, and finds the shards where they are.
            words = f"{source} is prepared again: the pod was lost before its result was read"
            return Plan(blank, conditions.in_progress("Succeeded", "Preparing", words), end=(*old, job))
        status = _succeeded(blank, said)
        warned = f", {len(said.warnings)} warnings" if said.warnings else ""
        words = f"{said.rows} rows in {said.columns} columns{warned}"
        return Plan(status, conditions.achieved("Succeeded", "Prepared", words), end=old)
    reason, words = _why(job, own, said)
    return Plan(_failed(blank), conditions.stalled("Succeeded", reason, f"{words}. {_AGAIN}"), end=old)


def _failed(blank: DatasetStatus) -> DatasetStatus:
    return blank.model_copy(update={"phase": "Failed"})


def _under_way(blank: DatasetStatus, source: str, pods: Sequence[PodView]) -> Plan:
    for pod in pods:
        if pod.waits and pod.exit_code is None:
            words = f"the pod cannot start: {pod.waits_reason}: {pod.waits}"
            return Plan(blank, conditions.in_progress("Succeeded", pod.waits_reason, words))
    running = blank.model_copy(update={"phase": "Running"})
    ended = next((pod for pod in pods if pod.exit_code), None)
    if any(pod.phase == "Running" for pod in pods):
        return Plan(running, conditions.in_progress("Succeeded", "Preparing", f"{source} is prepared"))
    if ended is not None:
        reason, words = podstate.why_pod(ended, DatasetSummary.from_message, _MEMORY)
        return Plan(running, conditions.in_progress("Succeeded", reason, f"another try follows: {words}"))
    return Plan(blank, conditions.in_progress("Succeeded", "Preparing", f"{source} is prepared: the pod starts"))


def _said(pods: Sequence[PodView]) -> DatasetSummary | None:
    """What a pod that succeeded said, else one that failed."""
    told = [(pod, said) for pod in pods if (said := DatasetSummary.from_message(pod.message)) is not None]
    told.sort(key=lambda one: one[0].exit_code != 0)
    return told[0][1] if told else None


def _succeeded(blank: DatasetStatus, said: DatasetSummary) -> DatasetStatus:
    assert said.manifest is not None  # noqa: S101 - the caller says so
    most = sorted(said.classes.items(), key=lambda one: (-one[1], one[0]))
    return blank.model_copy(
        update={
            "phase": "Succeeded",
            "artifact": ArtifactRef(uri=said.manifest.uri, digest=said.manifest.digest),
            "rows": said.rows,
            "bytes": said.bytes,
            "columns": said.columns,
            "splits": SplitRows(**{part: said.splits.get(part, 0) for part in ("train", "validation", "test")}),
            "class_count": said.class_count or None,
            "classes": tuple(ClassRows(name=name, rows=rows) for name, rows in most) or None,
            "warnings": tuple(one[:1024] for one in said.warnings) or None,
        }
    )


def _why(job: JobView, pods: Sequence[PodView], said: DatasetSummary | None) -> tuple[str, str]:
    """Reason and words of a Job that failed."""
    reason, words = podstate.why(job, pods, said, DatasetSummary.from_message, _MEMORY)
    return ("ChecksFailed" if said is not None and said.failure and said.failed_checks else reason), words
