"""What happens when a channel moves: it is resolved to a version that is Ready, or says why it cannot be."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from modelwright.api.base import StatusRef
from modelwright.api.errors import problems
from modelwright.api.model import Channel, ChannelStatus, Model, ModelStatus
from modelwright.api.versions import model_version_name, precedence
from modelwright.controllers.modelversion.observed import VersionView
from modelwright.controllers.shell import Objects
from modelwright.kube import conditions
from modelwright.kube.conditions import State
from modelwright.kube.reflector import Reflector
from modelwright.kube.resources import Key


def resolved(model: str, channel: Channel, versions: Sequence[VersionView]) -> ChannelStatus:
    """What a channel points at, of the model's versions."""
    variant = channel.variant or ""
    candidates = [one for one in versions if one.variant == variant and not one.deleting]
    if channel.version is not None:
        found = next((one for one in candidates if one.version == channel.version), None)
        if found is None:
            name = model_version_name(model, channel.version, channel.variant)
            return ChannelStatus(message=f"ModelVersion {name} does not exist")
    else:
        ready = [one for one in candidates if one.ready]
        found = max(ready, key=lambda one: precedence(one.version), default=None)
        if found is None:
            return ChannelStatus(message=f"no version{f' of variant {variant}' if variant else ''} is Ready")
    if not found.ready:
        return ChannelStatus(message=f"ModelVersion {found.key.name} is not Ready")
    return ChannelStatus(
        version=found.version,
        variant=found.variant or None,
        digest=found.digest,
        model_version_ref=StatusRef(name=found.key.name),
    )


def plan(model: Model, versions: Sequence[VersionView]) -> tuple[ModelStatus, State]:
    """The status of a model from its versions. A channel that cannot be resolved now keeps what it pointed at where
    that is still there, so that a slip in Git takes nothing from those who subscribe."""
    before = model.status.channels or {}
    there = {one.key.name for one in versions if one.ready and not one.deleting}
    channels: dict[str, ChannelStatus] = {}
    for name, channel in sorted((model.spec.channels or {}).items()):
        now = resolved(model.metadata.name, channel, versions)
        kept = before.get(name)
        if now.message and kept and kept.model_version_ref and kept.model_version_ref.name in there:
            now = kept.model_copy(update={"message": f"{now.message}; it stays at {kept.version}"})
        channels[name] = now
    waiting = [f"{name}: {one.message}" for name, one in channels.items() if one.message]
    newest = [one for one in versions if one.ready and not one.variant and not one.deleting]
    latest = max(newest, key=lambda one: precedence(one.version), default=None)
    told = [
        f"{name}={one.version}{f'/{one.variant}' if one.variant else ''}"
        for name, one in channels.items()
        if one.version
    ]
    status = model.status.model_copy(
        update={
            "phase": "Waiting" if waiting else "Ready",
            "observed_generation": model.metadata.generation,
            "channels": channels or None,
            "summary": " ".join(told)[:1024] or None,
            "versions": len(versions),
            "latest": latest.version if latest else None,
        }
    )
    if waiting:
        return status, conditions.in_progress("Ready", "ChannelUnresolved", "; ".join(waiting))
    words = ", ".join(told) or "it has no channels"
    return status, conditions.achieved("Ready", "Resolved", words)


class ModelController:
    """Reconciles one Model at a time by its key. `versions` is indexed as `model` by (namespace, model)."""

    def __init__(self, objects: Objects, versions: Reflector[VersionView]) -> None:
        self._objects = objects
        self._versions = versions

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
        status, state = plan(model, self._versions.by_index("model", key))
        if (model.status.summary or "") != (status.summary or "") and status.summary:
            self._objects.tell(obj, "ChannelsResolved", status.summary, warning=False)
        await self._objects.put_status(obj, status, state)
        return None
