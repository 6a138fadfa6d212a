"""The decisions of a Model, pure: what its channels point at, and who serves what."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from modelwright.api.model import ChannelStatus, Model, ModelStatus, ServedVersion
from modelwright.api.versions import precedence
from modelwright.controllers.model.channels import followed, newest, taken_back
from modelwright.controllers.model.uses import ServiceUse, first, told, users
from modelwright.controllers.modelversion.observed import VersionView
from modelwright.kube import conditions
from modelwright.kube.conditions import State

_SHOWN = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    reason: str
    note: str
    warning: bool = False


def plan(model: Model, versions: Sequence[VersionView], uses: Sequence[ServiceUse] = ()) -> tuple[ModelStatus, State]:
    """The status of a model from its versions, and the services of the model."""
    channels = {one: followed(model, one, versions) for one in sorted(model.spec.channels or {})}
    waiting = [f"{one}: {status.message}" for one, status in channels.items() if status.message]
    retracted = [one for one, status in channels.items() if status.message and taken_back(model, one, versions)]
    latest = newest(versions)
    pointed = [f"{one}={_label(status)}" for one, status in channels.items() if status.version]
    served = _served(versions, uses, channels)
    status = model.status.model_copy(
        update={
            "phase": "Waiting" if waiting else "Ready",
            "observed_generation": model.metadata.generation,
            "channels": channels or None,
            "summary": " ".join(pointed)[:1024] or None,
            "versions": len(versions),
            "latest": latest.version if latest else None,
            "served": served[:_SHOWN] or None,
            "serving": "; ".join(f"{_label(one)} by {told(one.services)}" for one in served)[:1024] or None,
        }
    )
    if retracted:
        # Nothing comes of itself: what was asked for was taken back.
        words = f"{'; '.join(waiting)}. Point the channel at another version"
        return status, conditions.stalled("Ready", "VersionRetracted", words)
    if waiting:
        unapproved = all(one.waits_for for one in channels.values() if one.message)
        reason = "WaitingForApproval" if unapproved else "ChannelUnresolved"
        return status, conditions.in_progress("Ready", reason, "; ".join(waiting))
    words = ", ".join(pointed) or "it has no channels"
    return status, conditions.achieved("Ready", "Resolved", words)


def events(before: ModelStatus, status: ModelStatus) -> list[Event]:
    """What is told of a change from one status to the next."""
    found = []
    if (before.summary or "") != (status.summary or "") and status.summary:
        found.append(Event("ChannelsResolved", status.summary))
    known = before.channels or {}
    for name, channel in (status.channels or {}).items():
        was = known.get(name) or ChannelStatus()
        if channel.waits_for is not None and channel.waits_for != was.waits_for:
            found.append(Event("WaitingForApproval", f"{name}: {channel.message}"))
        if channel.approved is not None and (was.digest, was.approved) != (channel.digest, channel.approved):
            words = f"{name}: {_label(channel)} by {channel.approved.by}: {channel.approved.reason}"
            found.append(Event("Approved", words[:1024]))
        if (
            channel.waits_for is None
            and channel.message
            and channel.version
            and was.version
            and _label(was) != _label(channel)
        ):
            found.append(Event("ChannelMovedBack", f"{name}: {channel.message}", warning=True))
    return found


def _served(
    versions: Sequence[VersionView], uses: Sequence[ServiceUse], channels: dict[str, ChannelStatus]
) -> tuple[ServedVersion, ...]:
    """The newest first. A version that is gone, and still served, is not among them: its services name it."""
    pointed = {name: one.model_version_ref.name for name, one in channels.items() if one.model_version_ref}
    found = []
    for one in sorted(versions, key=lambda one: (precedence(one.version), one.variant), reverse=True):
        services = first(users(one.key.name, uses, pointed))
        if services:
            found.append(
                ServedVersion(name=one.key.name, version=one.version, variant=one.variant or None, services=services)
            )
    return tuple(found)


def _label(one: ChannelStatus | ServedVersion) -> str:
    return f"{one.version}/{one.variant}" if one.variant else str(one.version)
