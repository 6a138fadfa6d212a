"""The contract between the operator and a training pod: what the pod is told, and what it tells.

In: a `TrainingRun` as JSON at `JOB_PATH`, from a mounted ConfigMap, the same for all pods of an attempt; what differs
comes from the Indexed Job (`JOB_COMPLETION_INDEX`). Store credentials come as AWS_* variables from the user's Secret.
Out: one of the `Outcome`s as exit code, a `Summary` as termination message, `Progress` at `PROGRESS_PORT` meanwhile.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

JOB_PATH = "/etc/modelwright/job.json"
TERMINATION_PATH = "/dev/termination-log"
# The kubelet keeps 4 KiB, and of a longer message the tail, which is no JSON.
SUMMARY_BYTES = 3072
PROGRESS_PORT = 9400
MASTER_PORT = 29500
INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
COMMAND = ("run", "--job", JOB_PATH)
"""Arguments of the trainer image's entry point."""


class Shape(BaseModel):
    """JSON in camelCase; an unknown field is an error, so that a typo or another version's field is not passed over."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    def to_json(self) -> str:
        """Sorted and without blanks: equal content is equal bytes."""
        stated = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return json.dumps(stated, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


Task = Literal["AnomalyDetection", "Classification", "Clustering", "LanguageModelling", "Regression"]
WITHOUT_TARGET: tuple[Task, ...] = ("AnomalyDetection", "Clustering", "LanguageModelling")
"""Tasks that learn from the rows alone, whatever column a data set has as its target."""


class StoreAccess(Shape):
    """How to reach a store. `uri` is s3://bucket[/prefix] or file:///folder; the others are S3's. `ca_file` is the
    path, in the pod, of PEM certificates to trust beside the well-known ones."""

    uri: str = Field(pattern=r"^(s3://[^/]+|file:///)")
    endpoint: str | None = None
    region: str | None = None
    ca_file: str | None = None


class Publish(Shape):
    model: str
    version: str


class Split(Shape):
    """Fractions of the rows, in sum 1. `stratify` keeps the classes' shares in each part."""

    train: float = Field(default=0.8, gt=0, lt=1)
    validation: float = Field(default=0.1, ge=0, lt=1)
    test: float = Field(default=0.1, gt=0, lt=1)
    stratify: bool = True
    seed: int = Field(default=0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _whole(self) -> Split:
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError(f"train, validation and test add up to {self.train + self.validation + self.test}, not 1")
        return self


class Data(Shape):
    """One parquet file; or, where `digest` is given, a prepared data set: `uri` and `digest` are its manifest's, which
    says itself what the target, the parts and, but for one `WITHOUT_TARGET`, the task are. `features` are the columns
    to learn from, in this order; None is all but the target. `store` is how to reach it where that differs from the
    job's store (its `uri` is not used)."""

    uri: str
    digest: str | None = Field(default=None, pattern=r"^sha256:[0-9a-f]{64}$")
    target: str | None = None
    features: tuple[str, ...] | None = None
    task: Task = "Classification"
    split: Split | None = None
    store: StoreAccess | None = None

    @property
    def fractions(self) -> Split | None:
        """How the rows are divided; None where they came divided, or their manifest was not read yet."""
        return (self.split or Split()) if self.digest is None else self.split


class Trainer(Shape):
    """A built-in recipe; hyperparameters are strings, checked by the recipe's own model."""

    recipe: str
    hyperparameters: Mapping[str, str] = Field(default_factory=dict)


class InitFrom(Shape):
    """The version whose weights the training begins with: its manifest, in the job's own store or one with the same
    endpoint and credentials."""

    uri: str
    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")


class Workers(Shape):
    """`master` is the DNS name of index 0 through the headless Service."""

    replicas: int = Field(default=1, ge=1)
    processes_per_worker: int = Field(default=1, ge=1)
    master: str = "localhost"
    master_port: int = MASTER_PORT
    rendezvous_seconds: float = 600.0

    @property
    def world_size(self) -> int:
        return self.replicas * self.processes_per_worker


class Strategy(Shape):
    """How the ranks share the work. `shard_size` is FSDP's: ranks that hold one copy of the model together; None is
    all of them. The others are LocalSGD's: steps between two averagings, and the outer optimizer's learning rate and
    Nesterov momentum."""

    type: Literal["DDP", "FSDP", "LocalSGD"] = "DDP"
    shard_size: int | None = Field(default=None, ge=1)
    local_steps: int = Field(default=1, ge=1)
    outer_learning_rate: float = Field(default=1.0, gt=0)
    outer_momentum: float = Field(default=0.0, ge=0, lt=1)


class LocalCheckpointing(Shape):
    """`path` is where a volume is mounted in the workers."""

    path: str = Field(pattern="^/")
    every_steps: int = Field(ge=1)


class Checkpointing(Shape):
    every_steps: int = Field(default=50, ge=1)
    keep: int = Field(default=2, ge=1)
    local: LocalCheckpointing | None = None


class EarlyStopping(Shape):
    """Ends the training after `patience` epochs in which `metric` did not improve; the last weights are published."""

    metric: Literal["validation_loss", "validation_accuracy"] = "validation_loss"
    mode: Literal["Min", "Max"] = "Min"
    patience: int = Field(default=3, ge=1)

    def fits(self, task: Task) -> bool:
        """Whether there is such a figure: an accuracy is of what hits or misses."""
        return self.metric == "validation_loss" or task in ("Classification", "LanguageModelling")


class Gate(Shape):
    """A bound on a metric of the test split; a version outside is not published."""

    metric: str
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Gate:
        if self.min is None and self.max is None:
            raise ValueError(f"gate on {self.metric}: give min, max or both")
        return self

    def breach(self, metrics: Mapping[str, float]) -> str | None:
        """Why `metrics` do not pass, with figure and threshold; None where they do."""
        if self.metric not in metrics:
            return f"gate on {self.metric}: there is no such metric; the metrics are {', '.join(sorted(metrics))}"
        figure = metrics[self.metric]
        if self.min is not None and not figure >= self.min:
            return f"{self.metric} {figure:.6g} is below min {self.min:g}"
        if self.max is not None and not figure <= self.max:
            return f"{self.metric} {figure:.6g} is above max {self.max:g}"
        return None


class Slice(Shape):
    """Rows by a column: a slice for each of `values`; or one below the least of `bounds`, which ascend, one from each
    to the next, and one from the largest on."""

    column: str
    values: tuple[float, ...] = ()
    bounds: tuple[float, ...] = ()


class Evaluation(Shape):
    gates: tuple[Gate, ...] = ()
    slices: tuple[Slice, ...] = ()


class TrainingRun(Shape):
    """The resolved job of one attempt.

    `grace_seconds` is the time between SIGTERM and SIGKILL, the pod's termination grace period less a little.
    `stall_seconds` is how long a worker may show no progress before the attempt counts as hung.
    """

    contract: Literal[1] = 1
    namespace: str
    name: str
    uid: str
    attempt: int = Field(default=1, ge=1)
    publish: Publish
    store: StoreAccess
    data: Data
    trainer: Trainer
    init_from: InitFrom | None = None
    workers: Workers = Workers()
    strategy: Strategy = Strategy()
    checkpoint: Checkpointing = Checkpointing()
    early_stopping: EarlyStopping | None = None
    evaluation: Evaluation = Evaluation()
    grace_seconds: float = Field(default=25.0, gt=0)
    stall_seconds: float = Field(default=600.0, gt=0)
    progress_port: int = Field(default=PROGRESS_PORT, ge=0, le=65535)

    def fingerprint(self, data_digest: str, hyperparameters: Mapping[str, str]) -> str:
        """A sha256 over what decides the trained model, except the number of workers. Two runs that share it were asked
        for the same thing: a checkpoint of one may be resumed by the other, its version stand for the other's.
        `hyperparameters` are all of the recipe's, with defaults, in their one form."""
        stated: dict[str, object] = {
            "data": data_digest,
            "features": self.data.features,
            # The digest of a prepared data set covers both.
            "split": self.data.fractions.to_json() if self.data.fractions and not self.data.digest else None,
            "target": None if self.data.digest else self.data.target,
            "recipe": self.trainer.recipe,
            "hyperparameters": dict(hyperparameters),
            "earlyStopping": self.early_stopping.to_json() if self.early_stopping else None,
        }
        if self.init_from:
            stated["initFrom"] = self.init_from.digest
        # DDP and FSDP give the same model, and go on from each other's checkpoints.
        if self.strategy.type == "LocalSGD":
            stated["strategy"] = self.strategy.to_json()
        # A prepared data set's own task is in its digest.
        if self.data.task in WITHOUT_TARGET or (self.data.task != "Classification" and not self.data.digest):
            stated["task"] = self.data.task
        return "sha256:" + hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


class Outcome(enum.Enum):
    """How an attempt ends in one pod, by exit code. 1 and 2 are Python's own, 126 and above the shell's and signals':
    they, too, are an end without an outcome, and count as `WorkerCrashed` (137 with reason OOMKilled as `OutOfMemory`).
    """

    SUCCEEDED = 0, "Succeeded", False, False
    USER_ERROR = 10, "UserError", False, False
    DATA_ERROR = 11, "DataError", False, False
    GATE_FAILED = 12, "GateFailed", False, False
    VERSION_CONFLICT = 13, "VersionConflict", False, False
    EXPORT_MISMATCH = 14, "ExportMismatch", False, False
    STORE_REFUSED = 15, "StoreRefused", False, False
    STEP_NEEDS_MODULE = 16, "StepNeedsModule", False, False
    MEMBERS_DIFFER = 17, "MembersDiffer", False, False
    ARTIFACT_REFUSED = 18, "ArtifactRefused", False, False
    INFEASIBLE = 19, "Infeasible", False, False
    PREEMPTED = 20, "Preempted", True, False
    OUT_OF_MEMORY = 21, "OutOfMemory", True, True
    INFRASTRUCTURE = 22, "Infrastructure", True, True
    HUNG = 23, "Hung", True, True
    WORKER_CRASHED = 24, "WorkerCrashed", True, True
    PEER_LOST = 25, "PeerLost", True, True
    # New ones come last: a Job that runs names the rules of its failure policy by their index.
    REGRESSION = 26, "Regression", False, False

    def __init__(self, code: int, reason: str, retried: bool, counted: bool) -> None:
        self.code = code
        """The exit code."""
        self.reason = reason
        """For conditions and the summary."""
        self.retried = retried
        """Whether another attempt may end otherwise."""
        self.counted = counted
        """Whether that attempt counts against `failurePolicy.maxRestarts`."""

    @classmethod
    def of(cls, exit_code: int) -> Outcome:
        return next((outcome for outcome in cls if outcome.code == exit_code), cls.WORKER_CRASHED)

    @classmethod
    def named(cls, reason: str) -> Outcome:
        return next((outcome for outcome in cls if outcome.reason == reason), cls.WORKER_CRASHED)


# A rank that fails takes the others with it: they lose their peer, or are stopped. The cause is told by the first of:
_TELLING = (
    Outcome.SUCCEEDED, Outcome.VERSION_CONFLICT, Outcome.GATE_FAILED, Outcome.EXPORT_MISMATCH, Outcome.DATA_ERROR,
    Outcome.STORE_REFUSED, Outcome.STEP_NEEDS_MODULE, Outcome.MEMBERS_DIFFER, Outcome.ARTIFACT_REFUSED,
    Outcome.INFEASIBLE, Outcome.REGRESSION, Outcome.USER_ERROR, Outcome.OUT_OF_MEMORY, Outcome.PREEMPTED,
    Outcome.WORKER_CRASHED, Outcome.HUNG, Outcome.INFRASTRUCTURE, Outcome.PEER_LOST,
)  # fmt: skip


def cause(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome of an attempt from those of its pods: of rank 0's success, or else of the one that began it. Raises
    ValueError where there are none."""
    seen = set(outcomes)
    return next(outcome for outcome in _TELLING if outcome in seen) if seen else _none()


def _none() -> Outcome:
    raise ValueError("no pod of the attempt has ended")


class Published(Shape):
    """`uri` is the manifest's; `digest` is "sha256:" and its hex digest."""

    uri: str
    digest: str


class Message(Shape):
    """A termination message."""

    def to_message(self, limit: int = SUMMARY_BYTES) -> str:
        """As JSON of at most `limit` bytes: what matters least goes first, as `shorter` says."""
        fitted = self
        while len((text := fitted.to_json()).encode()) > limit:
            cut = fitted.shorter()
            if cut is None:
                raise ValueError(f"a summary of {len(text.encode())} bytes cannot be cut to {limit}")
            fitted = cut
        return text

    def shorter(self) -> Self | None:
        """Without what matters least in it; None where nothing can go."""
        return None

    @classmethod
    def from_message(cls, text: str) -> Self | None:
        """What a termination message says; None where it is none of these (a killed container leaves none)."""
        try:
            return cls.model_validate_json(text)
        except ValueError:
            return None


class Failure(Shape):
    """`type` is the exception's class, `frames` the last of the stack in code outside of libraries, innermost last."""

    type: str
    message: str
    frames: tuple[str, ...] = ()

    def without_outer_frame(self) -> Failure:
        return self.model_copy(update={"frames": self.frames[1:]})

    def shorter(self) -> Failure | None:
        """With three quarters of its message; None where that is a few letters."""
        return self.model_copy(update={"message": cut(self.message)}) if len(self.message) > 8 else None


def cut(text: str) -> str:
    """Its first three quarters."""
    return text[: len(text) * 3 // 4] + "…"


class PartFigures(Shape):
    """Metrics of a part of the test rows; `name` says which."""

    name: str
    rows: int = Field(ge=0)
    metrics: Mapping[str, float] = Field(default_factory=dict)


class Summary(Message):
    """A pod's termination message. `artifact`, `metrics` and what follows are those of rank 0's pod when it succeeded:
    `slices` of the test rows, `classes` those told worst; `log` is the end of what its ranks printed."""

    outcome: str
    exit_code: int
    attempt: int
    index: int
    epoch: int = 0
    step: int = 0
    last_checkpoint_step: int | None = None
    artifact: Published | None = None
    metrics: Mapping[str, float] = Field(default_factory=dict)
    slices: tuple[PartFigures, ...] = ()
    classes: tuple[PartFigures, ...] = ()
    failure: Failure | None = None
    log: tuple[str, ...] = ()

    def shorter(self) -> Summary | None:
        """First the log's earlier lines go, then the outer frames, the last of the classes and slices, metrics, the
        message's end."""
        if self.log:
            return self.model_copy(update={"log": self.log[1:]})
        if self.failure and self.failure.frames:
            return self.model_copy(update={"failure": self.failure.without_outer_frame()})
        if self.classes or self.slices:
            named = "classes" if self.classes else "slices"
            return self.model_copy(update={named: getattr(self, named)[:-1]})
        if self.metrics:
            return self.model_copy(update={"metrics": dict(list(self.metrics.items())[: len(self.metrics) // 2])})
        failure = self.failure.shorter() if self.failure else None
        return self.model_copy(update={"failure": failure}) if failure else None


class RankState(Shape):
    rank: int
    phase: str
    step: int


class Progress(Shape):
    """What a pod serves as JSON at /progress; times are seconds since the epoch (Unix), losses means over rows.

    `eta_seconds` is for all steps, at the attempt's mean pace.
    Phases: Starting, Loading, Training, Evaluating, Publishing, Done, Failed. A `step` is one global batch.
    `gpu_percent` and `gpu_memory_percent` are means over the pod's GPUs.
    `checkpoint_bytes` and `checkpoint_seconds` are the size of the newest complete checkpoint, over all ranks, and how
    long writing it took.
    """

    phase: str = "Starting"
    attempt: int = 1
    index: int = 0
    world_size: int = 0
    epoch: int = 0
    epochs: int = 0
    step: int = 0
    total_steps: int = 0
    train_loss: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    samples_per_second: float = 0.0
    eta_seconds: float | None = None
    last_checkpoint_step: int | None = None
    checkpoint_bytes: int | None = None
    checkpoint_seconds: float | None = None
    gpu_percent: float | None = None
    gpu_memory_percent: float | None = None
    resumed_from_step: int | None = None
    updated: float = 0.0
    ranks: tuple[RankState, ...] = ()


METRICS: Mapping[str, str] = {
    "modelwright_training_epoch": "Epochs that were completed.",
    "modelwright_training_epochs": "Epochs that the recipe asks for.",
    "modelwright_training_step": "Global batches that were trained on.",
    "modelwright_training_steps": "Global batches of all epochs.",
    "modelwright_training_loss": "Mean loss over the rows since the last look.",
    "modelwright_training_validation_loss": "Mean loss over the validation split after the last epoch.",
    "modelwright_training_validation_accuracy": "Accuracy on the validation split after the last epoch.",
    "modelwright_training_samples_per_second": "Rows trained on per second, over all ranks.",
    "modelwright_training_eta_seconds": "Seconds until all epochs are done, at the attempt's mean pace.",
    "modelwright_training_last_checkpoint_step": "The step of the newest complete checkpoint.",
    "modelwright_training_checkpoint_bytes": "Size of the newest complete checkpoint, over all ranks.",
    "modelwright_training_checkpoint_seconds": "How long writing the newest complete checkpoint took.",
    "modelwright_training_gpu_percent": "How busy the pod's GPUs are, their mean.",
    "modelwright_training_gpu_memory_percent": "How much of the pod's GPUs' memory is in use, their mean.",
    "modelwright_training_last_update_timestamp_seconds": "When a rank of this pod last told of its progress.",
    "modelwright_training_rank_step": "The step of each rank of this pod; labels rank and phase.",
}
"""Gauges at /metrics, by name."""
