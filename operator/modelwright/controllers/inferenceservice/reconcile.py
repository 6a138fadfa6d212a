"""The shell around the plan: gathers what it sees, does what it decides, writes status once."""

from __future__ import annotations

import contextlib
import dataclasses

from pydantic import ValidationError

from modelwright.api.errors import problems
from modelwright.api.inference_service import InferenceService, InferenceServiceStatus
from modelwright.api.model import Model
from modelwright.controllers import podspec
from modelwright.controllers.inferenceservice import children, resolve
from modelwright.controllers.inferenceservice.observed import (
    DeploymentView,
    JobView,
    PodView,
    ServiceView,
    SliceView,
)
from modelwright.controllers.inferenceservice.plan import (
    DeleteAnalysis,
    DeleteDeployment,
    Drain,
    MakeDeployment,
    MakeService,
    Plan,
    Point,
    Scale,
    Seen,
    StartAnalysis,
    plan,
    watched,
)
from modelwright.controllers.inferenceservice.telemetry import Reader
from modelwright.controllers.modelversion.observed import VersionView
from modelwright.controllers.shell import Clock, NameTaken, Objects, create_once, now, still_there
from modelwright.kube import conditions, errors
from modelwright.kube.client import Client
from modelwright.kube.reflector import Reflector
from modelwright.kube.resources import (
    DEPLOYMENTS,
    INFERENCESERVICES,
    JOBS,
    MODELS,
    SERVICES,
    Key,
    Object,
    owner_reference,
)
from modelwright.settings import Settings


@dataclasses.dataclass(frozen=True, slots=True)
class Caches:
    """Of the children, each with the index `service` by (namespace, InferenceService); they belong to the caller, who
    runs and syncs them."""

    deployments: Reflector[DeploymentView]
    pods: Reflector[PodView]
    services: Reflector[ServiceView]
    slices: Reflector[SliceView]
    jobs: Reflector[JobView]
    versions: Reflector[VersionView]


