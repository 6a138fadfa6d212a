"""The pods that train together: how many, how they share the work, and what happens when one fails."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from modelwright.api.base import ApiModel
from modelwright.api.pods import PodTemplateOverlay, Resources
from modelwright.api.rules import Rule
from modelwright.api.types import Duration, duration_between


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

    type: Literal["DDP"] = Field(
        default="DDP", description="DDP: each worker holds the whole model; gradients are averaged after every batch."
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
