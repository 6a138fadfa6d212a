"""TrainingJob: the training of one version of a model, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from modelwright.api.base import AGE, NAME_RULE, ApiObject, Column, Names, StatusModel, StatusRef
from modelwright.api.conditions import CONDITIONS_SCHEMA, Condition, before_the_first_look, conditions_field
from modelwright.api.dataset import SplitRows
from modelwright.api.rules import Rule
from modelwright.api.slices import PartFigures
from modelwright.api.storage import ArtifactRef, StorageStatus
from modelwright.api.training_history import CURVE_LENGTH, HISTORY_LENGTH, ActiveTime, Curve, History
from modelwright.api.training_spec import TrainingJobSpec
from modelwright.api.types import Figure, Items, Time

TrainingPhase = Literal["Pending", "Starting", "Running", "Restarting", "Suspended", "Succeeded", "Failed"]


class Attempt(StatusModel):
    """The run of all workers that is under way, or was the last."""

    number: int = Field(ge=1, description="Counted from 1; each resume and restart is another.")
    job_name: str = Field(max_length=63, description="Its Job, whose pods are the workers.")
    workers: int | None = Field(
        default=None,
        ge=0,
        description="How many workers it has: workers.replicas, or fewer where there was no room (minReplicas).",
    )
    from_step: int | None = Field(
        default=None, ge=0, description="The step of the checkpoint that it began from, as soon as it tells."
    )


class Restarts(StatusModel):
    """How often a further attempt was needed."""

    counted: int = Field(default=0, ge=0, description="After failures; at most failurePolicy.maxRestarts.")
    not_counted: int = Field(
        default=0,
        ge=0,
        description="After evictions, preemptions, loss of a node, suspensions, and changes of the spec, as of the"
        " number of workers.",
    )


class TrainingProgress(StatusModel):
    """How far the training is, as rank 0 tells it."""

    phase: str | None = Field(
        default=None, max_length=32, description="What the workers do: Loading, Training, Evaluating, Publishing."
    )
    epoch: int | None = Field(default=None, ge=0, description="Epochs completed.")
    epochs: int | None = Field(default=None, ge=0, description="Epochs asked for.")
    step: int | None = Field(default=None, ge=0, description="Global batches trained on.")
    total_steps: int | None = Field(default=None, ge=0, description="Global batches of all epochs.")
    percent: int | None = Field(default=None, ge=0, le=100, description="step of totalSteps.")
    train_loss: Figure | None = Field(default=None, description="Mean over the rows since the last look.")
    validation_loss: Figure | None = Field(
        default=None, description="Mean over the validation split, after the last epoch."
    )
    samples_per_second: Figure | None = Field(default=None, description="Rows per second, over all workers.")
    gpu_percent: int | None = Field(
        default=None, ge=0, le=100, description="How busy the GPUs of worker 0 are, their mean, where that is told."
    )
    gpu_memory_percent: int | None = Field(
        default=None, ge=0, le=100, description="How much of these GPUs' memory is in use."
    )
    eta_seconds: int | None = Field(
        default=None,
        ge=0,
        description="Seconds until all epochs are done, at the attempt's mean pace; early stopping ends it before.",
    )
    last_checkpoint_step: int | None = Field(
        default=None, ge=0, description="The step of the newest complete checkpoint."
    )
    checkpoint_bytes: int | None = Field(
        default=None, ge=0, description="Size of the newest complete checkpoint of a recipe, over all workers."
    )
    checkpoint_seconds: Figure | None = Field(
        default=None,
        description="How long writing it took. The grace period of the next attempt's pods leaves time for two.",
    )
    updated_at: Time | None = Field(default=None, description="When the workers told this.")


class TrainingData(StatusModel):
    """A Dataset as it was when the first attempt was started. What becomes of it later changes nothing here; it is read
    anew after a failure for good."""

    dataset_ref: StatusRef = Field(description="The Dataset.")
    artifact: ArtifactRef = Field(description="Its manifest.")
    task: str | None = Field(default=None, max_length=64, description="What is to be predicted, as the Dataset says.")
    storage: StorageStatus = Field(description="The store that it lies in.")
    rows: SplitRows | None = Field(default=None, description="Rows of each part.")


class TrainingJobStatus(StatusModel):
    """What became of the training."""

    phase: TrainingPhase = Field(
        default="Pending",
        description="For people's eyes; programs read the conditions. Starting: the workers' pods are not all ready.",
    )
    observed_generation: int | None = Field(default=None, ge=0, description="The generation that status is about.")
    conditions: Items[Condition] | None = Field(
        default=None, max_length=16, description=conditions_field("Succeeded"), json_schema_extra=CONDITIONS_SCHEMA
    )
    attempt: Attempt | None = Field(default=None, description="The attempt under way, or the last.")
    restarts: Restarts | None = Field(default=None, description="How often a further attempt was needed.")
    history: History | None = Field(
        default=None, max_length=HISTORY_LENGTH, description="The attempts that have ended, the newest last."
    )
    active: ActiveTime | None = Field(default=None, description="How long it has been at work.")
    progress: TrainingProgress | None = Field(default=None, description="How far it is.")
    curve: Curve | None = Field(
        default=None,
        max_length=CURVE_LENGTH,
        description="The losses at steps that lie about evenly apart. What an attempt did after the checkpoint that"
        " another went on from is left out.",
    )
    start_time: Time | None = Field(default=None, description="When the first attempt was started.")
    completion_time: Time | None = Field(default=None, description="When it succeeded, or failed for good.")
    cleanup_time: Time | None = Field(
        default=None, description="When what its attempts were made of was deleted, as spec.cleanup says."
    )
    data: TrainingData | None = Field(default=None, description="What it trains on, where that is a Dataset.")
    warnings: Items[Annotated[str, StringConstraints(max_length=1024)]] | None = Field(
        default=None,
        max_length=16,
        description="What a person should look at: a test split too small to tell whether a gate is kept.",
    )
    model_version_ref: StatusRef | None = Field(default=None, description="The ModelVersion that it published.")
    artifact: ArtifactRef | None = Field(default=None, description="The artifact that it published.")
    metrics: Mapping[str, Figure] | None = Field(
        default=None,
        max_length=64,
        description="Measured on the test split with the published files; decimals by the metric's name.",
    )
    slices: Items[PartFigures] | None = Field(
        default=None, max_length=32, description="The main metrics of each slice of spec.evaluation.slices."
    )
    classes: Items[PartFigures] | None = Field(
        default=None,
        max_length=16,
        description="Of a classification: the classes that are told worst, by F1, the worst first; the artifact's"
        " evaluation.json has all.",
    )
    storage: StorageStatus | None = Field(default=None, description="The store that is used.")


class TrainingJob(ApiObject):
    """Trains one version of a model on several workers, evaluates it, and publishes it as a ModelVersion."""

    spec: TrainingJobSpec = Field(description="What to train, on what, how, and when it is good enough.")
    status: TrainingJobStatus = Field(
        default=TrainingJobStatus(conditions=before_the_first_look("Succeeded")),
        description="What became of it; written by the operator.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (NAME_RULE,)
    names: ClassVar[Names] = Names(
        plural="trainingjobs",
        singular="trainingjob",
        short=("tj",),
        main_condition="Succeeded",
        columns=(
            Column("Model", ".spec.publish.model", "The model."),
            Column("Version", ".spec.publish.version", "The version that it publishes."),
            Column("Phase", ".status.phase", "Where it stands."),
            Column("Percent", ".status.progress.percent", "Share of the steps that are done.", "integer"),
            Column("Accuracy", ".status.metrics.accuracy", "Accuracy on the test split."),
            Column("Reason", '.status.conditions[?(@.type=="Succeeded")].reason', "Why it is in that phase."),
            AGE,
            Column("Workers", ".spec.workers.replicas", "Number of workers.", "integer", priority=1),
            Column("Epoch", ".status.progress.epoch", "Epochs completed.", "integer", priority=1),
            Column("Loss", ".status.progress.trainLoss", "Training loss.", priority=1),
            Column("Seconds left", ".status.progress.etaSeconds", "Until all epochs are done.", "integer", priority=1),
            Column("Restarts", ".status.restarts.counted", "Restarts after failures.", "integer", priority=1),
            Column("Message", '.status.conditions[?(@.type=="Succeeded")].message', "Why, in words.", priority=1),
        ),
        selectable=(".spec.publish.model",),
    )
