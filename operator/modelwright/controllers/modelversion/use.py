"""Who uses a version, and what follows: as long as it is served its deletion is held, and one that was taken back says
so.

Our finalizer stands only while somebody serves the version, or is about to: an InferenceService whose status names it,
or whose spec asks for it, by itself or by its channel. Of a version that is being deleted only what its services'
status says counts, since nothing begins with it any more. So a namespace that goes away does not wait for long: its
InferenceServices hold nothing back, go with it, and each that is gone, or going, wakes its versions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from modelwright.api.model_version import ModelVersion, ModelVersionStatus, VersionPhase, VersionUse
from modelwright.controllers.model.uses import ServiceUse, first, pointed_at, told, users
from modelwright.controllers.shell import Objects
from modelwright.kube import conditions, errors
from modelwright.kube.client import Client
from modelwright.kube.conditions import Fact, State
from modelwright.kube.reflector import Reflector
from modelwright.kube.resources import MODELVERSIONS, NAMESPACES, Key, Object

FINALIZER = "modelwright.dev/served"
HELD = "DeletionHeld"
RETRACTED = "Retracted"


def shown(
    version: ModelVersion, status: ModelVersionStatus, state: State, found: Sequence[VersionUse]
) -> tuple[ModelVersionStatus, State]:
    """What was planned, with who uses the version, and whether it was taken back."""
    phase: VersionPhase = status.phase
    if version.spec.retracted is not None:
        fact = Fact(RETRACTED, "True", RETRACTED, version.spec.retracted.reason)
        state = State(state.main, state.activity, state.activity_reason, state.activity_message, (*state.others, fact))
        phase = "Retracted" if phase == "Ready" else phase
    update = {"phase": phase, "served_by": first(found), "serving": told(found)[:1024] or None}
    return status.model_copy(update=update), state


def events(before: VersionPhase, after: VersionPhase, state: State) -> Iterator[tuple[str, str, bool]]:
    """Reason, note and whether it is a warning, of what a change of the phase tells."""
    if after == before:
        return
    if after == "Retracted":
        why = next(one.message for one in state.others if one.type == RETRACTED)
        yield RETRACTED, f"taken back: {why}", True
    elif before == "Retracted" and after == "Ready":
        yield "RetractionRevoked", "it can be used again", False
    elif after in ("Ready", "Failed"):
        yield state.main.reason, state.main.message, after == "Failed"


def held(found: Sequence[VersionUse]) -> Fact:
    """Why a version that is being deleted is still there."""
    message = (
        f"still served by InferenceService {told(found)}: it goes once nobody serves it. Let them serve another"
        " version, by their channel or spec.model.version, or delete them"
    )
    return Fact(HELD, "True", "Served", message)


class Uses:
    """Who uses the versions, and the finalizer that follows from it. `uses` is indexed as `model` by (namespace,
    model)."""

    def __init__(self, client: Client, versions: Objects, models: Objects, uses: Reflector[ServiceUse]) -> None:
        self._client = client
        self._versions = versions
        self._models = models
        self._uses = uses

    def of(self, version: ModelVersion) -> tuple[VersionUse, ...]:
        key = Key(version.metadata.namespace, version.spec.model)
        return users(version.metadata.name, self._uses.by_index("model", key), pointed_at(self._models.get(key)))

    async def hold(self, obj: Object, found: Sequence[VersionUse]) -> Object:
        """Puts the finalizer on a version that is used, and takes it from one that is not; the object as it is then."""
        there = FINALIZER in (obj["metadata"].get("finalizers") or ())
        return obj if there == bool(found) else await self._set(obj, there=bool(found))

    async def release(self, obj: Object) -> None:
        """Lets a version that is being deleted go, or says who holds it."""
        metadata = obj["metadata"]
        if FINALIZER not in (metadata.get("finalizers") or ()):
            return
        key = Key(metadata["namespace"], str(obj["spec"]["model"]))
        found = users(metadata["name"], self._uses.by_index("model", key), {}, asked=False)
        if not found:
            await self._set(obj, there=False)
            return
        try:
            status = ModelVersionStatus.model_validate(obj.get("status") or {})
            known = [one.to_object() for one in status.conditions or ()]
            before = conditions.state_of(known, "Ready")
        except (ValidationError, KeyError):
            status, before = ModelVersionStatus(), State(Fact("Ready", "Unknown", "Deleted"))
        fact = held(found)
        told_already = any(one.type == HELD for one in before.others)
        others = (*(one for one in before.others if one.type != HELD), fact)
        state = State(before.main, before.activity, before.activity_reason, before.activity_message, others)
        await self._versions.put_status(
            obj,
            status.model_copy(update={"served_by": first(found), "serving": told(found)[:1024] or None}),
            state,
        )
        if not told_already:
            self._versions.tell(obj, HELD, fact.message, warning=True)

    async def _set(self, obj: Object, *, there: bool) -> Object:
        """Of the very object that was read: another one of that name, or one that has changed, is refused."""
        metadata = obj["metadata"]
        others = [one for one in metadata.get("finalizers") or () if one != FINALIZER]
        change = {
            "resourceVersion": metadata["resourceVersion"],
            "finalizers": [*others, FINALIZER] if there else others,
        }
        try:
            written = await self._client.patch(
                MODELVERSIONS, metadata["name"], {"metadata": change}, metadata["namespace"]
            )
        except errors.NotFound:
            self._versions.forget(Key(metadata["namespace"], metadata["name"]))
            return obj
        self._versions.observe(written)
        return written


async def let_go(client: Client, namespace: str) -> None:
    """Takes our finalizer from all versions of the operator's own namespace, where that is being deleted: the operator
    goes with it, and nobody would do so afterwards."""
    if not (await client.get(NAMESPACES, namespace))["metadata"].get("deletionTimestamp"):
        return
    for obj in await client.list(MODELVERSIONS, namespace):
        metadata = obj["metadata"]
        finalizers = metadata.get("finalizers") or ()
        if FINALIZER in finalizers:
            left = {"uid": metadata["uid"], "finalizers": [one for one in finalizers if one != FINALIZER]}
            with contextlib.suppress(errors.NotFound):
                await client.patch(MODELVERSIONS, metadata["name"], {"metadata": left}, namespace)
