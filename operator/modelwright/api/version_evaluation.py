"""How a version that is made out of others is measured, and how good it must be."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from modelwright.api.base import ApiModel
from modelwright.api.evaluation import AT_MOST_ONE, CEL_AT_MOST_ONE, USUAL, Metric
from modelwright.api.rules import Rule
from modelwright.api.training_data import DatasetRef
from modelwright.api.types import DecimalText, Items, Name, Variant, Version, cel_is_decimal, each_once
from modelwright.api.versions import model_version_name


class Comparison(ApiModel):
    """What a metric is compared with: a version of the same model, or what a channel of it points at."""

    version: Version | None = Field(default=None, description="The version, such as 1.0.0.")
    variant: Variant | None = Field(default=None, description="With version: its variant.")
    channel: Name | None = Field(
        default=None, description="A channel of the Model of this name: what it points at when the work begins."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.version) != has(self.channel)",
            "give exactly one of version and channel",
            lambda against: (against.version is None) != (against.channel is None),
        ),
        Rule(
            "!has(self.variant) || has(self.version)",
            "variant is of version; a channel says itself which it points at: leave it out",
            lambda against: against.variant is None or against.version is not None,
            field="variant",
        ),
    )

    def name_of(self, model: str) -> str | None:
        """Of its ModelVersion; None of a channel."""
        return model_version_name(model, self.version, self.variant) if self.version is not None else None


def _number(bound: str) -> str:
    return f"has(self.{bound}) && {cel_is_decimal(f'self.{bound}')}"


class VersionGate(ApiModel):
    """A bound on a metric, ends included. A version outside is not published."""

    metric: Metric = Field(description="The metric, on the split of the evaluation.")
    min: DecimalText | None = Field(default=None, description='The least that is good enough, such as "0.93".')
    max: DecimalText | None = Field(default=None, description='The most that is good enough, such as "0.3".')
    max_regression: DecimalText | None = Field(
        default=None,
        description='How much worse than `against` it may be, such as "0.01": lower where more is better, as of'
        " accuracy, higher where less is, as of log_loss.",
    )
    against: Comparison | None = Field(
        default=None,
        description="With maxRegression: what it is compared with, measured on the same rows. Left out: the version"
        " that it is made of, of several the best.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.min) || has(self.max) || has(self.maxRegression)",
            "give min, max or maxRegression",
            lambda gate: not (gate.min is None and gate.max is None and gate.max_regression is None),
        ),
        Rule(
            f"!({_number('min')} && {_number('max')}) || double(self.min) <= double(self.max)",
            "no figure can pass: min is above max",
            lambda gate: gate.min is None or gate.max is None or Decimal(gate.min) <= Decimal(gate.max),
        ),
        Rule(
            f"!(self.metric in {CEL_AT_MOST_ONE}) || "
            + " && ".join(
                f"(!({_number(bound)}) || (double(self.{bound}) >= 0.0 && double(self.{bound}) <= 1.0))"
                for bound in ("min", "max", "maxRegression")
            ),
            '{self.metric} lies between 0 and 1; write 93 % as "0.93"',
            lambda gate: gate.metric not in AT_MOST_ONE or all(
                bound is None or 0 <= Decimal(bound) <= 1 for bound in (gate.min, gate.max, gate.max_regression)
            ),
        ),
        Rule(
            f"!({_number('maxRegression')}) || self.metric in {CEL_AT_MOST_ONE} || double(self.maxRegression) >= 0.0",
            'maxRegression {self.maxRegression} is below 0; write how much worse it may be, such as "0.01"',
            lambda gate: (
                gate.max_regression is None or gate.metric in AT_MOST_ONE or Decimal(gate.max_regression) >= 0
            ),
            field="maxRegression",
        ),
        Rule(
            "!has(self.against) || has(self.maxRegression)",
            "against is what maxRegression is compared with; give both, or leave it out",
            lambda gate: gate.against is None or gate.max_regression is not None,
            field="against",
        ),
    )  # fmt: skip


class VersionEvaluation(ApiModel):
    """How the version is measured, with its final files in its own runtime, and how good it must be."""

    dataset_ref: DatasetRef | None = Field(
        default=None,
        description="A Dataset to measure on; waited for until it has Succeeded. Left out: the data that the version it"
        " is made of was trained on.",
    )
    split: Literal["train", "validation", "test"] = Field(default="test", description="The rows to measure on.")
    gates: Annotated[Items[VersionGate], Field(max_length=16), each_once("metric", lambda gate: gate.metric)] | None = (
        Field(
            default=None,
            description="Bounds that the version must keep to be published.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["metric"]},
        )
    )

    @property
    def shown(self) -> frozenset[str]:
        """The metrics that status shows of each step."""
        return frozenset({*USUAL, *(gate.metric for gate in self.gates or ())})
