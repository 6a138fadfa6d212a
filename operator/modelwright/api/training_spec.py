"""What a user writes in a TrainingJob: what to publish, on what data, how, and when it is good enough."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

from modelwright.api.base import ApiModel
from modelwright.api.rules import Rule, Rules
from modelwright.api.storage import Storage
from modelwright.api.types import (
    NAME_LENGTH,
    DecimalText,
    FileUri,
    Fraction,
    Items,
    Name,
    Quantities,
    Version,
    cel_is_decimal,
    cel_is_fraction,
)
from modelwright.api.versions import model_version_name

Metric = Literal["accuracy", "f1_macro", "log_loss"]
Recipe = Literal["mlp"]
_HYPERPARAMETER_LENGTH = 63


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


class Split(ApiModel):
    """The parts that the rows are divided into, as fractions that add up to 1. The same seed and data give the same
    parts, on any number of workers."""

    train: Fraction = Field(default="0.8", description="Rows to train on.")
    validation: Fraction = Field(
        default="0.1", description='Rows to watch the training with, after each epoch. "0" for none.'
    )
    test: Fraction = Field(default="0.1", description="Rows to measure the metrics and gates on, once, in the end.")
    stratify: bool = Field(default=True, description="Keep the classes' shares the same in each part.")
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="Of the random order in which rows are drawn.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!({' && '.join(cel_is_fraction(f'self.{part}') for part in ('train', 'validation', 'test'))}) ||"
            " (double(self.train) + double(self.validation) + double(self.test) > 0.9999999"
            " && double(self.train) + double(self.validation) + double(self.test) < 1.0000001)",
            "train {self.train}, validation {self.validation} and test {self.test} must add up to 1",
            lambda split: Decimal(split.train) + Decimal(split.validation) + Decimal(split.test) == 1,
        ),
        Rule(
            f"!({cel_is_fraction('self.train')} && {cel_is_fraction('self.test')}) ||"
            " (double(self.train) > 0.0 && double(self.test) > 0.0)",
            "train and test must be above 0: a model is trained on the one and measured on the other",
            lambda split: Decimal(split.train) > 0 and Decimal(split.test) > 0,
        ),
    )


class Data(ApiModel):
    """The rows to train on."""

    uri: FileUri = Field(description="A parquet file: s3://bucket/path/rows.parquet, or file:///path on a volume.")
    target: str = Field(
        min_length=1, max_length=256, description="The column to predict; all others are features, and numbers."
    )
    task: Literal["Classification"] = Field(description="What is predicted. Classification: one of several classes.")
    split: Split = Field(default=Split(), description="The parts that the rows are divided into.")


Hyperparameters = Annotated[
    Mapping[
        Annotated[str, StringConstraints(min_length=1, max_length=_HYPERPARAMETER_LENGTH)],
        Annotated[str, StringConstraints(max_length=256)],
    ],
    Field(max_length=32),
    Rules(
        Rule(
            f"self.all(name, name.size() >= 1 && name.size() <= {_HYPERPARAMETER_LENGTH})",
            f"a hyperparameter's name has 1 to {_HYPERPARAMETER_LENGTH} characters",
            lambda given: all(1 <= len(name) <= _HYPERPARAMETER_LENGTH for name in given),
        )
    ),
]


class Trainer(ApiModel):
    """What runs in the workers."""

    recipe: Recipe = Field(description="A built-in recipe. mlp: a multilayer perceptron for tables of numbers.")
    hyperparameters: Hyperparameters | None = Field(
        default=None,
        description="Of the recipe, by name, as strings. Those left out have the recipe's defaults; wrong ones are told"
        " in status.",
    )


class Resources(ApiModel):
    """What one worker needs, as in a container's resources."""

    requests: Quantities | None = Field(default=None, description="What is reserved, such as cpu: 500m, memory: 1Gi.")
    limits: Quantities | None = Field(default=None, description="What it may not exceed; devices, such as GPUs.")


