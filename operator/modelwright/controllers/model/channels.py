"""What a channel resolves to: what it names, or the newest, once that is approved where it must be; and where it goes
when that is taken back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from modelwright.api.base import StatusRef
from modelwright.api.model import HISTORY, Channel, ChannelStatus, HeldVersion, Model
from modelwright.api.versions import model_version_name, precedence
from modelwright.controllers.model import approvals
from modelwright.controllers.modelversion.observed import VersionView


def newest(versions: Iterable[VersionView], variant: str = "") -> VersionView | None:
    """Of those that a channel may point at."""
    there = (one for one in versions if one.usable and one.variant == variant)
    return max(there, key=lambda one: precedence(one.version), default=None)


def pointed_at(version: VersionView) -> ChannelStatus:
    return ChannelStatus(
        version=version.version,
        variant=version.variant or None,
        digest=version.digest,
        model_version_ref=StatusRef(name=version.key.name),
    )


def resolved(model: str, channel: Channel, versions: Sequence[VersionView]) -> ChannelStatus:
    """What a channel asks for, of the model's versions; or why there is none."""
    variant = channel.variant or ""
    if channel.version is None:
        found = newest(versions, variant)
        if found is None:
            return ChannelStatus(message=f"no version{f' of variant {variant}' if variant else ''} is Ready")
        return pointed_at(found)
    name = model_version_name(model, channel.version, channel.variant)
    found = next((one for one in versions if one.key.name == name), None)
    if found is None:
        return ChannelStatus(message=f"ModelVersion {name} does not exist")
    if found.deleting:
        return ChannelStatus(message=f"ModelVersion {name} is being deleted")
    if found.retracted:
        return ChannelStatus(message=f"ModelVersion {name} is retracted ({found.retracted})")
    return pointed_at(found) if found.ready else ChannelStatus(message=f"ModelVersion {name} is not Ready")


def followed(model: Model, name: str, versions: Sequence[VersionView]) -> ChannelStatus:
    """What the channel of this name points at, from what it did before.

    One that cannot be resolved now, or may not move yet, keeps what it pointed at, where that is still there, so that a
    slip in Git takes nothing from those who subscribe. Where a version was taken back, it goes back to what it pointed
    at last of all that can be used; nobody need approve that, since it was there before.
    """
    channel, before = (model.spec.channels or {})[name], (model.status.channels or {}).get(name) or ChannelStatus()
    views = {one.key.name: one for one in versions}
    now, waits_for = resolved(model.metadata.name, channel, versions), None
    wanted = views.get(now.model_version_ref.name) if now.model_version_ref else None
    if wanted is not None and not approvals.may_move(model, name, before, wanted):
        now = ChannelStatus(message=approvals.waits(model.metadata.name, name, wanted))
        waits_for = approvals.held_version(wanted)
    if now.message:
        held = before.model_version_ref.name if before.model_version_ref else ""
        back_again = taken_back(model, name, versions)
        names = [held, *(one.name for one in before.history or () if back_again)]
        back = next((view for one in names if (view := views.get(one)) is not None and view.usable), None)
        if back is not None:
            verb = "went back to" if back_again else "stays at"
            said = f"{now.message}; it {verb} {back.version}{f'/{back.variant}' if back.variant else ''}"
            now = pointed_at(back).model_copy(update={"message": said[:1024]})
    current = views.get(now.model_version_ref.name) if now.model_version_ref else None
    return now.model_copy(
        update={
            "waits_for": waits_for,
            "approved": approvals.approved(model, name, before, current) if current is not None else None,
            "history": _history(before, now),
        }
    )


def taken_back(model: Model, name: str, versions: Sequence[VersionView]) -> bool:
    """Whether what the channel names, or points at, is retracted."""
    channel, before = (model.spec.channels or {})[name], (model.status.channels or {}).get(name)
    names = {before.model_version_ref.name} if before and before.model_version_ref else set()
    if channel.version is not None:
        names.add(model_version_name(model.metadata.name, channel.version, channel.variant))
    return any(one.retracted and one.key.name in names for one in versions)


def _history(before: ChannelStatus, now: ChannelStatus) -> tuple[HeldVersion, ...] | None:
    """What it pointed at before this, each once."""
    held = before.history or ()
    left = before.model_version_ref
    current = now.model_version_ref.name if now.model_version_ref else ""
    if left is not None and before.version is not None and left.name != current:
        held = (
            HeldVersion(name=left.name, version=before.version, variant=before.variant, digest=before.digest),
            *held,
        )
    once = {one.name: one for one in reversed(held) if one.name != current}
    return tuple(reversed(once.values()))[:HISTORY] or None
