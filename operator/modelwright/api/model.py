"""Model: what people decide about a model, in Git: which version each channel points at."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from modelwright.api.base import AGE, NAME_RULE, ApiModel, ApiObject, Column, Names, StatusModel, StatusRef
from modelwright.api.conditions import CONDITIONS_SCHEMA, Condition, before_the_first_look, conditions_field
from modelwright.api.model_approval import Approval, ApprovalStatus
from modelwright.api.model_retention import Retention, RetentionStatus
from modelwright.api.model_version import VersionUse
from modelwright.api.rules import Rule, Rules, cel_matches
from modelwright.api.types import Items, Variant, Version

ModelPhase = Literal["Pending", "Waiting", "Ready"]

HISTORY = 32
"""So many versions are remembered of a channel."""
_CHANNEL_PATTERN = "[a-z]([a-z0-9-]{0,28}[a-z0-9])?"


class Channel(ApiModel):
    """What a channel points at: a version by its number, or the newest."""

    version: Version | None = Field(default=None, description="This version. Promotion and rollback change this line.")
    latest: Literal[True] | None = Field(
        default=None,
        description="Whichever version is newest of those that are Ready and not retracted, in the order of SemVer.",
    )
    variant: Variant | None = Field(
        default=None, description="The variant of that version, such as int8. Left out: the original."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.version) != has(self.latest)",
            "give exactly one of version and latest",
            lambda channel: (channel.version is None) != (channel.latest is None),
        ),
    )


Channels = Annotated[
    Mapping[str, Channel],
    Field(max_length=32),
    Rules(
        Rule(
            f"self.all(name, {cel_matches('name', _CHANNEL_PATTERN)})",
            "a channel's name has at most 30 lower-case letters, digits and hyphens, and begins with a letter",
            lambda channels: all(re.fullmatch(_CHANNEL_PATTERN, name) for name in channels),
        )
    ),
]


class ModelSpec(ApiModel):
    """What is decided about the model."""

    channels: Channels | None = Field(
        default=None, description="By name, what each channel points at: stable, candidate, or whatever you call them."
    )
    approval: Approval | None = Field(
        default=None, description="Which channels wait for a person before they move. Left out: none."
    )
    retention: Retention | None = Field(
        default=None,
        description="Which versions are kept, and what becomes of the others. Left out: all are kept, and the store is"
        " never cleaned up.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.approval) || self.approval.channels.all(name, has(self.channels) && name in self.channels)",
            "approval.channels names a channel that spec.channels does not have; add it there, or take it out here",
            lambda spec: spec.approval is None or set(spec.approval.channels) <= set(spec.channels or {}),
            field="approval.channels",
        ),
    )


class HeldVersion(StatusRef):
    """A version that a channel has pointed at: the name of its ModelVersion."""

    version: str = Field(max_length=32, description="The version.")
    variant: str | None = Field(default=None, max_length=20, description="Its variant, where it is one.")
    digest: str | None = Field(default=None, max_length=71, description="sha256 of its artifact's manifest.")


class ChannelStatus(StatusModel):
    """What a channel resolves to."""

    version: str | None = Field(default=None, max_length=32, description="The version.")
    variant: str | None = Field(default=None, max_length=20, description="Its variant, where it is one.")
    digest: str | None = Field(default=None, max_length=71, description="sha256 of its artifact's manifest.")
    model_version_ref: StatusRef | None = Field(default=None, description="The ModelVersion.")
    message: str | None = Field(
        default=None, max_length=1024, description="Why it resolves to nothing, or not to what was asked for."
    )
    waits_for: HeldVersion | None = Field(
        default=None, description="What it moves to once somebody has approved it: `modelwright approve`."
    )
    approved: ApprovalStatus | None = Field(default=None, description="Who approved the version for this channel.")
    history: Items[HeldVersion] | None = Field(
        default=None,
        max_length=HISTORY,
        description="What it resolved to before, the latest first, each version once. To the first of these that can be"
        " used it goes back when its version is retracted.",
    )


class ServedVersion(StatusRef):
    """A version that is served, or about to be: the name of its ModelVersion."""

    version: str = Field(max_length=32, description="The version.")
    variant: str | None = Field(default=None, max_length=20, description="Its variant, where it is one.")
    services: Items[VersionUse] = Field(max_length=64, description="By whom; the first 64.")


class ModelStatus(StatusModel):
    """What the model's channels resolve to."""

    phase: ModelPhase = Field(
        default="Pending",
        description="For people's eyes; programs read the conditions. Waiting: a channel points at a version that does"
        " not exist, is not Ready or is retracted.",
    )
    observed_generation: int | None = Field(default=None, ge=0, description="The generation that status is about.")
    conditions: Items[Condition] | None = Field(
        default=None, max_length=16, description=conditions_field("Ready"), json_schema_extra=CONDITIONS_SCHEMA
    )
    channels: Mapping[str, ChannelStatus] | None = Field(
        default=None, max_length=32, description="What each channel resolves to, by its name."
    )
    summary: str | None = Field(
        default=None,
        max_length=1024,
        description="The channels on one line, for people: candidate=1.1.0 stable=1.0.0.",
    )
    versions: int | None = Field(default=None, ge=0, description="How many ModelVersions there are, with variants.")
    latest: str | None = Field(
        default=None, max_length=32, description="The newest version that is Ready and not retracted."
    )
    served: Items[ServedVersion] | None = Field(
        default=None, max_length=64, description="Who serves which version, or is about to; the newest 64."
    )
    retention: RetentionStatus | None = Field(default=None, description="What became of versions that are not kept.")
    serving: str | None = Field(
        default=None, max_length=1024, description="The same on one line, for people: 1.1.0 by digits (next)."
    )


class Model(ApiObject):
    """What people decide about a model, in Git: which version each channel points at."""

    spec: ModelSpec = Field(description="What is decided.")
    status: ModelStatus = Field(
        default=ModelStatus(conditions=before_the_first_look("Ready")),
        description="What came of it; written by the operator.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (NAME_RULE,)
    names: ClassVar[Names] = Names(
        plural="models",
        singular="model",
        short=("mwmodel",),
        main_condition="Ready",
        columns=(
            Column("Phase", ".status.phase", "Where it stands."),
            Column("Channels", ".status.summary", "What each channel resolves to."),
            Column("Served", ".status.serving", "Who serves which version.", priority=1),
            Column("Latest", ".status.latest", "The newest version that is Ready and not retracted."),
            Column("Versions", ".status.versions", "How many versions there are.", "integer"),
            Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', "Why it is ready, or not."),
            AGE,
            Column("Message", '.status.conditions[?(@.type=="Ready")].message', "Why, in words.", priority=1),
        ),
    )
