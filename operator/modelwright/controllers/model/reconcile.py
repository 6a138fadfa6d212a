"""What happens when a channel moves: it is resolved to a version that is Ready, or says why it cannot be."""

from __future__ import annotations

from pydantic import ValidationError

from modelwright.api.errors import problems
from modelwright.api.model import Model, ModelStatus
from modelwright.controllers.model.plan import events, plan
from modelwright.controllers.model.uses import ServiceUse
from modelwright.controllers.modelversion.observed import VersionView
from modelwright.controllers.shell import Objects
from modelwright.kube import conditions
from modelwright.kube.reflector import Reflector
from modelwright.kube.resources import Key


class ModelController:
    """Reconciles one Model at a time by its key. `versions` and `uses` are indexed as `model` by (namespace, model)."""

    def __init__(self, objects: Objects, versions: Reflector[VersionView], uses: Reflector[ServiceUse]) -> None:
        self._objects = objects
        self._versions = versions
        self._uses = uses

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
        status, state = plan(model, self._versions.by_index("model", key), self._uses.by_index("model", key))
        for event in events(model.status, status):
            self._objects.tell(obj, event.reason, event.note, warning=event.warning)
        await self._objects.put_status(obj, status, state)
        return None
