"""The operator's process: the election, the caches, and Kopf's watches of our own kinds, which only wake queues."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import kopf
import prometheus_client

from modelwright import __version__
from modelwright.controllers.dataset import observed as preparing
from modelwright.controllers.dataset.reconcile import DatasetController
from modelwright.controllers.inferenceservice import observed as serving
from modelwright.controllers.inferenceservice.observed import SERVICE_LABEL
from modelwright.controllers.inferenceservice.reconcile import Caches, InferenceServiceController
from modelwright.controllers.model import collect as collecting
from modelwright.controllers.model.reconcile import ModelController
from modelwright.controllers.model.uses import ServiceUse, ever_pointed_at, pointed_at, service_use
from modelwright.controllers.modelversion import derive_observed as deriving
from modelwright.controllers.modelversion.derive import Derivation, DerivedCaches
from modelwright.controllers.modelversion.observed import (
    VERSION_LABEL,
    VersionView,
    check_pod_view,
    check_view,
    version_view,
)
from modelwright.controllers.modelversion.reconcile import ModelVersionController
from modelwright.controllers.modelversion.use import Uses, let_go
from modelwright.controllers.shell import Objects
from modelwright.controllers.trainingjob import observed as training
from modelwright.controllers.trainingjob.lost import LostPods
from modelwright.controllers.trainingjob.reconcile import TrainingJobController
from modelwright.kube import kopfsettings
from modelwright.kube.cache import OnChange
from modelwright.kube.client import Client
from modelwright.kube.events import EventRecorder
from modelwright.kube.lease import Lease, LeaseLost, Timing, identity
from modelwright.kube.metrics import Metrics
from modelwright.kube.queue import WorkQueue
from modelwright.kube.reflector import Reflector
from modelwright.kube.resources import (
    API_GROUP,
    API_VERSION,
    DATASETS,
    DEPLOYMENTS,
    ENDPOINTSLICES,
    INFERENCESERVICES,
    JOBS,
    MODELS,
    MODELVERSIONS,
    PODS,
    SERVICES,
    TRAININGJOBS,
    Key,
    Object,
    Resource,
)
from modelwright.settings import Misconfigured, Settings, from_environment

T = TypeVar("T")
S = TypeVar("S", bound=serving.View)

log = logging.getLogger("modelwright")

# Of what is to be done when the operator ends.
_GOODBYE_SECONDS = 10.0
# Kopf watches these.
_OURS = (DATASETS, TRAININGJOBS, MODELVERSIONS, MODELS, INFERENCESERVICES)


class Operator:
    """All that runs under the Lease, wired together."""

    def __init__(self, client: Client, settings: Settings, metrics: Metrics) -> None:
        self._client = client
        self._metrics = metrics
        self._namespace = settings.watch_namespace or None
        self._own_namespace = settings.namespace
        self._events = EventRecorder(client, instance=identity(), metrics=metrics)
        self._objects = {resource: Objects(resource, client, self._events) for resource in _OURS}
        self._reflectors: list[Reflector[Any]] = []
        self._queues: dict[Resource, WorkQueue[Key]] = {}
        # InferenceServices by the model that they serve, or once served.
        self._subscribers: dict[Key, set[Key]] = {}
        # TrainingJobs by the Dataset or ModelVersion that they refer to, or once referred to.
        self._readers: dict[tuple[Resource, Key], set[Key]] = {}
        jobs = self._children(TRAININGJOBS, JOBS, training.job_view, training.NAME_LABEL, lambda job: job.training_job)
        lost = LostPods()
        pods = self._children(
            TRAININGJOBS, PODS, training.pod_view, training.NAME_LABEL, lambda pod: pod.training_job, gone=lost.keep
        )
        self._versions: Reflector[VersionView] = self._reflector(
            MODELVERSIONS,
            version_view,
            self._version_changed,
            indexes={
                "model": lambda view: (Key(view.key.namespace, view.model),),
                # Those that are made of it, or compared with it.
                "needed": lambda view: {Key(view.key.namespace, name) for name in (*view.parents, *view.compared)},
                "dataset": lambda view: {Key(view.key.namespace, name) for name in view.datasets},
            },
        )
        self._uses: Reflector[ServiceUse] = self._reflector(
            INFERENCESERVICES,
            service_use,
            self._use_changed,
            indexes={"model": lambda use: (Key(use.key.namespace, use.model),)},
        )
        self._training = TrainingJobController(
            client, settings, self._objects[TRAININGJOBS], jobs, pods, self._versions, self._objects[DATASETS], lost
        )
        version = ModelVersionController(
            client,
            settings,
            self._objects[MODELVERSIONS],
            self._objects[TRAININGJOBS],
            self._children(MODELVERSIONS, JOBS, check_view, VERSION_LABEL, lambda job: job.version),
            self._children(MODELVERSIONS, PODS, check_pod_view, VERSION_LABEL, lambda pod: pod.version),
            self._derivation(settings),
            Uses(client, self._objects[MODELVERSIONS], self._objects[MODELS], self._uses),
        )
        dataset = DatasetController(
            client,
            settings,
            self._objects[DATASETS],
            self._children(DATASETS, JOBS, preparing.job_view, preparing.DATASET_LABEL, lambda job: job.dataset),
            self._children(DATASETS, PODS, preparing.pod_view, preparing.DATASET_LABEL, lambda pod: pod.dataset),
        )
        model = ModelController(
            client,
            settings,
            self._objects[MODELS],
            self._versions,
            self._uses,
            self._children(MODELS, JOBS, collecting.collect_view, collecting.COLLECTION_LABEL, lambda job: job.model),
            self._children(
                MODELS, PODS, collecting.collect_pod_view, collecting.COLLECTION_LABEL, lambda pod: pod.model
            ),
            self._read_versions,
        )
        self._serving = InferenceServiceController(
            client, settings, self._objects[INFERENCESERVICES], self._objects[MODELS], self._serving_caches()
        )
        for resource, reconcile in (
            (DATASETS, dataset.reconcile),
            (TRAININGJOBS, self._training.reconcile),
            (MODELVERSIONS, version.reconcile),
            (MODELS, model.reconcile),
            (INFERENCESERVICES, self._serving.reconcile),
        ):
            self._queues[resource] = WorkQueue(reconcile, name=resource.plural, metrics=metrics)

    def _derivation(self, settings: Settings) -> Derivation:
        caches = DerivedCaches(
            objects=self._objects[MODELVERSIONS],
            models=self._objects[MODELS],
            datasets=self._objects[DATASETS],
            versions=self._versions,
            jobs=self._children(
                MODELVERSIONS, JOBS, deriving.stage_job_view, deriving.DERIVED_LABEL, lambda one: one.version
            ),
            pods=self._children(
                MODELVERSIONS, PODS, deriving.stage_pod_view, deriving.DERIVED_LABEL, lambda one: one.version
            ),
        )
        return Derivation(self._client, settings, caches)

    def _reflector(
        self, resource: Resource, project: Callable[[Object], T], changed: OnChange[T], **options: Any
    ) -> Reflector[T]:
        made = Reflector(
            self._client,
            resource,
            project,
            changed,
            namespace=self._namespace,
            metrics=self._metrics,
            **options,
        )
        self._reflectors.append(made)
        return made

    def _children(
        self,
        owner: Resource,
        resource: Resource,
        project: Callable[[Object], T],
        label: str,
        of: Callable[[T], str],
        gone: Callable[[Key, T], None] | None = None,
        **options: Any,
    ) -> Reflector[T]:
        """Children that bear `label`; a change of one wakes the owner of the name `of` it, which is enough: a pod's own
        owner is a Job or a ReplicaSet. `gone` is told of the owner's key, and of the child as it was last."""

        def changed(key: Key, old: T | None, new: T | None) -> None:
            if gone is not None and old is not None and new is None:
                gone(Key(key.namespace, of(old)), old)
            for view in (old, new):
                if view is not None:
                    self._queues[owner].add(Key(key.namespace, of(view)))

        return self._reflector(resource, project, changed, selector={label: None}, **options)

    def _serving_caches(self) -> Caches:
        def children(resource: Resource, project: Callable[[Object], S], **options: Any) -> Reflector[S]:
            return self._children(
                INFERENCESERVICES, resource, project, SERVICE_LABEL, lambda view: view.service, **options
            )

        return Caches(
            deployments=children(DEPLOYMENTS, serving.deployment_view),
            pods=children(PODS, serving.pod_view, indexes={"service": lambda pod: (Key(pod.namespace, pod.service),)}),
            services=children(SERVICES, serving.service_view),
            slices=children(
                ENDPOINTSLICES,
                serving.slice_view,
                indexes={"service": lambda one: (Key(one.namespace, one.service),)},
            ),
            jobs=children(JOBS, serving.job_view),
            versions=self._versions,
        )

    def _version_changed(self, key: Key, old: VersionView | None, new: VersionView | None) -> None:
        view = new or old
        if view is None:
            return
        self._queues[MODELS].add(Key(key.namespace, view.model))
        self._wake_services(key.namespace, view.model)
        if view.training_job and (old is None or new is None):
            self._queues[TRAININGJOBS].add(Key(key.namespace, view.training_job))
        self._wake_readers(MODELVERSIONS, key)
        for child in self._versions.by_index("needed", key):
            self._queues[MODELVERSIONS].add(child.key)

    def _use_changed(self, key: Key, old: ServiceUse | None, new: ServiceUse | None) -> None:
        """Whoever serves what is told of it: its model, and each version that it serves or is about to."""
        for use in (old, new):
            if use is not None:
                model = Key(key.namespace, use.model)
                self._queues[MODELS].add(model)
                followed = pointed_at(self._objects[MODELS].get(model)).get(use.channel)
                for name in use.versions | ({followed} if followed else set()):
                    self._queues[MODELVERSIONS].add(Key(key.namespace, name))

    def _wake_services(self, namespace: str, model: str) -> None:
        """Those that serve the model, for what its versions and channels are now."""
        for key in self._subscribers.get(Key(namespace, model), ()):
            self._queues[INFERENCESERVICES].add(key)

    def told(self, resource: Resource, obj: Object, *, deleted: bool) -> None:
        """An event of one of our own kinds, as Kopf brings it."""
        metadata = obj["metadata"]
        key = Key(metadata["namespace"], metadata["name"])
        objects = self._objects[resource]
        if deleted:
            objects.forget(key)
        else:
            objects.observe(obj)
        self._queues[resource].add(key)
        if resource == MODELS:
            self._wake_services(*key)
            for version in self._versions.by_index("model", key):
                if version.has_channel and not version.ready:
                    self._queues[MODELVERSIONS].add(version.key)
            if self._uses.by_index("model", key):
                for name in ever_pointed_at(obj):
                    self._queues[MODELVERSIONS].add(Key(key.namespace, name))
        if resource == DATASETS:
            self._wake_readers(DATASETS, key)
            for version in self._versions.by_index("dataset", key):
                self._queues[MODELVERSIONS].add(version.key)
        if resource == INFERENCESERVICES:
            model = Key(key.namespace, obj["spec"]["model"]["name"])
            if deleted:
                self._subscribers.get(model, set()).discard(key)
            else:
                self._subscribers.setdefault(model, set()).add(key)
        if resource == TRAININGJOBS:
            self._note_reader(key, obj, deleted=deleted)
            reference = ((obj.get("status") or {}).get("modelVersionRef") or {}).get("name")
            if reference:
                self._queues[MODELVERSIONS].add(Key(key.namespace, reference))

    def _note_reader(self, key: Key, obj: Object, *, deleted: bool) -> None:
        spec = obj["spec"]
        dataset = (spec["data"].get("datasetRef") or {}).get("name")
        version = ((spec["trainer"].get("initFrom") or {}).get("modelVersionRef") or {}).get("name")
        for resource, name in ((DATASETS, dataset), (MODELVERSIONS, version)):
            read = (resource, Key(key.namespace, name or ""))
            if name and not deleted:
                self._readers.setdefault(read, set()).add(key)
            elif read in self._readers:
                self._readers[read].discard(key)
                if not self._readers[read]:
                    del self._readers[read]

    def _read_versions(self, namespace: str) -> set[str]:
        """Names of the ModelVersions that TrainingJobs of the namespace begin with."""
        return {
            read.name for (resource, read) in self._readers if resource == MODELVERSIONS and read.namespace == namespace
        }

    def _wake_readers(self, resource: Resource, key: Key) -> None:
        """The TrainingJobs that refer to an object."""
        for reader in self._readers.get((resource, key), ()):
            self._queues[TRAININGJOBS].add(reader)

    def _handler(self, resource: Resource) -> Callable[..., Awaitable[None]]:
        async def event(event: kopf.RawEvent, **_: object) -> None:
            self.told(resource, dict(event["object"]), deleted=event["type"] == "DELETED")

        return event

    async def run(self) -> None:
        """Runs until it is cancelled, or until a part of it ends, which none does by itself."""
        parts: list[Coroutine[Any, Any, None]] = [reflector.run() for reflector in self._reflectors]
        tasks = [asyncio.create_task(part) for part in (*parts, self._events.run())]
        try:
            # No plan before the children are known: it would make them again.
            await asyncio.gather(*(reflector.synced() for reflector in self._reflectors))
            tasks += [asyncio.create_task(queue.run()) for queue in self._queues.values()]
            tasks.append(asyncio.create_task(self._watch()))
            known = ", ".join(f"{len(one)} {one.resource.plural}" for one in self._reflectors)
            log.info("leading: %s known", known)
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await asyncio.gather(*(queue.stop(grace=5.0) for queue in self._queues.values()), return_exceptions=True)
            with contextlib.suppress(Exception):
                await asyncio.wait_for(let_go(self._client, self._own_namespace), _GOODBYE_SECONDS)
            with contextlib.suppress(Exception):
                await self._events.drain()
            await self._training.close()
            await self._serving.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self) -> None:
        """Kopf watches our own kinds, and writes nothing: neither finalizers nor annotations nor Events."""
        registry = kopf.OperatorRegistry()
        session = self._client.credentials.session(limit=0)

        @kopf.on.login(registry=registry)
        def login(**_: object) -> kopf.AiohttpSession:
            return kopf.AiohttpSession(server=self._client.credentials.server, aiohttp_session=session)

        for resource in self._objects:
            kopf.on.event(API_GROUP, API_VERSION, resource.plural, registry=registry, id=resource.plural)(
                self._handler(resource)
            )

        where: dict[str, Any] = {"namespaces": [self._namespace]} if self._namespace else {"clusterwide": True}
        try:
            await kopf.operator(registry=registry, settings=kopfsettings.settings(), standalone=True, **where)
        finally:
            await session.close()


