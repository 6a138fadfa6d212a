"""What status tells of the making of a version out of others: what it is made of, its steps, and what they did to its
size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from modelwright.api.base import StatusModel, StatusRef
from modelwright.api.storage import ArtifactRef, StorageStatus
from modelwright.api.types import Figure, Items
from modelwright.api.version_combine import MOST_MEMBERS
from modelwright.api.version_compress import MOST_STEPS

StepState = Literal["Pending", "Running", "Succeeded", "Failed"]


class VersionOrigin(ArtifactRef):
    """A version as it was when the work began; what becomes of it later changes nothing here."""

    name: str = Field(max_length=253, description="Its ModelVersion.")


class ModelSize(StatusModel):
    """How large and how fast a model is, measured on its files."""

    bytes: int | None = Field(default=None, ge=0, description="Of all files that a server loads.")
    weights_bytes: int | None = Field(default=None, ge=0, description="Of the weights' file alone.")
    parameters: int | None = Field(default=None, ge=0, description="Entries of its weights.")
    sparsity: Figure | None = Field(default=None, description="Share of its parameters that are 0.")
    metrics: Mapping[str, Figure] | None = Field(
        default=None,
        max_length=32,
        description="On the validation split; of the version and what it is made of, on that of spec.evaluation.",
    )
    latency_p50: Figure | None = Field(
        default=None,
        description="Median time of one row in the server's runtime on one thread, with all weights decoded.",
    )


class VersionStep(StatusModel):
    """A step of a compression; after the last one its publication; or the combination, all in one."""

    number: int = Field(ge=1, description="Counted from 1.")
    name: str = Field(max_length=32, description="What it does, as the spec names it; or search, publish, combine.")
    state: StepState = Field(default="Pending", description="Where it stands.")
    before: ModelSize | None = Field(default=None, description="The model before it.")
    after: ModelSize | None = Field(default=None, description="The model after it.")
    seconds: Figure | None = Field(default=None, description="How long it took.")
    notes: Items[Annotated[str, StringConstraints(max_length=1024)]] | None = Field(
        default=None, max_length=16, description="Which layers it left alone, and why."
    )
    message: str | None = Field(default=None, max_length=2048, description="Why it failed, or what it waits for.")


MOST_STAGES = MOST_STEPS + 1


class SearchedCandidate(StatusModel):
    """What a search has tried."""

    steps: str = Field(max_length=256, description="Its steps, in words.")
    bytes: int = Field(ge=0, description="Of all files that a server loads.")
    latency_p50: Figure | None = Field(default=None, description="Median time of one row.")
    figure: Figure = Field(description="Its metric on the validation split.")
    regression: Figure = Field(description="How much worse than the version that it is made of; below 0: better.")
    fits: bool = Field(default=False, description="Whether it is as small and as fast as the target says.")


class VersionSearch(StatusModel):
    """What the search for a target's steps saw."""

    outcome: Literal["Accepted", "Infeasible", "Regression"] = Field(
        description="Accepted: a candidate fits, and is good enough. Infeasible: none is so small, or so fast."
        " Regression: those that are lose more than the target allows."
    )
    metric: str = Field(max_length=64, description="What candidates were scored by, on the validation split.")
    reference: Figure = Field(description="That metric of the version that it is made of.")
    tried: int = Field(ge=0, description="How many candidates were tried.")
    chosen: str | None = Field(default=None, max_length=256, description="The steps of the accepted one, in words.")
    front: Items[SearchedCandidate] | None = Field(
        default=None,
        max_length=32,
        description="The candidates to which no other is superior in bytes, latency and metric alike, the smallest"
        " first; the largest may be left out.",
    )


class VersionSize(StatusModel):
    """What was won."""

    parent: ModelSize | None = Field(
        default=None, description="The version that it is made of; of several, the best member."
    )
    version: ModelSize | None = Field(default=None, description="The version itself.")


class EvaluationData(StatusModel):
    """The Dataset of spec.evaluation as it was when the work began."""

    dataset_ref: StatusRef = Field(description="The Dataset.")
    artifact: ArtifactRef = Field(description="Its manifest.")
    storage: StorageStatus = Field(description="The store that it lies in.")


class Compared(VersionOrigin):
    """A version that a gate compares with, as it was when the work began."""

    metric: str = Field(max_length=64, description="The gate's metric.")
    channel: str | None = Field(default=None, max_length=40, description="The channel that pointed at it.")


class EvaluationStatus(StatusModel):
    """What it is measured on and compared with."""

    data: EvaluationData | None = Field(default=None, description="The Dataset, where spec.evaluation names one.")
    against: Items[Compared] | None = Field(
        default=None, max_length=16, description="The versions of gates that name one, or a channel."
    )


Parents = Annotated[Items[VersionOrigin], Field(max_length=MOST_MEMBERS)]
