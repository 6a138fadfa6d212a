"""What a user writes in a TrainingJob: what to publish, on what data, how, and when it is good enough."""

from __future__ import annotations

from decimal import Decimal
from typing import ClassVar

from pydantic import Field

from modelwright.api.base import ApiModel
from modelwright.api.evaluation import Evaluation
from modelwright.api.rules import Rule
from modelwright.api.storage import Storage
from modelwright.api.training_data import Data
from modelwright.api.training_own import OWN_CODE_RULES
from modelwright.api.training_recipe import Trainer
from modelwright.api.training_workers import (
    Checkpoint,
    Cleanup,
    EarlyStopping,
    FailurePolicy,
    QueueName,
    Strategy,
    Workers,
)
from modelwright.api.types import NAME_LENGTH, Name, Version, cel_is_fraction
from modelwright.api.versions import model_version_name


def _version_name(publish: Publish) -> str:
    return model_version_name(publish.model, publish.version)


_CEL_VERSION_NAME = "self.model + '-v' + self.version.replace('.', '-')"


class Publish(ApiModel):
    """Which version of which model the training makes. It cannot be changed."""

    model: Name = Field(description="The model: the name of a Model, which need not exist.")
    version: Version = Field(
        description="Semantic version (SemVer 2.0), such as 1.0.0 or 1.1.0-rc.1; without build metadata."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("self == oldSelf", "publish is immutable; to train another version, create another TrainingJob"),
        Rule(
            f"({_CEL_VERSION_NAME}).size() <= {NAME_LENGTH}",
            f"the ModelVersion would be named '{{named}}', and a name has at most {NAME_LENGTH} characters; shorten"
            " model or version",
            lambda publish: len(_version_name(publish)) <= NAME_LENGTH,
            terms={"named": (_CEL_VERSION_NAME, _version_name)},
        ),
    )


def _on_volumes_alone(spec: TrainingJobSpec) -> bool:
    store = spec.storage
    return (
        store is not None
        and (store.uri or "").startswith("file://")
        and (spec.data.uri or "").startswith("file://")
        and not (store.endpoint is None and store.region is None and store.secret_ref is None)
    )


def _leaves_a_rest(spec: TrainingJobSpec) -> bool:
    workers, size = spec.workers, spec.strategy.shard_size if spec.strategy else None
    return (
        size is not None
        and workers.processes_per_worker is not None
        and workers.replicas * workers.processes_per_worker % size != 0
    )


class TrainingJobSpec(ApiModel):
    """What to train, on what, how, and when it is good enough. All but `publish` can be changed, so that a mistake can
    be corrected where it was made."""

    publish: Publish = Field(description="Which version of which model the training makes. Immutable.")
    data: Data = Field(description="The rows to train on.")
    storage: Storage | None = Field(
        default=None, description="The store that data are read from and artifacts and checkpoints written to."
    )
    trainer: Trainer = Field(description="What runs in the workers.")
    workers: Workers = Field(default=Workers(), description="The pods that train together.")
    strategy: Strategy | None = Field(
        default=None, description="With a recipe: how the workers share the work. Left out: DDP."
    )
    early_stopping: EarlyStopping | None = Field(
        default=None, description="With a recipe: when the training ends before all its epochs. Left out: never."
    )
    checkpoint: Checkpoint = Field(default=Checkpoint(), description="What a restarted training goes on from.")
    failure_policy: FailurePolicy = Field(default=FailurePolicy(), description="What happens when a worker fails.")
    evaluation: Evaluation = Field(
        default=Evaluation(), description="How the trained model is measured, and how good it must be."
    )
    cleanup: Cleanup | None = Field(
        default=None, description="What is left of it once it has ended. Left out: all, as long as the TrainingJob."
    )
    queue_name: QueueName | None = Field(
        default=None,
        description="Kueue's LocalQueue, in the same namespace: each attempt's Job is created suspended, and runs once"
        " the queue lets it. Left out: it runs at once.",
    )
    suspend: bool = Field(
        default=False, description="Stop the workers after a checkpoint; false again goes on from there."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.storage) && has(self.storage.uri) && self.storage.uri.startsWith('file://')"
            " && has(self.data.uri) && self.data.uri.startsWith('file://')"
            " && (has(self.storage.endpoint) || has(self.storage.region) || has(self.storage.secretRef)))",
            "endpoint, region and secretRef are of s3://, but data.uri and storage.uri are file://; leave them out",
            lambda spec: not _on_volumes_alone(spec),
            field="storage",
        ),
        Rule(
            "!has(self.earlyStopping) || !has(self.data.split)"
            f" || !{cel_is_fraction('self.data.split.validation')}"
            " || double(self.data.split.validation) > 0.0",
            "earlyStopping looks at the validation split, and data.split.validation is 0",
            lambda spec: (
                spec.early_stopping is None or spec.data.split is None or Decimal(spec.data.split.validation) > 0
            ),
            field="earlyStopping",
        ),
        Rule(
            "!has(self.queueName) || !has(self.workers.minReplicas)",
            "minReplicas is for want of room, and a queue finds room for all workers or none; leave out one of them",
            lambda spec: spec.queue_name is None or spec.workers.min_replicas is None,
            field="workers.minReplicas",
        ),
        Rule(
            "!has(self.strategy) || !has(self.strategy.shardSize) || !has(self.workers.processesPerWorker)"
            " || self.workers.replicas * self.workers.processesPerWorker % self.strategy.shardSize == 0",
            "shardSize does not divide the number of processes, workers.replicas times workers.processesPerWorker;"
            " write one of its divisors",
            lambda spec: not _leaves_a_rest(spec),
            field="strategy.shardSize",
        ),
        *OWN_CODE_RULES,
    )
