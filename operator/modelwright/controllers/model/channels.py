"""What a channel resolves to: what it names, or the newest; and where it goes when that is taken back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from modelwright.api.base import StatusRef
from modelwright.api.model import HISTORY, Channel, ChannelStatus, HeldVersion
from modelwright.api.versions import model_version_name, precedence
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


def followed(
    model: str, channel: Channel, before: ChannelStatus | None, versions: Sequence[VersionView]
) -> ChannelStatus:
    """What a channel points at, from what it did `before`.

    One that cannot be resolved now keeps what it pointed at, where that is still there, so that a slip in Git takes
    nothing from those who subscribe. Where a version was taken back, it goes back to what it pointed at last of all
    that can be used.
    """
    before = before or ChannelStatus()
    now = resolved(model, channel, versions)
    if now.message:
        views = {one.key.name: one for one in versions}
        held = before.model_version_ref.name if before.model_version_ref else ""
        back_again = taken_back(model, channel, before, versions)
        names = [held, *(one.name for one in before.history or () if back_again)]
        back = next((view for name in names if (view := views.get(name)) is not None and view.usable), None)
        if back is not None:
            verb = "went back to" if back_again else "stays at"
            said = f"{now.message}; it {verb} {back.version}{f'/{back.variant}' if back.variant else ''}"
            now = pointed_at(back).model_copy(update={"message": said[:1024]})
    return now.model_copy(update={"history": _history(before, now)})


def taken_back(model: str, channel: Channel, before: ChannelStatus, versions: Sequence[VersionView]) -> bool:
    """Whether what the channel names, or points at, is retracted."""
    names = {before.model_version_ref.name} if before.model_version_ref else set()
    if channel.version is not None:
        names.add(model_version_name(model, channel.version, channel.variant))
    return any(one.retracted and one.key.name in names for one in versions)


def _history(before: ChannelStatus, now: ChannelStatus) -> tuple[HeldVersion, ...] | None:
    """What it pointed at before this, each once."""
    held = before.history or ()
    left = before.model_version_ref
    current = now.model_version_ref.name if now.model_version_ref else ""
    if left is not None and before.version is not None and left.name != current:
        held = (HeldVersion(name=left.name, version=before.version, variant=before.variant), *held)
    once = {one.name: one for one in reversed(held) if one.name != current}
    return tuple(reversed(once.values()))[:HISTORY] or None
