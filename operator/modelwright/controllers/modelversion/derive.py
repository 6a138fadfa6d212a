"""The shell around the plan of a version that is made out of others: gathers what it sees, applies what it decides."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

from pydantic import ValidationError

from modelwright.api.base import ApiObject
from modelwright.api.dataset import Dataset
from modelwright.api.model import Model
from modelwright.api.model_version import ModelVersion, VersionLineage, VersionUse
from modelwright.controllers.modelversion import origins, use
from modelwright.controllers.modelversion.derive_job import stage_job
from modelwright.controllers.modelversion.derive_observed import StageJobView, StagePodView, stage_pod_view
from modelwright.controllers.modelversion.derived import (
    DerivedPlan,
    Told,
    has_ended,
    is_pinned,
    plan_ended,
    plan_origins,
    plan_stages,
)
from modelwright.controllers.modelversion.derived_words import AGAIN
from modelwright.controllers.modelversion.observed import VersionView
from modelwright.controllers.podspec import store_used
from modelwright.controllers.shell import NameTaken, Objects, create_once, still_there
from modelwright.kube import conditions, errors
from modelwright.kube.client import Client
from modelwright.kube.reflector import Reflector
from modelwright.kube.resources import JOBS, MODELVERSIONS, PODS, Key, Object, controller_uid_of, owner_reference
from modelwright.settings import Settings

Kind = TypeVar("Kind", bound=ApiObject)


@dataclasses.dataclass(frozen=True)
class DerivedCaches:
    """They belong to the caller, who runs and syncs them. `objects`, `models` and `datasets` are our own kinds."""

    objects: Objects
    models: Objects
    datasets: Objects
    versions: Reflector[VersionView]
    jobs: Reflector[StageJobView]
    pods: Reflector[StagePodView]


class Derivation:
    """Reconciles one derived ModelVersion at a time."""

    def __init__(self, client: Client, settings: Settings, caches: DerivedCaches) -> None:
        self._client = client
        self._settings = settings
        self._caches = caches

    async def reconcile(self, version: ModelVersion, obj: Object, users: Sequence[VersionUse]) -> float | None:
        made = await self._plan(version)
        for job in made.end:
            await self._client.delete(JOBS, job.name, version.metadata.namespace, uid=job.uid)
        if made.start is not None:
            # The watch may only be late to tell that the version was deleted, and its Job with it.
            if not await still_there(self._client, MODELVERSIONS, obj):
                return None
            made = await self._start(version, obj, made, made.start)
        before = {one.type: (one.reason, one.message) for one in version.status.conditions or ()}
        main = made.state.main
        status, state = use.shown(version, made.status, made.state, users)
        await self._caches.objects.put_status(obj, status, state)
        if before.get("Ready") != (main.reason, main.message):
            for one in made.told:
                self._caches.objects.tell(obj, one.reason, one.message, warning=one.warning)
        if use.RETRACTED in (version.status.phase, status.phase):
            for reason, note, warning in use.events(version.status.phase, status.phase, state):
                self._caches.objects.tell(obj, reason, note, warning=warning)
        return made.look_again

    async def _plan(self, version: ModelVersion) -> DerivedPlan:
        caches = self._caches
        jobs = caches.jobs.owned_by(version.metadata.uid)
        if has_ended(version):
            return plan_ended(version, jobs)
        if is_pinned(version):
            return plan_stages(version, jobs, {job.uid: await self._pods(version, job) for job in jobs})
        namespace = version.metadata.namespace
        name = origins.dataset_name(version)
        seen = origins.origins(
            version,
            lambda name: caches.versions.get(Key(namespace, name)),
            await self._read(caches.models, Model, Key(namespace, version.spec.model)),
            await self._read(caches.datasets, Dataset, Key(namespace, name)) if name else None,
        )
        inherited = VersionLineage()
        if isinstance(seen, origins.Origins) and version.spec.source.compress is not None:
            inherited = await self._lineage(Key(namespace, seen.parents[0].name))
        return plan_origins(version, seen, inherited, store_used(version.spec.storage, self._settings))

    async def _pods(self, version: ModelVersion, job: StageJobView) -> list[StagePodView]:
        known = self._caches.pods.owned_by(job.uid)
        if known or not job.ended:
            return known
        # What is about to be run again, or to have failed, is confirmed: the watch may only be late.
        pages = self._client.pages(PODS, version.metadata.namespace, selector={"job-name": job.name})
        found = [pod async for page in pages for pod in page.items]
        return [stage_pod_view(pod) for pod in found if controller_uid_of(pod) == job.uid]

    async def _lineage(self, parent: Key) -> VersionLineage:
        """How the parent was trained."""
        found = await self._read(self._caches.objects, ModelVersion, parent)
        return (found.status.lineage if found else None) or VersionLineage()

    async def _read(self, objects: Objects, kind: type[Kind], key: Key) -> Kind | None:
        raw = objects.get(key)
        if raw is None:
            # After a start the watch may not have told of it yet.
            try:
                raw = await self._client.get(objects.resource, key.name, key.namespace)
            except errors.NotFound:
                return None
            objects.observe(raw)
        try:
            return kind.model_validate(raw)
        except ValidationError:
            return None  # it says so itself

    async def _start(self, version: ModelVersion, obj: Object, made: DerivedPlan, stage: int) -> DerivedPlan:
        child = stage_job(version, stage, self._settings.trainer_image, owner_reference(MODELVERSIONS, obj))
        try:
            await create_once(self._client, JOBS, child)
        except NameTaken as taken:
            return _stalled(made, "NameTaken", str(taken))
        except errors.Invalid as refused:
            # What the API server refuses of a Job is of the user's pod template: all else is ours and tested.
            source = version.spec.source
            member = "import" if source.import_ else "compress" if source.compress else "combine"
            message = f"spec.source.{member}.podTemplate: the API server refuses the Job: {refused}. {AGAIN}"
            failed = made.status.model_copy(update={"phase": "Failed"})
            return _stalled(dataclasses.replace(made, status=failed), "InvalidPodTemplate", message)
        return made


def _stalled(made: DerivedPlan, reason: str, message: str) -> DerivedPlan:
    state = conditions.stalled("Ready", reason, message)
    return dataclasses.replace(made, state=state, told=(Told(reason, message, warning=True),), look_again=None)
