"""The shell around the plan: gathers what it sees, applies what it decides, writes status once."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
from pydantic import ValidationError

from modelwright import contract
from modelwright.api.dataset import Dataset
from modelwright.api.errors import problems
from modelwright.api.training_job import TrainingData, TrainingJob, TrainingJobStatus
from modelwright.controllers.modelversion.observed import VersionView
from modelwright.controllers.shell import Clock, NameTaken, Objects, create_once, now
from modelwright.controllers.trainingjob import children, cleanup, dataset, initial, resolve
from modelwright.controllers.trainingjob.ends import attempts_of
from modelwright.controllers.trainingjob.lost import LostPods
from modelwright.controllers.trainingjob.observed import (
    NAME_LABEL,
    SHRINK_ANNOTATION,
    JobView,
    PodView,
    job_view,
    own_pods,
    pod_view,
)
from modelwright.controllers.trainingjob.outcome import DISRUPTIONS
from modelwright.controllers.trainingjob.plan import Plan, Publish, Start, Suspend, plan
from modelwright.controllers.trainingjob.running import QUEUED
from modelwright.controllers.trainingjob.status import ENDED, status
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
        lost: LostPods,
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
        self._lost = lost
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
            self._lost.forget(key)
            return None
        try:
            job = TrainingJob.model_validate(obj)
        except ValidationError as error:
            await self._stall(obj, "InvalidSpec", "; ".join(problems(error)))
            return None
        if job.status.phase in ENDED and job.status.observed_generation == job.metadata.generation:
            self._lost.forget(key)
            return await self._clean_up(obj, job)
        jobs = self._jobs.owned_by(job.metadata.uid)
        pods = [pod for one in jobs for pod in self._pods.owned_by(one.uid)] + self._lost.of(key)
        wanted = resolve.wanted(job, self._settings)
        version = self._versions.get(Key(key.namespace, wanted.version_name))
        if version is not None and version.training_job != key.name:
            taken = f"ModelVersion {wanted.version_name} exists and is not of this TrainingJob; publish another version"
            await self._stall(obj, "VersionExists", taken)
            return None
        told, published = resolve.told(job), version is not None
        made = plan(wanted, jobs, pods, published=published, now=self._clock(), told=told)
        missing = told.attempt > max((one.attempt for one in attempts_of(jobs, told.ends)), default=0)
        if (isinstance(made.action, Start) and told.attempt) or missing:
            # What the caches do not hold may be there, or the TrainingJob itself be gone: a watch that is behind must
            # not train a second time what has just ended, nor tell that pods have ended which it knows by their Job.
            seen = await self._live(obj)
            if seen is None:
                self._objects.forget(key)
                return None
            jobs, pods = seen[0], seen[1] + self._lost.of(key)
            made = plan(wanted, jobs, pods, published=published, now=self._clock(), told=told)
        begins = self._initial(job)
        job, made = await self._settled(job, made, begins)
        try:
            await self._act(obj, job, made, begins)
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
        if isinstance(made.action, Start) or made.phase in {*ENDED, "Suspended"}:
            # What is known of the attempts before is in status.
            self._lost.forget(key)
        if isinstance(made.action, Publish):
            # Only now: the version is read from this status.
            await self._publish(job)
        return 0.0 if made.phase in ENDED and job.spec.cleanup is not None else made.look_again

    async def _clean_up(self, obj: Object, job: TrainingJob) -> float | None:
        wait = cleanup.due(job, self._clock())
        if wait is None or wait > 0:
            return wait
        await cleanup.delete_children(self._client, job)
        done = job.status.model_copy(update={"cleanup_time": self._clock().replace(microsecond=0)})
        await self._objects.put_status(obj, done, conditions.state_of(obj["status"]["conditions"], "Succeeded"))
        return None

    def _initial(self, job: TrainingJob) -> contract.InitFrom | dataset.Missing | None:
        """What the training begins with; None where weights are drawn."""
        name = initial.name_of(job)
        return initial.found(name, self._versions.get(Key(job.metadata.namespace, name))) if name else None

    async def _settled(
        self, job: TrainingJob, made: Plan, begins: contract.InitFrom | dataset.Missing | None
    ) -> tuple[TrainingJob, Plan]:
        """The job with the data set in its status that an attempt is made from, and the plan: put off where that or the
        version to begin with is to be waited for, or the data set to be written down first."""
        name, data = dataset.name_of(job), job.status.data
        if name is None:
            data = None
        elif isinstance(made.action, Start) and dataset.pinned(job) is None:
            seen = dataset.suited(job, await self._dataset(Key(job.metadata.namespace, name)))
            made, data = dataset.settled(made, seen), seen if isinstance(seen, TrainingData) else None
        if isinstance(made.action, Start) and isinstance(begins, dataset.Missing):
            made = dataset.settled(made, begins)
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

    async def _act(
        self, obj: Object, job: TrainingJob, made: Plan, begins: contract.InitFrom | dataset.Missing | None
    ) -> None:
        match made.action:
            case Start(number, size):
                owner = owner_reference(TRAININGJOBS, obj)
                blueprint = resolve.blueprint(job, self._settings, attempt=number, owner=owner, workers=size)
                if isinstance(begins, contract.InitFrom):
                    blueprint = initial.given(blueprint, begins)
                config, service, workers = children.children(blueprint)
                # The Job is tried before anything is made: one that is refused leaves nothing behind.
                with contextlib.suppress(errors.AlreadyExists):
                    await self._client.create(JOBS, workers, dry_run=True)
                await self._create_config(config)
                for resource, child in ((SERVICES, service), (JOBS, workers)):
                    await create_once(self._client, resource, child)
            case Suspend(view) if view.queue:
                await self._client.delete(JOBS, view.name, job.metadata.namespace, uid=view.uid)
            case Suspend(view, shrink_to):
                patch: Object = {"metadata": {"uid": view.uid}, "spec": {"suspend": True}}
                if shrink_to is not None:
                    patch["metadata"]["annotations"] = {SHRINK_ANNOTATION: str(shrink_to)}
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
        own = own_pods(newest, pods) if newest else ()
        pod = next((pod for pod in own if pod.index == 0), None)
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
        said = status(job, self._settings, made, progress, self._clock().replace(microsecond=0))
        await self._objects.put_status(obj, said, made.state)
        if made.event is not None:
            reason = made.state.main.reason
            troubled = made.phase in {"Failed", "Restarting", "Pending"} and reason != QUEUED
            self._objects.tell(obj, *made.event, warning=troubled or reason in DISRUPTIONS)

    async def _stall(self, obj: Object, reason: str, message: str) -> None:
        """Says that the object cannot be planned for, until a person changes it."""
        try:
            before = TrainingJobStatus.model_validate(obj.get("status") or {})
        except ValidationError:
            before = TrainingJobStatus()
        generation = obj["metadata"].get("generation", 0)
        said = before.model_copy(update={"phase": "Failed", "observed_generation": generation})
        await self._objects.put_status(obj, said, conditions.stalled("Succeeded", reason, message))
        self._objects.tell(obj, reason, message, warning=True)
