"""How a version is combined of several: which, and how their answers become one."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from modelwright.api.base import ApiModel
from modelwright.api.pods import PodTemplateOverlay, Resources
from modelwright.api.rules import Rule
from modelwright.api.types import DecimalText, Items
from modelwright.api.version_compress import VersionChoice
from modelwright.api.version_steps import above_zero

MOST_MEMBERS = 16
_WEIGHTED = ("Vote", "Weighted")
_CEL_SAME = "(has(other.variant) ? other.variant : '') == (has(member.variant) ? member.variant : '')"


class CombinedVersion(VersionChoice):
    """A version of the same model, and how much it counts."""

    weight: DecimalText | None = Field(
        default=None, description='With Vote and Weighted: how much it counts, such as "2". Left out: 1.'
    )

    rules: ClassVar[tuple[Rule, ...]] = (above_zero("weight", "weight", "1"),)


class Combine(ApiModel):
    """Several versions whose answers become one: one graph, evaluated and served like any version."""

    members: Annotated[Items[CombinedVersion], Field(max_length=MOST_MEMBERS)] = Field(
        description="Versions of the same model, with the same inputs, outputs and classes; waited for until all are"
        " Ready."
    )
    method: Literal["Vote", "Mean", "Weighted", "Stack"] = Field(
        default="Mean",
        description="Vote: the class that most choose. Mean: the mean of probabilities, or of predicted numbers."
        " Weighted: the same, each by its weight. Stack: a model fitted on their answers, out of fold.",
    )
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="Of all that is drawn: the folds of Stack.")
    resources: Resources | None = Field(default=None, description="What the pod needs.")
    pod_template: PodTemplateOverlay | None = Field(
        default=None, description="What to add to the pod: the volume of a store that is file://."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.members.size() > 1",
            "one version is no combination; write two members or more",
            lambda combine: len(combine.members) > 1,
            field="members",
        ),
        Rule(
            f"self.members.all(member, self.members.exists_one(other, other.version == member.version && {_CEL_SAME}))",
            "each version once; a member that counts more has a weight",
            lambda combine: len({(one.version, one.variant) for one in combine.members}) == len(combine.members),
            field="members",
        ),
        Rule(
            "self.method in ['Vote', 'Weighted'] || !self.members.exists(member, has(member.weight))",
            "weight is of the methods Vote and Weighted, and {self.method} counts all alike or by itself; leave it out",
            lambda combine: combine.method in _WEIGHTED or all(one.weight is None for one in combine.members),
            field="members",
        ),
    )