class PodSpecOverlay(ApiModel):
    """Fields of a pod's spec, merged over those that the operator writes. Declared here is only what is refused."""

    model_config = ConfigDict(extra="allow", alias_generator=None)

    service_account_name: str | None = Field(
        default=None, alias="serviceAccountName", max_length=253, description="Refused."
    )
    service_account: str | None = Field(default=None, alias="serviceAccount", max_length=253, description="Refused.")
    automount_service_account_token: bool | None = Field(
        default=None, alias="automountServiceAccountToken", description="Refused."
    )
    restart_policy: str | None = Field(default=None, alias="restartPolicy", max_length=253, description="Refused.")
    hostname: str | None = Field(default=None, max_length=253, description="Refused.")
    subdomain: str | None = Field(default=None, max_length=253, description="Refused.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.serviceAccountName) && !has(self.serviceAccount) && !has(self.automountServiceAccountToken)",
            "serviceAccountName, serviceAccount and automountServiceAccountToken cannot be set: workers hold no"
            " credentials of Kubernetes",
            lambda pod: pod.service_account_name is None and pod.service_account is None
            and pod.automount_service_account_token is None,
        ),
        Rule(
            "!has(self.restartPolicy) && !has(self.hostname) && !has(self.subdomain)",
            "restartPolicy, hostname and subdomain cannot be set: the workers find each other by them",
            lambda pod: pod.restart_policy is None and pod.hostname is None and pod.subdomain is None,
        ),
    )  # fmt: skip


class PodTemplateOverlay(ApiModel):
    """What to add to the workers' pods."""

    spec: PodSpecOverlay | None = Field(
        default=None,
        description="Fields of a pod's spec (nodeSelector, tolerations, volumes, …), merged over what the operator"
        " writes. Checked by a dry run of the Job; what the API server says of it is in status.",
    )


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

    every_steps: int = Field(default=50, ge=1, le=1_000_000, description="Global batches between two checkpoints.")
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
            "self.metric == 'log_loss' || "
            + " && ".join(
                f"(!({_cel_is_number(bound)}) || (double(self.{bound}) >= 0.0 && double(self.{bound}) <= 1.0))"
                for bound in ("min", "max")
            ),
            '{self.metric} lies between 0 and 1; write 93 % as "0.93"',
            lambda gate: gate.metric == "log_loss" or all(
                bound is None or 0 <= Decimal(bound) <= 1 for bound in (gate.min, gate.max)
            ),
        ),
    )  # fmt: skip


def each_once(what: str, of: Any) -> AfterValidator:
    """No item twice, by `of`; in the CRD this is `x-kubernetes-list-type`."""

    def checked(items: tuple[Any, ...]) -> tuple[Any, ...]:
        keys = [of(item) for item in items]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise PydanticCustomError("twice", "{what}", {"what": f"{', '.join(twice)}: each {what} once"})
        return items

    return AfterValidator(checked)


class Evaluation(ApiModel):
    """How the trained model is measured, and how good it must be."""

    metrics: Annotated[Items[Metric], Field(max_length=16, min_length=1), each_once("metric", str)] = Field(
        default=get_args(Metric),
        description="What is measured on the test split, of the published files. f1_macro: the classes' F1, averaged.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    gates: Annotated[Items[Gate], Field(max_length=16), each_once("metric", lambda gate: gate.metric)] | None = Field(
        default=None,
        description="Bounds that the model must keep to be published.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["metric"]},
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.gates) || self.gates.all(gate, gate.metric in self.metrics)",
            "a gate is on a metric that is not measured; add it to evaluation.metrics",
            lambda evaluation: all(gate.metric in evaluation.metrics for gate in evaluation.gates or ()),
            field="gates",
        ),
    )


def _on_volumes_alone(spec: TrainingJobSpec) -> bool:
    store = spec.storage
    return (
        store is not None
        and (store.uri or "").startswith("file://")
        and spec.data.uri.startswith("file://")
        and not (store.endpoint is None and store.region is None and store.secret_ref is None)
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
    strategy: Strategy = Field(default=Strategy(), description="How the workers share the work.")
    checkpoint: Checkpoint = Field(default=Checkpoint(), description="What a restarted training goes on from.")
    failure_policy: FailurePolicy = Field(default=FailurePolicy(), description="What happens when a worker fails.")
    evaluation: Evaluation = Field(
        default=Evaluation(), description="How the trained model is measured, and how good it must be."
    )
    suspend: bool = Field(
        default=False, description="Stop the workers after a checkpoint; false again goes on from there."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.storage) && has(self.storage.uri) && self.storage.uri.startsWith('file://')"
            " && self.data.uri.startsWith('file://')"
            " && (has(self.storage.endpoint) || has(self.storage.region) || has(self.storage.secretRef)))",
            "endpoint, region and secretRef are of s3://, but data.uri and storage.uri are file://; leave them out",
            lambda spec: not _on_volumes_alone(spec),
            field="storage",
        ),
    )