class InferenceServiceController:
    """Reconciles one InferenceService at a time by its key."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        objects: Objects,
        models: Objects,
        caches: Caches,
        *,
        clock: Clock = now,
    ) -> None:
        self._client = client
        self._settings = settings
        self._objects = objects
        self._models = models
        self._caches = caches
        self._clock = clock
        self._reader = Reader()

    async def close(self) -> None:
        await self._reader.close()

    async def reconcile(self, key: Key) -> float | None:
        obj = self._objects.get(key)
        if obj is None or obj["metadata"].get("deletionTimestamp"):
            # Its children are owned, and go with it.
            return None
        try:
            service = InferenceService.model_validate(obj)
        except ValidationError as error:
            await self._stall(obj, "InvalidSpec", "; ".join(problems(error)))
            return None
        wanted = resolve.wanted(service, await self._model(service), self._versions(service), self._settings)
        seen = await self._seen(service)
        made = plan(wanted, self._known(service), seen, self._clock())
        makes = any(isinstance(action, MakeService | MakeDeployment) for action in made.actions)
        if makes and not await still_there(self._client, INFERENCESERVICES, obj):
            return None
        try:
            await self._act(service, obj, made)
        except NameTaken as taken:
            await self._stall(obj, "NameTaken", str(taken))
            return None
        except errors.Invalid as refused:
            # What the API server refuses of a Deployment is of the user's pod template: all else is ours and tested.
            await self._stall(obj, "InvalidPodTemplate", f"spec.podTemplate: the API server refuses it: {refused}")
            return None
        for event in made.events:
            self._objects.tell(obj, event.reason, event.note, warning=event.warning)
        await self._objects.put_status(obj, made.status, made.state)
        return made.look_again

    async def _model(self, service: InferenceService) -> Model | None:
        name, namespace = service.spec.model.name, service.metadata.namespace
        raw = self._models.get(Key(namespace, name))
        if raw is None and service.spec.model.channel is not None:
            # After a start the watch may not have told of it yet.
            with contextlib.suppress(errors.NotFound):
                raw = await self._client.get(MODELS, name, namespace)
                self._models.observe(raw)
        try:
            return Model.model_validate(raw) if raw is not None else None
        except ValidationError:
            return None  # it says so itself

    def _versions(self, service: InferenceService) -> dict[str, VersionView]:
        key = Key(service.metadata.namespace, service.spec.model.name)
        return {one.key.name: one for one in self._caches.versions.by_index("model", key)}

    def _known(self, service: InferenceService) -> InferenceServiceStatus:
        """The status that was read, with what follows from the object itself."""
        name, namespace = service.metadata.name, service.metadata.namespace
        active = service.status.active
        return service.status.model_copy(
            update={
                "observed_generation": service.metadata.generation,
                "url": children.url(name, namespace),
                "preview_url": children.url(children.preview_service_name(name), namespace),
                "selector": children.selector_text(name, active.name if active else children.NOBODY),
            }
        )

    async def _seen(self, service: InferenceService) -> Seen:
        key = Key(service.metadata.namespace, service.metadata.name)
        active, preview = children.active_service_name(key.name), children.preview_service_name(key.name)
        pods = self._caches.pods.by_index("service", key)
        mine = self._caches.services.owned_by(service.metadata.uid)
        loud = watched(service.status)
        addresses = {
            pod.name: pod.ip
            for pod in pods
            if pod.revision in loud and pod.role == "server" and pod.ip and pod.phase == "Running"
        }
        # Two slices may name one pod while it moves from one to the other.
        endpoints = {
            pod: ready
            for one in self._caches.slices.by_index("service", key)
            if one.owner == active
            for pod, ready in one.endpoints
        }
        return Seen(
            deployments={one.revision: one for one in self._caches.deployments.owned_by(service.metadata.uid)},
            pods=pods,
            active=next((one for one in mine if one.name == active), None),
            preview=next((one for one in mine if one.name == preview), None),
            endpoints=tuple(sorted(endpoints.items())),
            analyses=self._caches.jobs.owned_by(service.metadata.uid),
            telemetry=await self._reader.read(addresses),
        )

    async def _act(self, service: InferenceService, obj: Object, made: Plan) -> None:
        owner = owner_reference(INFERENCESERVICES, obj)
        reach = podspec.reach(service.spec.storage, self._settings)
        name, namespace = service.metadata.name, service.metadata.namespace
        for action in made.actions:
            match action:
                case MakeService(preview, revision):
                    called = children.preview_service_name(name) if preview else children.active_service_name(name)
                    child = children.service_object(service, called, revision, owner)
                    await create_once(self._client, SERVICES, child)
                case Point(view, revision):
                    # By the version that was read: what a stale leader wants is refused.
                    patch = {
                        "metadata": {"uid": view.uid, "resourceVersion": view.resource_version},
                        "spec": {"selector": children.pod_selector(name, revision)},
                    }
                    await self._client.patch(SERVICES, view.name, patch, namespace)
                case MakeDeployment(revision, replicas):
                    child = children.deployment(service, revision, replicas, reach, owner)
                    await create_once(self._client, DEPLOYMENTS, child)
                case Scale(view, replicas):
                    await self._client.scale(
                        DEPLOYMENTS, view.name, replicas, namespace, resource_version=view.resource_version
                    )
                case DeleteDeployment(view):
                    await self._client.delete(DEPLOYMENTS, view.name, namespace, uid=view.uid)
                case Drain(addresses, on):
                    await self._reader.drain(addresses, on=on)
                case StartAnalysis(revision):
                    await create_once(self._client, JOBS, children.analysis_job(service, revision, reach, owner))
                case DeleteAnalysis(job):
                    await self._client.delete(JOBS, job.name, namespace, uid=job.uid)

    async def _stall(self, obj: Object, reason: str, message: str) -> None:
        """Says that the object cannot be planned for, until a person changes it. What serves, serves on."""
        try:
            before = InferenceServiceStatus.model_validate(obj.get("status") or {})
        except ValidationError:
            before = InferenceServiceStatus()
        generation = obj["metadata"].get("generation", 0)
        status = before.model_copy(update={"phase": "Degraded", "observed_generation": generation})
        serves: conditions.Status = "True" if before.ready_replicas else "False"
        await self._objects.put_status(obj, status, conditions.stalled("Ready", reason, message, status=serves))
        self._objects.tell(obj, reason, message, warning=True)
