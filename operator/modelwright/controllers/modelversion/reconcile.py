"""A ModelVersion is Ready once its TrainingJob has published it, a Job has checked what it imports, or Jobs have made
it out of others (`derive`); what it says then never changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pydantic import ValidationError

from modelwright.api.base import UidRef
from modelwright.api.errors import problems
from modelwright.api.model_version import ImportedArtifact, ModelVersion, ModelVersionStatus, VersionLineage
from modelwright.api.storage import ArtifactStatus
from modelwright.api.training_job import TrainingJob
from modelwright.api.types import figure
from modelwright.controllers.modelversion import check, use
from modelwright.controllers.modelversion.derive import Derivation
from modelwright.controllers.modelversion.observed import CheckPodView, CheckView
from modelwright.controllers.modelversion.use import Uses
from modelwright.controllers.shell import NameTaken, Objects, create_once
from modelwright.kube import conditions, errors
from modelwright.kube.client import Client
from modelwright.kube.conditions import State
from modelwright.kube.reflector import Reflector
from modelwright.kube.resources import JOBS, MODELVERSIONS, TRAININGJOBS, Key, Object, owner_reference
from modelwright.serving import VerifySummary
from modelwright.settings import Settings


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """`start`: make the Job that checks. `end`: the Job that has done its work, and goes."""

    status: ModelVersionStatus
    state: State
    start: bool = False
    end: CheckView | None = None


def plan_training(version: ModelVersion, name: str, job: TrainingJob | None) -> Plan:
    """Of a version that the TrainingJob `name` publishes; `job` is that, where there is one."""
    before, seen = version.status, {"observed_generation": version.metadata.generation}
    published = (
        job is not None
        and job.status.artifact is not None
        and (job.spec.publish.model == version.spec.model and job.spec.publish.version == version.spec.version)
    )
    if before.artifact is not None:
        # Published once and for all: the job may be deleted, or its name used again.
        state = conditions.achieved("Ready", "Published", f"published by TrainingJob {name}")
        return Plan(before.model_copy(update={**seen, "phase": "Ready"}), state)
    if job is None or not published:
        missing = f"TrainingJob {name} does not exist" if job is None else f"TrainingJob {name} has not published it"
        state = conditions.in_progress("Ready", "WaitingForTraining", missing)
        return Plan(before.model_copy(update={**seen, "phase": "Pending"}), state)
    assert job.status.artifact is not None  # noqa: S101 - `published` says so
    status = before.model_copy(
        update={
            **seen,
            "phase": "Ready",
            "artifact": ArtifactStatus(uri=job.status.artifact.uri, digest=job.status.artifact.digest),
            "metrics": job.status.metrics,
            "lineage": _lineage(job),
        }
    )
    return Plan(status, conditions.achieved("Ready", "Published", f"published by TrainingJob {name}"))


def _lineage(job: TrainingJob) -> VersionLineage:
    trained_by, data = UidRef(name=job.metadata.name, uid=job.metadata.uid), job.status.data
    if data is None:
        return VersionLineage(training_job=trained_by, data_uri=job.spec.data.uri)
    return VersionLineage(
        training_job=trained_by,
        dataset_ref=data.dataset_ref,
        data_uri=data.artifact.uri,
        dataset_digest=data.artifact.digest,
    )


def plan_import(
    version: ModelVersion,
    imported: ImportedArtifact,
    job: CheckView | None,
    pods: Sequence[CheckPodView],
    *,
    has_image: bool,
) -> Plan:
    """Of a version whose artifact is in a store; `job` is the one that checks it, where there is one."""
    before, seen = version.status, {"observed_generation": version.metadata.generation}
    if before.artifact is not None:
        state = conditions.achieved("Ready", "Imported", f"imported from {imported.uri}, every digest checked")
        return Plan(before.model_copy(update={**seen, "phase": "Ready"}), state, end=job)
    if before.phase == "Failed" and before.observed_generation == version.metadata.generation:
        held = next((one for one in before.conditions or () if one.type == "Ready"), None)
        if held is not None:
            return Plan(before, conditions.stalled("Ready", held.reason, held.message))
    if not has_image:
        message = "the operator has no image for servers, which check what is imported (chart: serverImage)"
        return Plan(before.model_copy(update=seen), conditions.stalled("Ready", "NoServerImage", message))
    pending = before.model_copy(update={**seen, "phase": "Pending"})
    if job is None:
        return Plan(pending, conditions.in_progress("Ready", "Checking", f"{imported.uri} is checked"), start=True)
    if not job.ended:
        waits = next((pod.waits for pod in pods if pod.waits), "")
        message = f"{imported.uri} is checked" + (f": {waits}" if waits else "")
        return Plan(pending, conditions.in_progress("Ready", "Checking", message))
    said = next((one for pod in pods if (one := VerifySummary.from_message(pod.message)) is not None), None)
    if said is None and job.ended == "Complete":
        # Its word was lost with its pod: it is asked again.
        return Plan(pending, conditions.in_progress("Ready", "Checking", f"{imported.uri} is checked again"), end=job)
    if said is None or not said.ok:
        reason = said.failure.reason if said and said.failure else "CheckFailed"
        why = said.failure.message if said and said.failure else job.message
        message = f"{why}. A version is immutable: delete it, mend what is wrong, and create it again"
        failed = before.model_copy(update={**seen, "phase": "Failed"})
        return Plan(failed, conditions.stalled("Ready", reason, message))
    status = before.model_copy(
        update={
            **seen,
            "phase": "Ready",
            "artifact": ArtifactStatus(uri=imported.uri, digest=imported.digest, bytes=said.bytes),
            "metrics": {name: figure(value) for name, value in said.metrics.items()} or None,
        }
    )
    state = conditions.achieved("Ready", "Imported", f"imported from {imported.uri}, every digest checked")
    return Plan(status, state)


class ModelVersionController:
    """Reconciles one ModelVersion at a time by its key. The caches belong to the caller, who runs and syncs them."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        objects: Objects,
        training_jobs: Objects,
        checks: Reflector[CheckView],
        check_pods: Reflector[CheckPodView],
        derivation: Derivation,
        uses: Uses,
    ) -> None:
        self._client = client
        self._settings = settings
        self._objects = objects
        self._training_jobs = training_jobs
        self._checks = checks
        self._check_pods = check_pods
        self._derivation = derivation
        self._uses = uses

    async def reconcile(self, key: Key) -> float | None:
        obj = self._objects.get(key)
        if obj is None:
            return None
        if obj["metadata"].get("deletionTimestamp"):
            await self._uses.release(obj)
            return None
        try:
            version = ModelVersion.model_validate(obj)
        except ValidationError as error:
            state = conditions.stalled("Ready", "InvalidSpec", "; ".join(problems(error)))
            await self._objects.put_status(obj, ModelVersionStatus(phase="Failed"), state)
            return None
        users = self._uses.of(version)
        obj = await self._uses.hold(obj, users)
        if version.spec.source.by_jobs:
            return await self._derivation.reconcile(version, obj, users)
        made = await self._plan(version)
        imported = version.spec.source.artifact
        if made.start and imported is not None:
            child = check.check_job(version, imported, self._settings, owner_reference(MODELVERSIONS, obj))
            try:
                await create_once(self._client, JOBS, child)
            except NameTaken as taken:
                made = dataclasses.replace(made, state=conditions.stalled("Ready", "NameTaken", str(taken)))
        if made.end is not None:
            await self._client.delete(JOBS, made.end.name, key.namespace, uid=made.end.uid)
        status, state = use.shown(version, made.status, made.state, users)
        await self._objects.put_status(obj, status, state)
        for reason, note, warning in use.events(version.status.phase, status.phase, state):
            self._objects.tell(obj, reason, note, warning=warning)
        return None

    async def _plan(self, version: ModelVersion) -> Plan:
        imported, reference = version.spec.source.artifact, version.spec.source.training_job_ref
        if imported is not None:
            job = next(iter(self._checks.owned_by(version.metadata.uid)), None)
            pods = self._check_pods.owned_by(job.uid) if job is not None else []
            return plan_import(version, imported, job, pods, has_image=bool(self._settings.server_image))
        assert reference is not None  # noqa: S101 - the API's rule: exactly one
        raw = await self._training_job(Key(version.metadata.namespace, reference.name), version)
        try:
            training = TrainingJob.model_validate(raw) if raw is not None else None
        except ValidationError:
            training = None  # it says so itself
        return plan_training(version, reference.name, training)

    async def _training_job(self, key: Key, version: ModelVersion) -> Object | None:
        raw = self._training_jobs.get(key)
        if raw is None and version.status.artifact is None:
            # After a start the watch may not have told of it yet.
            try:
                raw = await self._client.get(TRAININGJOBS, key.name, key.namespace)
            except errors.NotFound:
                return None
            self._training_jobs.observe(raw)
        return raw
