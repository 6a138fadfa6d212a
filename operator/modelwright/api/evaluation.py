"""How a trained model is measured, and how good it must be."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from modelwright.api.base import ApiModel
from modelwright.api.rules import Rule
from modelwright.api.slices import Slice
from modelwright.api.types import DecimalText, Items, cel_is_decimal, each_once

Metric = Literal[
    "accuracy", "auroc", "average_precision", "balanced_accuracy", "calibration_error", "explained_variance",
    "f1_macro", "f1_micro", "f1_min", "log_loss", "mae", "mse", "perplexity", "precision_macro", "precision_micro",
    "precision_min", "r2", "recall_macro", "recall_micro", "recall_min", "reconstruction_error", "rmse", "silhouette",
]  # fmt: skip
_BY_CLASS: tuple[Metric, ...] = (
    "precision_macro", "recall_macro", "f1_macro", "precision_micro", "recall_micro", "f1_micro", "precision_min",
    "recall_min", "f1_min",
)  # fmt: skip
MEASURED: Mapping[str, tuple[Metric, ...]] = {
    "AnomalyDetection": ("reconstruction_error", "explained_variance"),
    "Classification": (
        "accuracy", "balanced_accuracy", *_BY_CLASS, "auroc", "average_precision", "log_loss", "calibration_error",
    ),
    "Clustering": ("silhouette",),
    "LanguageModelling": ("accuracy", "log_loss", "perplexity"),
    "Regression": ("mae", "mse", "rmse", "r2", "explained_variance"),
}  # fmt: skip
"""By task."""
USUAL: frozenset[Metric] = frozenset(
    {"accuracy", "f1_macro", "log_loss", "mae", "perplexity", "r2", "reconstruction_error", "rmse", "silhouette"}
)
"""What status shows of those that are measured, where the user does not say."""
SHARES: tuple[Metric, ...] = ("accuracy", "balanced_accuracy", *_BY_CLASS)
"""Shares of rows, or means of such."""
AT_MOST_ONE: tuple[Metric, ...] = (*SHARES, "auroc", "average_precision", "calibration_error")
CEL_AT_MOST_ONE = f"[{', '.join(repr(metric) for metric in AT_MOST_ONE)}]"


def _cel_is_number(bound: str) -> str:
    return f"has(self.{bound}) && {cel_is_decimal(f'self.{bound}')}"


class Gate(ApiModel):
    """A bound on a metric, both ends included. A model outside is not published."""

    metric: Metric = Field(description="The metric, on the test split.")
    min: DecimalText | None = Field(default=None, description='The least that is good enough, such as "0.93".')
    max: DecimalText | None = Field(default=None, description='The most that is good enough, such as "0.3".')

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.min) || has(self.max)",
            "give min, max or both",
            lambda gate: gate.min is not None or gate.max is not None,
        ),
        Rule(
            f"!({_cel_is_number('min')} && {_cel_is_number('max')}) || double(self.min) <= double(self.max)",
            "no figure can pass: min is above max",
            lambda gate: gate.min is None or gate.max is None or Decimal(gate.min) <= Decimal(gate.max),
        ),
        Rule(
            f"!(self.metric in {CEL_AT_MOST_ONE}) || "
            + " && ".join(
                f"(!({_cel_is_number(bound)}) || (double(self.{bound}) >= 0.0 && double(self.{bound}) <= 1.0))"
                for bound in ("min", "max")
            ),
            '{self.metric} lies between 0 and 1; write 93 % as "0.93"',
            lambda gate: gate.metric not in AT_MOST_ONE or all(
                bound is None or 0 <= Decimal(bound) <= 1 for bound in (gate.min, gate.max)
            ),
        ),
    )  # fmt: skip


class Evaluation(ApiModel):
    """How the trained model is measured, and how good it must be."""

    metrics: Annotated[Items[Metric], Field(max_length=16, min_length=1), each_once("metric", str)] | None = Field(
        default=None,
        description="What status shows of what is measured on the test split, with the published files; the artifact's"
        " manifest has all. Left out: the usual ones of the task. docs/recipes.md says which there are.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    gates: Annotated[Items[Gate], Field(max_length=16), each_once("metric", lambda gate: gate.metric)] | None = Field(
        default=None,
        description="Bounds that the model must keep to be published.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["metric"]},
    )
    slices: Annotated[Items[Slice], Field(max_length=4)] | None = Field(
        default=None,
        description="With a recipe: parts of the test rows whose metrics are told apart, in status.slices and in the"
        " artifact's evaluation.json.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.gates) || !has(self.metrics) || self.gates.all(gate, gate.metric in self.metrics)",
            "a gate is on a metric that is not measured; add it to evaluation.metrics",
            lambda evaluation: (
                evaluation.metrics is None or all(gate.metric in evaluation.metrics for gate in evaluation.gates or ())
            ),
            field="gates",
        ),
    )

    @property
    def shown(self) -> frozenset[str]:
        """The metrics that status shows, of those that were measured."""
        return frozenset(self.metrics or {*USUAL, *(gate.metric for gate in self.gates or ())})
