"""The shell around the plan of a Dataset: gathers what it sees, applies what it decides, writes status once."""

from __future__ import annotations

import dataclasses

from pydantic import ValidationError

from modelwright.api.dataset import Dataset, DatasetStatus
from modelwright.api.errors import problems
from modelwright.controllers.dataset import job
from modelwright.controllers.dataset.observed import JobView, PodView
from modelwright.controllers.dataset.plan import Plan, plan
from modelwright.controllers.podspec import store_used
from modelwright.controllers.shell import NameTaken, Objects, create_once
from modelwright.kube import conditions, errors
from modelwright.kube.client import Client
from modelwright.kube.reflector import Reflector
from modelwright.kube.resources import DATASETS, JOBS, Key, Object, owner_reference
from modelwright.settings import Settings


class DatasetController:
    """Reconciles one Dataset at a time by its key. The caches belong to the caller, who runs and syncs them."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        objects: Objects,
        jobs: Reflector[JobView],
        pods: Reflector[PodView],
    ) -> None:
        self._client = client
        self._settings = settings
        self._objects = objects
        self._jobs = jobs
        self._pods = pods

    async def reconcile(self, key: Key) -> float | None:
        obj = self._objects.get(key)
        if obj is None or obj["metadata"].get("deletionTimestamp"):
            # The Job is owned, and goes with it; what is in the store stays.
            return None
        try:
            dataset = Dataset.model_validate(obj)
        except ValidationError as error:
            generation = obj["metadata"].get("generation", 0)
            status = DatasetStatus(phase="Failed", observed_generation=generation)
            state = conditions.stalled("Succeeded", "InvalidSpec", "; ".join(problems(error)))
            await self._objects.put_status(obj, status, state)
            return None
        jobs = self._jobs.owned_by(dataset.metadata.uid)
        pods = [(one.uid, pod) for one in jobs for pod in self._pods.owned_by(one.uid)]
        storage = store_used(dataset.spec.storage, self._settings)
        made = plan(dataset, job.run_hash(dataset), storage, jobs, pods)
        for ended in made.end:
            await self._client.delete(JOBS, ended.name, key.namespace, uid=ended.uid)
        if made.start:
            made = await self._start(dataset, obj, made)
        before = dataset.status
        news = made.status.phase in ("Succeeded", "Failed") and (
            before.phase != made.status.phase or before.observed_generation != made.status.observed_generation
        )
        await self._objects.put_status(obj, made.status, made.state)
        if news:
            main = made.state.main
            self._objects.tell(obj, main.reason, main.message, warning=made.status.phase == "Failed")
            for warning in made.status.warnings or ():
                self._objects.tell(obj, "DataWarning", warning, warning=True)
        return None

    async def _start(self, dataset: Dataset, obj: Object, made: Plan) -> Plan:
        child = job.dataset_job(dataset, self._settings, owner_reference(DATASETS, obj))
        failed = made.status.model_copy(update={"phase": "Failed"})
        try:
            await create_once(self._client, JOBS, child)
        except NameTaken as taken:
            return dataclasses.replace(made, status=failed, state=_stalled("NameTaken", str(taken)))
        except errors.Invalid as refused:
            # What the API server refuses of a Job is of the user's pod template: all else is ours and tested.
            message = f"spec.podTemplate: the API server refuses the Job: {refused}"
            return dataclasses.replace(made, status=failed, state=_stalled("InvalidPodTemplate", message))
        return made


def _stalled(reason: str, message: str) -> conditions.State:
    return conditions.stalled("Succeeded", reason, message)
