"""What happens when a channel moves: it is resolved to a version that is Ready, or says why it cannot be; and what
becomes of versions that are not kept."""

from __future__ import annotations

from collections.abc import Callable, Collection

from pydantic import ValidationError

from modelwright.api.errors import problems
from modelwright.api.model import Model, ModelStatus
from modelwright.controllers.model.collect import CollectPodView, CollectView, collect_job
from modelwright.controllers.model.plan import events, plan
from modelwright.controllers.model.retire import Retire, plan_retirement
from modelwright.controllers.model.uses import ServiceUse
from modelwright.controllers.modelversion.observed import VersionView
from modelwright.controllers.shell import Clock, NameTaken, Objects, create_once, now, still_there
from modelwright.kube import conditions, errors
from modelwright.kube.client import Client
from modelwright.kube.reflector import Reflector
from modelwright.kube.resources import JOBS, MODELS, MODELVERSIONS, TRAININGJOBS, Key, Object, owner_reference
from modelwright.settings import Settings


class ModelController:
    """Reconciles one Model at a time by its key. `versions` and `uses` are indexed as `model` by (namespace, model).
    `read` tells the names of the namespace's versions that trainings begin with."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        objects: Objects,
        versions: Reflector[VersionView],
        uses: Reflector[ServiceUse],
        collections: Reflector[CollectView],
        collection_pods: Reflector[CollectPodView],
        read: Callable[[str], Collection[str]],
        *,
        clock: Clock = now,
    ) -> None:
        self._client = client
        self._settings = settings
        self._objects = objects
        self._versions = versions
        self._uses = uses
        self._collections = collections
        self._collection_pods = collection_pods
        self._read = read
        self._clock = clock

    async def reconcile(self, key: Key) -> float | None:
        obj = self._objects.get(key)
        if obj is None or obj["metadata"].get("deletionTimestamp"):
            return None
        try:
            model = Model.model_validate(obj)
        except ValidationError as error:
            state = conditions.stalled("Ready", "InvalidSpec", "; ".join(problems(error)))
            await self._objects.put_status(obj, ModelStatus(), state)
            return None
        versions, uses = self._versions.by_index("model", key), self._uses.by_index("model", key)
        status, state = plan(model, versions, uses)
        retire = self._retirement(model, status, key)
        status = status.model_copy(update={"retention": retire.status})
        if retire.folders and not await self._start(obj, model, retire):
            return None
        for event in (*events(model.status, status), *retire.events):
            self._objects.tell(obj, event.reason, event.note, warning=event.warning)
        await self._objects.put_status(obj, status, state)
        await self._end(key, retire)
        return retire.look_again

    def _retirement(self, model: Model, status: ModelStatus, key: Key) -> Retire:
        jobs = [one for one in self._collections.owned_by(model.metadata.uid) if not one.deleting]
        job = next(iter(jobs), None)
        return plan_retirement(
            model,
            status,
            self._versions.by_index("model", key),
            self._uses.by_index("model", key),
            self._read(key.namespace),
            job,
            self._collection_pods.owned_by(job.uid) if job is not None else [],
            self._clock(),
            has_image=bool(self._settings.server_image),
        )

    async def _start(self, obj: Object, model: Model, retire: Retire) -> bool:
        """Whether the model is there still; the Job is made then."""
        retention = model.spec.retention
        assert retention is not None  # noqa: S101 - it was planned from it
        if not await still_there(self._client, MODELS, obj):
            return False
        owner = owner_reference(MODELS, obj)
        child = collect_job(model, retention, retire.folders, retire.gone, self._settings, owner, work=retire.work)
        try:
            await create_once(self._client, JOBS, child)
        except NameTaken as taken:
            self._objects.tell(obj, "NameTaken", str(taken), warning=True)
        return True

    async def _end(self, key: Key, retire: Retire) -> None:
        """What follows from what is written down by now."""
        read = await self._read_now(key.namespace) if retire.delete else ()
        for one in retire.delete:
            if one.name in read:
                continue
            try:
                await self._client.delete(MODELVERSIONS, one.name, key.namespace, uid=one.uid)
            except errors.Conflict:
                # Another one of its name: another version.
                continue
        if retire.end is not None:
            await self._client.delete(JOBS, retire.end.name, key.namespace, uid=retire.end.uid)

    async def _read_now(self, namespace: str) -> set[str]:
        """As `read`, from the API server: after a start the watch may not have told of all TrainingJobs yet."""
        begun = (
            (one["spec"].get("trainer") or {}).get("initFrom") or {}
            for one in await self._client.list(TRAININGJOBS, namespace)
        )
        return {str(one["modelVersionRef"]["name"]) for one in begun if one.get("modelVersionRef")}
