"""Whether a channel may move to a version: where a person is to approve it, once one has, or where the channel held
just this artifact before."""

from __future__ import annotations

from modelwright.api.model import ChannelStatus, HeldVersion, Model
from modelwright.api.model_approval import APPROVED, ApprovalStatus, Word
from modelwright.controllers.modelversion.observed import VersionView


def is_guarded(model: Model, channel: str) -> bool:
    """Whether a person approves what the channel moves to."""
    approval = model.spec.approval
    return approval is not None and approval.by == "Manual" and channel in approval.channels


def word_for(model: Model, channel: str, version: VersionView) -> Word | None:
    """What was said for the channel, where it is of just this artifact."""
    word = Word.from_text(model.metadata.annotations.get(f"{APPROVED}{channel}", ""))
    same = word is not None and (word.name, word.digest) == (version.key.name, version.digest)
    return word if same else None


def may_move(model: Model, channel: str, before: ChannelStatus, version: VersionView) -> bool:
    if not is_guarded(model, channel) or word_for(model, channel, version) is not None:
        return True
    held = {(one.name, one.digest) for one in before.history or ()}
    if before.model_version_ref is not None:
        held.add((before.model_version_ref.name, before.digest))
    return (version.key.name, version.digest) in held


def approved(model: Model, channel: str, before: ChannelStatus, version: VersionView) -> ApprovalStatus | None:
    """Who approved the version, which the channel points at now."""
    word = word_for(model, channel, version) if is_guarded(model, channel) else None
    if word is not None:
        return ApprovalStatus(by=word.by[:256], reason=word.reason[:1024])
    same = before.model_version_ref is not None and before.model_version_ref.name == version.key.name
    return before.approved if same and before.digest == version.digest else None


def waits(model: str, channel: str, version: VersionView) -> str:
    """The message of a channel that waits for somebody's word."""
    variant = f" --variant {version.variant}" if version.variant else ""
    return (
        f"ModelVersion {version.key.name} waits for approval: modelwright approve {model} {channel}"
        f" --version {version.version}{variant} --reason …"
    )


def held_version(version: VersionView) -> HeldVersion:
    return HeldVersion(
        name=version.key.name, version=version.version, variant=version.variant or None, digest=version.digest
    )
