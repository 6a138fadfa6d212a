"""The shell around the plan: gathers what it sees, applies what it decides, writes status once."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from typing import Any

import aiohttp
from pydantic import ValidationError

from modelwright import contract
from modelwright.api.base import StatusRef
from modelwright.api.dataset import Dataset
from modelwright.api.errors import problems
from modelwright.api.training_job import (
    Attempt,
    Restarts,
    TrainingData,
    TrainingJob,
    TrainingJobStatus,
    TrainingProgress,
)
from modelwright.controllers.modelversion.observed import VersionView
from modelwright.controllers.shell import Clock, NameTaken, Objects, create_once, now
from modelwright.controllers.trainingjob import children, dataset, resolve
from modelwright.controllers.trainingjob.observed import NAME_LABEL, JobView, PodView, job_view, pod_view
from modelwright.controllers.trainingjob.plan import Plan, Publish, Start, Suspend, plan
from modelwright.kube import conditions, errors
from modelwright.kube.client import Client
from modelwright.kube.reflector import Reflector
from modelwright.kube.resources import (
    CONFIGMAPS,
    DATASETS,
    JOBS,
    MODELVERSIONS,
    PODS,
    SERVICES,
    TRAININGJOBS,
    Key,
    Object,
    controller_uid_of,
    owner_reference,
)
from modelwright.settings import Settings

# Phases that say that nothing goes on any more; conditions say why.
_ENDED = frozenset({"Succeeded", "Failed"})
_READ_SECONDS = 2.0


class TrainingJobController:
    """Reconciles one TrainingJob at a time by its key. The caches belong to the caller, who runs and syncs them."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        objects: Objects,
        jobs: Reflector[JobView],
        pods: Reflector[PodView],
        versions: Reflector[VersionView],
        datasets: Objects,
        *,
        clock: Clock = now,
    ) -> None:
        self._client = client
        self._settings = settings
        self._objects = objects
        self._jobs = jobs
        self._pods = pods
        self._versions = versions
        self._datasets = datasets
        self._clock = clock
        self._progress_session: aiohttp.ClientSession | None = None
        # Rank 0 of many jobs is read under one budget, so that a slow pod costs others nothing.
        self._reads = asyncio.Semaphore(32)

    async def close(self) -> None:
        if self._progress_session is not None:
            await self._progress_session.close()

    async def reconcile(self, key: Key) -> float | None:
        obj = self._objects.get(key)
        if obj is None or obj["metadata"].get("deletionTimestamp"):
            # Its children are owned, and go with it; what it published stays.
            return None
        try:
            job = TrainingJob.model_validate(obj)
        except ValidationError as error:
            await self._stall(obj, "InvalidSpec", "; ".join(problems(error)))
            return None
        if job.status.phase in _ENDED and job.status.observed_generation == job.metadata.generation:
            return None
        jobs = self._jobs.owned_by(job.metadata.uid)
        pods = [pod for one in jobs for pod in self._pods.owned_by(one.uid)]
        wanted = resolve.wanted(job, self._settings)
        version = self._versions.get(Key(key.namespace, wanted.version_name))
        if version is not None and version.training_job != key.name:
            taken = f"ModelVersion {wanted.version_name} exists and is not of this TrainingJob; publish another version"
            await self._stall(obj, "VersionExists", taken)
            return None
        told, published = resolve.told(job), version is not None
        made = plan(wanted, jobs, pods, published=published, now=self._clock(), told=told)
        job, made = await self._settled(job, made)
        if isinstance(made.action, Start) and told.attempt:
            # What the caches do not hold may be there, or the TrainingJob itself be gone: a watch that is behind must
            # not train a second time what has just ended.
            seen = await self._live(obj)
            if seen is None:
                self._objects.forget(key)
                return None
            jobs, pods = seen
            made = plan(wanted, jobs, pods, published=published, now=self._clock(), told=told)
        try:
            await self._act(obj, job, made)
        except NameTaken as name_taken:
            await self._stall(obj, "NameTaken", str(name_taken))
            return None
        except errors.Invalid as refused:
            # What the API server refuses of a Job is of the user's pod template: all else is ours and tested.
            message = f"spec.workers.podTemplate: the API server refuses the Job: {refused}"
            await self._stall(obj, "InvalidPodTemplate", message)
            return None
        progress = await self._progress(jobs, pods) if made.phase == "Running" else None
        await self._write(obj, job, made, progress)
        if isinstance(made.action, Publish):
            # Only now: the version is read from this status.
            await self._publish(job)
        return made.look_again

    async def _settled(self, job: TrainingJob, made: Plan) -> tuple[TrainingJob, Plan]:
        """The job with the data set in its status that an attempt is made from, and the plan: put off where that is to
        be waited for, or to be written down first."""
        name, data = dataset.name_of(job), job.status.data
        if name is None:
            data = None
        elif isinstance(made.action, Start) and dataset.pinned(job) is None:
            seen = dataset.suited(job, await self._dataset(Key(job.metadata.namespace, name)))
            made, data = dataset.settled(made, seen), seen if isinstance(seen, TrainingData) else None
        gates = job.spec.evaluation.gates or ()
        told = {"data": data, "warnings": (dataset.warnings(data, gates) or None) if data else None}
        return job.model_copy(update={"status": job.status.model_copy(update=told)}), made

    async def _dataset(self, key: Key) -> TrainingData | dataset.Missing:
        """What there is of a Dataset, as the watch tells of it, or where it has not told, as the API server does."""
        obj = self._datasets.get(key)
        if obj is None:
            try:
                obj = await self._client.get(DATASETS, key.name, key.namespace)
            except errors.NotFound:
                return dataset.found(key.name, None)
            self._datasets.observe(obj)
        try:
            return dataset.found(key.name, Dataset.model_validate(obj))
        except ValidationError as error:
            words = f"Dataset {key.name} cannot be read: {'; '.join(problems(error))}"
            return dataset.Missing(dataset.FAILED, words, stalled=True)

    async def _live(self, obj: Object) -> tuple[list[JobView], list[PodView]] | None:
        """The Jobs of the TrainingJob and the pods of its attempts, from the server; None where it is gone itself."""
        name, namespace, uid = (obj["metadata"][field] for field in ("name", "namespace", "uid"))
        try:
            there = (await self._client.get(TRAININGJOBS, name, namespace))["metadata"]
        except errors.NotFound:
            return None
        if there["uid"] != uid or "deletionTimestamp" in there:
            return None
        selector = {NAME_LABEL: name}
        jobs = [
            job_view(one)
            for one in await self._client.list(JOBS, namespace, selector=selector)
            if controller_uid_of(one) == uid
        ]
        return jobs, [pod_view(one) for one in await self._client.list(PODS, namespace, selector=selector)]

    async def _act(self, obj: Object, job: TrainingJob, made: Plan) -> None:
        match made.action:
            case Start(number):
                owner = owner_reference(TRAININGJOBS, obj)
                blueprint = resolve.blueprint(job, self._settings, attempt=number, owner=owner)
                config, service, workers = children.children(blueprint)
                # The Job is tried before anything is made: one that is refused leaves nothing behind.
                with contextlib.suppress(errors.AlreadyExists):
                    await self._client.create(JOBS, workers, dry_run=True)
                await self._create_config(config)
                for resource, child in ((SERVICES, service), (JOBS, workers)):
                    await create_once(self._client, resource, child)
            case Suspend(view):
                patch = {"metadata": {"uid": view.uid}, "spec": {"suspend": True}}
                await self._client.patch(JOBS, view.name, patch, job.metadata.namespace)
            case _:
                pass

    async def _create_config(self, config: Object) -> None:
        there = await create_once(self._client, CONFIGMAPS, config)
        if there.get("data") != config["data"]:
            # Of an operator that died before it made the Job, and of a spec that was changed since: no pod has seen it.
            metadata = there["metadata"]
            await self._client.delete(CONFIGMAPS, metadata["name"], metadata["namespace"], uid=metadata["uid"])
            await self._client.create(CONFIGMAPS, config)

    async def _publish(self, job: TrainingJob) -> None:
        # One that is there already is seen in the next pass, which tells whose it is.
        with contextlib.suppress(errors.AlreadyExists):
            await self._client.create(MODELVERSIONS, resolve.model_version(job))

    async def _progress(self, jobs: list[JobView], pods: list[PodView]) -> contract.Progress | None:
        """What rank 0 tells; None where it cannot be reached just now, which is no failure."""
        newest = max(jobs, key=lambda one: one.attempt, default=None)
        pod = next((pod for pod in pods if newest and pod.job_uid == newest.uid and pod.index == 0), None)
        if pod is None or not pod.ip or pod.phase != "Running":
            return None
        if self._progress_session is None:
            self._progress_session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_READ_SECONDS))
        host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
        url = f"http://{host}:{contract.PROGRESS_PORT}/progress"
        try:
            async with self._reads, self._progress_session.get(url) as answer:
                return contract.Progress.model_validate_json(await answer.read())
        except (aiohttp.ClientError, TimeoutError, ValidationError):
            return None

    async def _write(self, obj: Object, job: TrainingJob, made: Plan, progress: contract.Progress | None) -> None:
        before, at = job.status, self._clock().replace(microsecond=0)
        update: dict[str, Any] = {
            "phase": made.phase,
            "observed_generation": job.metadata.generation,
            "storage": resolve.storage_status(job, self._settings),
        }
        if made.attempt:
            name = children.attempt_name(job.metadata.name, job.metadata.uid, made.attempt)
            further = made.attempt - 1
            counted = min(made.restarts, further)
            update["attempt"] = Attempt(number=made.attempt, job_name=name)
            update["restarts"] = Restarts(counted=counted, not_counted=further - counted)
            update["start_time"] = before.start_time or at
        update["completion_time"] = (before.completion_time or at) if made.phase in _ENDED else None
        if progress is not None:
            update["progress"] = _progress_status(progress)
        if isinstance(made.action, Publish):
            update |= resolve.published(job, made.action)
        elif made.phase == "Succeeded":
            # Also where the version was there before this object: one that is restored from Git trains nothing anew.
            update["model_version_ref"] = StatusRef(name=resolve.version_name(job))
        await self._objects.put_status(obj, before.model_copy(update=update), made.state)
        if made.event is not None:
            self._objects.tell(obj, *made.event, warning=made.phase in {"Failed", "Restarting", "Pending"})

    async def _stall(self, obj: Object, reason: str, message: str) -> None:
        """Says that the object cannot be planned for, until a person changes it."""
        try:
            before = TrainingJobStatus.model_validate(obj.get("status") or {})
        except ValidationError:
            before = TrainingJobStatus()
        generation = obj["metadata"].get("generation", 0)
        status = before.model_copy(update={"phase": "Failed", "observed_generation": generation})
        await self._objects.put_status(obj, status, conditions.stalled("Succeeded", reason, message))
        self._objects.tell(obj, reason, message, warning=True)


def _progress_status(told: contract.Progress) -> TrainingProgress:
    def figure(value: float | None) -> str | None:
        return None if value is None else f"{value:.6g}"

    return TrainingProgress(
        phase=told.phase,
        epoch=told.epoch,
        epochs=told.epochs,
        step=told.step,
        total_steps=told.total_steps,
        percent=min(100, 100 * told.step // told.total_steps) if told.total_steps else None,
        train_loss=figure(told.train_loss),
        validation_loss=figure(told.validation_loss),
        samples_per_second=figure(told.samples_per_second),
        last_checkpoint_step=told.last_checkpoint_step,
        updated_at=datetime.datetime.fromtimestamp(told.updated, datetime.UTC).replace(microsecond=0)
        if told.updated
        else None,
    )
