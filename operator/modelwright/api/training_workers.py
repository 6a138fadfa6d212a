"""The pods that train together: how many, how they share the work, and what happens when one fails."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from modelwright.api.base import ApiModel
from modelwright.api.pods import PodTemplateOverlay, Resources
from modelwright.api.rules import Rule, Rules, cel_matches
from modelwright.api.types import DecimalText, Duration, cel_is_decimal, duration_between

# Names of objects that others make: DNS subdomains.
_SUBDOMAIN = "[a-z0-9]([a-z0-9.-]*[a-z0-9])?"


def _subdomain(what: str) -> Rules:
    return Rules(
        Rule(
            cel_matches("self", _SUBDOMAIN),
            f"'{{self}}' is not {what}; write lower-case letters, digits, hyphens and dots",
            lambda text: re.fullmatch(_SUBDOMAIN, text) is not None,
        )
    )


_PLACE = "/[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*"
_OF_A_VOLUME = Rules(
    Rule(
        cel_matches("self", _PLACE) + " && !self.contains('..') && !self.startsWith('/tmp')",
        "'{self}' is no place for a volume; write an absolute path such as /checkpoints, not below /tmp",
        lambda path: re.fullmatch(_PLACE, path) is not None and ".." not in path and not path.startswith("/tmp"),  # noqa: S108
    )
)
PriorityClassName = Annotated[str, StringConstraints(min_length=1, max_length=253), _subdomain("a PriorityClass")]
# It becomes a label's value.
QueueName = Annotated[str, StringConstraints(min_length=1, max_length=63), _subdomain("a queue's name")]


class Workers(ApiModel):
    """The pods that train together, each with the same share of every batch."""

    replicas: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Number of workers, each a pod. Changed in mid-run: the workers save a checkpoint and end, and so"
        " many go on from there.",
    )
    min_replicas: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="With how few workers to go on where there is no room for all: where some of an attempt's pods"
        " cannot be scheduled for 45 s, another attempt follows with as many as found room. The next attempt after that"
        " one asks for all again. Left out: it waits for room for all.",
    )
    processes_per_worker: int | None = Field(
        default=None, ge=1, le=16, description="Training processes in each worker. Left out: one for each GPU, or 1."
    )
    resources: Resources | None = Field(default=None, description="What one worker needs.")
    priority_class_name: PriorityClassName | None = Field(
        default=None, description="The PriorityClass of the workers' pods. Left out: the cluster's default."
    )
    pod_template: PodTemplateOverlay | None = Field(default=None, description="What to add to the workers' pods.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.minReplicas) || self.minReplicas <= self.replicas",
            "minReplicas is above replicas; write at most as many",
            lambda workers: workers.min_replicas is None or workers.min_replicas <= workers.replicas,
            field="minReplicas",
        ),
    )


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


class LocalCheckpoint(ApiModel):
    """Checkpoints on a volume of the workers' own, more often than the store's. A restarted training goes on from the
    newest of both, where all its processes find theirs again."""

    path: Annotated[str, StringConstraints(min_length=2, max_length=256), _OF_A_VOLUME] = Field(
        description="Where workers.podTemplate mounts a volume that outlives a pod, such as a node's folder or a claim,"
        " with room for two checkpoints."
    )
    every_steps: int = Field(ge=1, le=1_000_000, description="Global batches between two of them.")


class Checkpoint(ApiModel):
    """What a restarted or resumed training goes on from. One is also written when the job is suspended or evicted."""

    every_steps: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="With a recipe: global batches between two checkpoints. Left out: 50.",
    )
    keep: int = Field(default=2, ge=1, le=100, description="How many of the newest checkpoints are kept.")
    local: LocalCheckpoint | None = Field(
        default=None, description="With a recipe: checkpoints on a volume of the workers' own, besides. Left out: none."
    )


class FailurePolicy(ApiModel):
    """What happens when a worker fails."""

    max_restarts: int = Field(
        default=3,
        ge=0,
        le=1000,
        description="How often the workers are started again, from the last checkpoint. Evictions, preemptions, the"
        " loss of a node, suspensions and changes of the spec are not counted. The same error at the same step twice in"
        " a row is not tried again.",
    )
    stall_timeout: Duration = Field(
        default="10m",
        description="A worker that shows no progress for so long counts as hung: the attempt ends, with the stacks of"
        " its processes in the pod's log and message. 10s to 24h.",
    )
    active_deadline: Duration | None = Field(
        default=None,
        description="How long it may take in all, from the start of the first attempt and over all of them, but for the"
        " time in which it is suspended or waits in its queue. Then the workers save a checkpoint and end, and it has"
        " failed for good: DeadlineExceeded. 10s to 8760h. Left out: as long as it takes.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        duration_between("stallTimeout", "10s", "24h", "stall_timeout"),
        duration_between("activeDeadline", "10s", "8760h", "active_deadline"),
    )


class Cleanup(ApiModel):
    """What is left of a training that has ended."""

    after: Duration = Field(
        description="How long after its success, or its failure for good, its attempts' Jobs, pods, Services and"
        " ConfigMaps are deleted. What it published stays, and so does its status; nothing runs again. 0s to 8760h."
    )

    rules: ClassVar[tuple[Rule, ...]] = (duration_between("after", "0s", "8760h", "after"),)


class EarlyStopping(ApiModel):
    """When the training ends before all its epochs: as soon as a figure of the validation split gets no better."""

    metric: Literal["validation_loss", "validation_accuracy"] = Field(
        default="validation_loss", description="What is looked at after each epoch."
    )
    mode: Literal["Min", "Max"] | None = Field(
        default=None, description="Whether less is better, or more. Left out: Min for a loss, Max for an accuracy."
    )
    patience: int = Field(default=3, ge=1, le=1000, description="Epochs without a better figure that are waited for.")
