"""What a person must agree to before a channel moves, and how that is written down."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from modelwright.api.base import ApiModel, StatusModel
from modelwright.api.rules import Rule
from modelwright.api.types import Items, each_once

APPROVED = "approved.modelwright.dev/"
"""Begins the annotation of a Model that approves a version for the channel named behind it."""
_LINES = 3

_ChannelName = Annotated[str, StringConstraints(min_length=1, max_length=30)]


class Approval(ApiModel):
    """Which channels move to another version only once somebody has approved it for them."""

    channels: Annotated[Items[_ChannelName], Field(max_length=32), each_once("channel", str)] = Field(
        description="The channels, of those of spec.channels.", json_schema_extra={"x-kubernetes-list-type": "set"}
    )
    by: Literal["Automatic", "Manual"] = Field(
        description="Manual: they wait for `modelwright approve`, by whoever may `approve` models. Automatic: they move"
        " by themselves, as all others do."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.channels.size() > 0",
            "name a channel or more, or leave approval out",
            lambda approval: len(approval.channels) > 0,
            field="channels",
        ),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Word:
    """Somebody's approval of one artifact for one channel. As an annotation: the name of the ModelVersion, its digest
    and the person's name, each on a line of its own, and the reason on the rest."""

    name: str
    digest: str
    by: str
    reason: str

    def to_text(self) -> str:
        return "\n".join((self.name, self.digest, self.by, self.reason))

    @classmethod
    def from_text(cls, text: str) -> Word | None:
        """What an annotation says; None where it is no approval."""
        lines = text.split("\n", _LINES)
        return cls(lines[0], lines[1], lines[2], lines[3].strip()) if len(lines) > _LINES else None


class ApprovalStatus(StatusModel):
    """Who approved what a channel points at."""

    by: str = Field(max_length=256, description="The user, as the API server knows them.")
    reason: str = Field(max_length=1024, description="Why.")