async def serve(settings: Settings) -> None:
    """Waits for the Lease, works under it, and gives it up on SIGTERM. Raises LeaseLost."""
    metrics = Metrics(prometheus_client.REGISTRY)
    prometheus_client.start_http_server(settings.metrics_port)
    async with await Client.connect(user_agent=f"modelwright/{__version__}", metrics=metrics) as client:
        timing = Timing.of(settings.lease_seconds)
        lease = Lease(client, settings.namespace, settings.lease, identity(), timing=timing, metrics=metrics)
        client.guard = lease.check
        leading = asyncio.create_task(lease.lead(lambda: Operator(client, settings, metrics).run()))
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, leading.cancel)
        log.info("waiting for the Lease %s/%s as %s", settings.namespace, settings.lease, lease.holder)
        with contextlib.suppress(asyncio.CancelledError):
            await leading


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("kopf").setLevel(logging.WARNING)
    try:
        settings = from_environment()
    except Misconfigured as wrong:
        log.error("%s", wrong)  # noqa: TRY400 - it is for the one who installs, and says all
        return 2
    try:
        asyncio.run(serve(settings))
    except LeaseLost as lost:
        log.error("%s: this replica ends, and another leads", lost)  # noqa: TRY400 - an event of the protocol
        return 1
    return 0
