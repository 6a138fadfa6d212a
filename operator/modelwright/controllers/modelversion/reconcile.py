"""A ModelVersion is Ready once the TrainingJob that it names has published it; what it says then never changes."""

from __future__ import annotations

from pydantic import ValidationError

from modelwright.api.base import UidRef
from modelwright.api.errors import problems
from modelwright.api.model_version import ModelVersion, ModelVersionStatus, VersionLineage
from modelwright.api.storage import ArtifactStatus
from modelwright.api.training_job import TrainingJob
from modelwright.controllers.shell import Objects
from modelwright.kube import conditions
from modelwright.kube.conditions import State
from modelwright.kube.resources import Key


def plan(version: ModelVersion, job: TrainingJob | None) -> tuple[ModelVersionStatus, State]:
    """The status of a version; `job` is the TrainingJob that it names, where there is one."""
    before = version.status
    name = version.spec.source.training_job_ref.name
    seen = {"observed_generation": version.metadata.generation}
    published = (
        job is not None
        and job.status.artifact is not None
        and (job.spec.publish.model == version.spec.model and job.spec.publish.version == version.spec.version)
    )
    if before.artifact is not None:
        # Published once and for all: the job may be deleted, or its name used again.
        state = conditions.achieved("Ready", "Published", f"published by TrainingJob {name}")
        return before.model_copy(update={**seen, "phase": "Ready"}), state
    if job is None or not published:
        missing = f"TrainingJob {name} does not exist" if job is None else f"TrainingJob {name} has not published it"
        state = conditions.in_progress("Ready", "WaitingForTraining", missing)
        return before.model_copy(update={**seen, "phase": "Pending"}), state
    assert job.status.artifact is not None  # noqa: S101 - `published` says so
    status = before.model_copy(
        update={
            **seen,
            "phase": "Ready",
            "artifact": ArtifactStatus(uri=job.status.artifact.uri, digest=job.status.artifact.digest),
            "metrics": job.status.metrics,
            "lineage": VersionLineage(
                training_job=UidRef(name=job.metadata.name, uid=job.metadata.uid), data_uri=job.spec.data.uri
            ),
        }
    )
    return status, conditions.achieved("Ready", "Published", f"published by TrainingJob {name}")


class ModelVersionController:
    """Reconciles one ModelVersion at a time by its key."""

    def __init__(self, objects: Objects, training_jobs: Objects) -> None:
        self._objects = objects
        self._training_jobs = training_jobs

    async def reconcile(self, key: Key) -> float | None:
        obj = self._objects.get(key)
        if obj is None or obj["metadata"].get("deletionTimestamp"):
            return None
        try:
            version = ModelVersion.model_validate(obj)
        except ValidationError as error:
            state = conditions.stalled("Ready", "InvalidSpec", "; ".join(problems(error)))
            await self._objects.put_status(obj, ModelVersionStatus(phase="Failed"), state)
            return None
        raw = self._training_jobs.get(Key(key.namespace, version.spec.source.training_job_ref.name))
        try:
            job = TrainingJob.model_validate(raw) if raw is not None else None
        except ValidationError:
            job = None  # it says so itself
        status, state = plan(version, job)
        became_ready = version.status.phase != "Ready" and status.phase == "Ready"
        await self._objects.put_status(obj, status, state)
        if became_ready:
            self._objects.tell(obj, state.main.reason, state.main.message, warning=False)
        return None
