"""The pods that train together: how many, how they share the work, and what happens when one fails."""

from __future__ import annotations

from decimal import Decimal
from typing import ClassVar, Literal

from pydantic import Field

from modelwright.api.base import ApiModel
from modelwright.api.pods import PodTemplateOverlay, Resources
from modelwright.api.rules import Rule
from modelwright.api.types import DecimalText, Duration, cel_is_decimal, duration_between


class Workers(ApiModel):
    """The pods that train together, each with the same share of every batch."""

    replicas: int = Field(default=1, ge=1, le=64, description="Number of workers, each a pod.")
    processes_per_worker: int | None = Field(
        default=None, ge=1, le=16, description="Training processes in each worker. Left out: one for each GPU, or 1."
    )
    resources: Resources | None = Field(default=None, description="What one worker needs.")
    pod_template: PodTemplateOverlay | None = Field(default=None, description="What to add to the workers' pods.")


class Strategy(ApiModel):
    """How the workers share the work."""

    type: Literal["DDP", "FSDP", "LocalSGD"] = Field(
        default="DDP",
        description="DDP: each process holds the whole model; gradients are averaged at every step. FSDP: each holds a"
        " share of every tensor, for models that are too large for one; the result is the same. LocalSGD: each trains"
        " by itself for localSteps steps, then the models are averaged; for slow networks.",
    )
    shard_size: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="With FSDP: processes that hold one copy of the model together; their number is a multiple of it."
        " Between the copies gradients are averaged. Left out: all processes hold one copy.",
    )
    local_steps: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="With LocalSGD, required: steps between two averagings. One is also made at the end of an epoch and"
        " before a stop.",
    )
    outer_learning_rate: DecimalText | None = Field(
        default=None,
        description="With LocalSGD: how much of the way from the last average to the new one is gone. Above 0, at most"
        ' 10. Left out: "1".',
    )
    outer_momentum: DecimalText | None = Field(
        default=None,
        description='With LocalSGD: Nesterov momentum of the way between averages. At least 0, below 1. Left out: "0".',
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.type == 'FSDP' || !has(self.shardSize)",
            "shardSize is of FSDP, and type is {self.type}; leave it out",
            lambda strategy: strategy.type == "FSDP" or strategy.shard_size is None,
            field="shardSize",
        ),
        Rule(
            "self.type == 'LocalSGD' || !(has(self.localSteps) || has(self.outerLearningRate)"
            " || has(self.outerMomentum))",
            "localSteps, outerLearningRate and outerMomentum are of LocalSGD, and type is {self.type}; leave them out",
            lambda strategy: (
                strategy.type == "LocalSGD"
                or (
                    strategy.local_steps is None
                    and strategy.outer_learning_rate is None
                    and strategy.outer_momentum is None
                )
            ),
        ),
        Rule(
            "self.type != 'LocalSGD' || has(self.localSteps)",
            "localSteps is required with LocalSGD: how many steps each process trains by itself, such as 16",
            lambda strategy: strategy.type != "LocalSGD" or strategy.local_steps is not None,
        ),
        Rule(
            f"!has(self.outerLearningRate) || !{cel_is_decimal('self.outerLearningRate')}"
            " || (double(self.outerLearningRate) > 0.0 && double(self.outerLearningRate) <= 10.0)",
            "{self.outerLearningRate} is out of range: above 0, at most 10",
            lambda strategy: strategy.outer_learning_rate is None or 0 < Decimal(strategy.outer_learning_rate) <= 10,
            field="outerLearningRate",
        ),
        Rule(
            f"!has(self.outerMomentum) || !{cel_is_decimal('self.outerMomentum')}"
            " || (double(self.outerMomentum) >= 0.0 && double(self.outerMomentum) < 1.0)",
            "{self.outerMomentum} is out of range: at least 0, below 1",
            lambda strategy: strategy.outer_momentum is None or 0 <= Decimal(strategy.outer_momentum) < 1,
            field="outerMomentum",
        ),
    )


class Checkpoint(ApiModel):
    """What a restarted or resumed training goes on from. One is also written when the job is suspended or evicted."""

    every_steps: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="With a recipe: global batches between two checkpoints. Left out: 50.",
    )
    keep: int = Field(default=2, ge=1, le=100, description="How many of the newest checkpoints are kept.")


class FailurePolicy(ApiModel):
    """What happens when a worker fails."""

    max_restarts: int = Field(
        default=3,
        ge=0,
        le=1000,
        description="How often the workers are started again, from the last checkpoint. Evictions, preemptions and the"
        " loss of a node are not counted.",
    )
    stall_timeout: Duration = Field(
        default="10m",
        description="A worker that shows no progress for so long counts as hung: the attempt ends, with the stacks of"
        " its processes in the pod's log and message. 10s to 24h.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (duration_between("stallTimeout", "10s", "24h", "stall_timeout"),)


class EarlyStopping(ApiModel):
    """When the training ends before all its epochs: as soon as a figure of the validation split gets no better."""

    metric: Literal["validation_loss", "validation_accuracy"] = Field(
        default="validation_loss", description="What is looked at after each epoch."
    )
    mode: Literal["Min", "Max"] | None = Field(
        default=None, description="Whether less is better, or more. Left out: Min for a loss, Max for an accuracy."
    )
    patience: int = Field(default=3, ge=1, le=1000, description="Epochs without a better figure that are waited for.")
