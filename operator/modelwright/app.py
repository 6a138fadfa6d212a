"""The operator's process: the election, the caches, and Kopf's watches of our own kinds, which only wake queues."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import kopf
import prometheus_client

from modelwright import __version__
from modelwright.controllers.model.reconcile import ModelController
from modelwright.controllers.modelversion.observed import VersionView, version_view
from modelwright.controllers.modelversion.reconcile import ModelVersionController
from modelwright.controllers.shell import Objects
from modelwright.controllers.trainingjob.observed import NAME_LABEL, JobView, PodView, job_view, pod_view
from modelwright.controllers.trainingjob.reconcile import TrainingJobController
from modelwright.kube.client import Client
from modelwright.kube.events import EventRecorder
from modelwright.kube.lease import Lease, LeaseLost, Timing, identity
from modelwright.kube.metrics import Metrics
from modelwright.kube.queue import WorkQueue
from modelwright.kube.reflector import Reflector
from modelwright.kube.resources import (
    API_GROUP,
    API_VERSION,
    JOBS,
    MODELS,
    MODELVERSIONS,
    PODS,
    TRAININGJOBS,
    Key,
    Object,
    Resource,
)
from modelwright.settings import Misconfigured, Settings, from_environment

log = logging.getLogger("modelwright")

Reconcile = Callable[[Key], Awaitable[float | None]]


class Operator:
    """All that runs under the Lease, wired together."""

    def __init__(self, client: Client, settings: Settings, metrics: Metrics) -> None:
        self._client = client
        self._settings = settings
        self._metrics = metrics
        self._namespace = settings.watch_namespace or None
        self._events = EventRecorder(client, instance=identity(), metrics=metrics)
        self._objects = {
            resource: Objects(resource, client, self._events) for resource in (TRAININGJOBS, MODELVERSIONS, MODELS)
        }
        selector = {NAME_LABEL: None}
        self._jobs: Reflector[JobView] = Reflector(
            client, JOBS, job_view, self._job_changed, namespace=self._namespace, selector=selector, metrics=metrics
        )
        self._pods: Reflector[PodView] = Reflector(
            client, PODS, pod_view, self._pod_changed, namespace=self._namespace, selector=selector, metrics=metrics
        )
        self._versions: Reflector[VersionView] = Reflector(
            client,
            MODELVERSIONS,
            version_view,
            self._version_changed,
            namespace=self._namespace,
            indexes={"model": lambda view: (Key(view.key.namespace, view.model),)},
            metrics=metrics,
        )
        self._training = TrainingJobController(
            client, settings, self._objects[TRAININGJOBS], self._jobs, self._pods, self._versions
        )
        version = ModelVersionController(self._objects[MODELVERSIONS], self._objects[TRAININGJOBS])
        model = ModelController(self._objects[MODELS], self._versions)
        self._queues: dict[Resource, WorkQueue[Key]] = {
            resource: WorkQueue(reconcile, name=resource.plural, metrics=metrics)
            for resource, reconcile in (
                (TRAININGJOBS, self._training.reconcile),
                (MODELVERSIONS, version.reconcile),
                (MODELS, model.reconcile),
            )
        }

    # Children wake their owners. A pod's owner is a Job, whose label tells of the TrainingJob: the name is enough.

    def _job_changed(self, key: Key, old: JobView | None, new: JobView | None) -> None:
        view = new or old
        if view is not None:
            self._queues[TRAININGJOBS].add(Key(key.namespace, view.training_job))

    def _pod_changed(self, key: Key, old: PodView | None, new: PodView | None) -> None:
        view = new or old
        if view is not None:
            self._queues[TRAININGJOBS].add(Key(key.namespace, view.training_job))

    def _version_changed(self, key: Key, old: VersionView | None, new: VersionView | None) -> None:
        view = new or old
        if view is None:
            return
        self._queues[MODELS].add(Key(key.namespace, view.model))
        if view.training_job and (old is None or new is None):
            self._queues[TRAININGJOBS].add(Key(key.namespace, view.training_job))

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
        if resource == TRAININGJOBS:
            reference = ((obj.get("status") or {}).get("modelVersionRef") or {}).get("name")
            if reference:
                self._queues[MODELVERSIONS].add(Key(key.namespace, reference))

    def _handler(self, resource: Resource) -> Callable[..., Awaitable[None]]:
        async def event(event: kopf.RawEvent, **_: object) -> None:
            self.told(resource, dict(event["object"]), deleted=event["type"] == "DELETED")

        return event

    async def run(self) -> None:
        """Runs until it is cancelled, or until a part of it ends, which none does by itself."""
        parts: list[Coroutine[Any, Any, None]] = [
            self._jobs.run(),
            self._pods.run(),
            self._versions.run(),
            self._events.run(),
        ]
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            # No plan before the children are known: it would make them again.
            await asyncio.gather(self._jobs.synced(), self._pods.synced(), self._versions.synced())
            tasks += [asyncio.create_task(queue.run()) for queue in self._queues.values()]
            tasks.append(asyncio.create_task(self._watch()))
            log.info(
                "leading: %d jobs, %d pods, %d versions known", len(self._jobs), len(self._pods), len(self._versions)
            )
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await asyncio.gather(*(queue.stop(grace=5.0) for queue in self._queues.values()), return_exceptions=True)
            with contextlib.suppress(Exception):
                await self._events.drain()
            await self._training.close()
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

        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        settings.scanning.disabled = True
        settings.peering.standalone = True
        settings.persistence.finalizer = f"{API_GROUP}/kopf-sets-none"
        where: dict[str, Any] = {"namespaces": [self._namespace]} if self._namespace else {"clusterwide": True}
        try:
            await kopf.operator(registry=registry, settings=settings, standalone=True, **where)
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
