"""How a version is compressed out of another: from which, and in which steps."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from modelwright.api.base import ApiModel
from modelwright.api.pods import PodTemplateOverlay, Resources
from modelwright.api.rules import Rule
from modelwright.api.types import Items, Variant, Version
from modelwright.api.version_steps import Step
from modelwright.api.version_target import CompressTarget
from modelwright.api.versions import model_version_name

MOST_STEPS = 16


class VersionChoice(ApiModel):
    """A version of the same model."""

    version: Version = Field(description="The version, such as 1.0.0.")
    variant: Variant | None = Field(default=None, description="Its variant. Left out: the original.")

    def name_of(self, model: str) -> str:
        """Of its ModelVersion."""
        return model_version_name(model, self.version, self.variant)


class Calibration(ApiModel):
    """The rows that Int8Static measures ranges on."""

    split: Literal["train", "validation"] = Field(
        default="train", description="Of the parent's data; never test, which the version is judged by."
    )
    rows: int = Field(default=512, ge=1, le=1_000_000, description="How many; all, where there are fewer.")


def _static(compress: Compress) -> bool:
    return any(step.quantize is not None and step.quantize.scheme == "Int8Static" for step in compress.steps or ())


def _quantized_last(compress: Compress) -> bool:
    return all(step.quantize is None for step in (compress.steps or ())[:-1])


class Compress(ApiModel):
    """A smaller or faster form of another version, made step by step."""

    # The name in the API is from, which Python keeps for itself.
    from_: VersionChoice = Field(
        alias="from", description="The version of the same model that it is made of; waited for until it is Ready."
    )
    calibration: Calibration | None = Field(
        default=None, description="With Int8Static: the rows to measure ranges on. Left out: 512 of train."
    )
    steps: Annotated[Items[Step], Field(max_length=MOST_STEPS)] | None = Field(
        default=None, description="In this order, each a Job of its own, and reported in status.steps."
    )
    target: CompressTarget | None = Field(
        default=None, description="In place of steps: what the version must be; a search finds the steps."
    )
    seed: int = Field(
        default=0, ge=0, le=2**32 - 1, description="Of all that is drawn: the order of rows, first values of clusters."
    )
    resources: Resources | None = Field(default=None, description="What the pod of each step needs.")
    pod_template: PodTemplateOverlay | None = Field(
        default=None, description="What to add to the pods: the volume of a store that is file://."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.steps) != has(self.target)",
            "give exactly one of steps, and target, for which a search finds the steps",
            lambda compress: (compress.steps is None) != (compress.target is None),
        ),
        Rule(
            "!has(self.steps) || self.steps.size() > 0",
            "there is nothing to do; write one step or more",
            lambda compress: compress.steps is None or len(compress.steps) > 0,
            field="steps",
        ),
        Rule(
            "!has(self.calibration) || (has(self.steps)"
            " && self.steps.exists(step, has(step.quantize) && step.quantize.scheme == 'Int8Static'))",
            "calibration is of a step quantize with the scheme Int8Static; leave it out",
            lambda compress: compress.calibration is None or _static(compress),
            field="calibration",
        ),
        Rule(
            "!has(self.steps) || !self.steps.exists(step, has(step.quantize))"
            " || (self.steps.filter(step, has(step.quantize)).size() == 1"
            " && has(self.steps[self.steps.size() - 1].quantize))",
            "quantize comes last, and once: after it there is no module that another step could change",
            _quantized_last,
            field="steps",
        ),
    )
