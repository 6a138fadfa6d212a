"""ModelVersion: one immutable version of a model, where it came from, its artifact and its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from modelwright.api.base import (
    AGE,
    NAME_RULE,
    ApiModel,
    ApiObject,
    Column,
    LocalRef,
    Names,
    StatusModel,
    StatusRef,
    UidRef,
)
from modelwright.api.conditions import CONDITIONS_SCHEMA, Condition, before_the_first_look, conditions_field
from modelwright.api.rules import Rule
from modelwright.api.storage import ArtifactStatus, Storage, StorageStatus, StoreReach
from modelwright.api.types import Digest, Figure, Items, ManifestUri, Name, Variant, Version
from modelwright.api.version_combine import Combine
from modelwright.api.version_compress import Compress, VersionChoice
from modelwright.api.version_derived import DERIVED_RULES
from modelwright.api.version_evaluation import VersionEvaluation
from modelwright.api.version_import import Import
from modelwright.api.version_status import (
    MOST_STAGES,
    EvaluationStatus,
    Parents,
    VersionSearch,
    VersionSize,
    VersionStep,
)
from modelwright.api.versions import model_version_name

VersionPhase = Literal["Pending", "Running", "Ready", "Failed", "Retracted"]
UseRole = Literal["Active", "Next", "Before"]


class ImportedArtifact(ApiModel):
    """A version that is in a store already: published in another namespace or cluster, or by other means."""

    uri: ManifestUri = Field(
        description="Its manifest: s3://bucket/path/versions/1.0.0/manifest.json, or file:///path on a volume."
    )
    digest: Digest = Field(description="sha256 of the manifest, which names all files by theirs.")
    storage: StoreReach | None = Field(default=None, description="How to reach the store that it lies in.")


class VersionSource(ApiModel):
    """What the version is made of."""

    training_job_ref: LocalRef | None = Field(
        default=None,
        description="The TrainingJob that publishes it. The operator creates such versions by itself.",
    )
    artifact: ImportedArtifact | None = Field(
        default=None,
        description="An artifact in a store. A Job checks every digest, and that it answers as its golden samples say.",
    )

    # The name in the API is import, which Python keeps for itself.
    import_: Import | None = Field(
        default=None, alias="import", description="A model that other software has made: ONNX, safetensors, or hf."
    )
    compress: Compress | None = Field(
        default=None, description="Another version, made smaller or faster in Jobs, step by step."
    )
    combine: Combine | None = Field(default=None, description="Several versions, whose answers become one.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "[has(self.trainingJobRef), has(self.artifact), has(self.__import__), has(self.compress),"
            " has(self.combine)].filter(given, given).size() == 1",
            "give exactly one of trainingJobRef, artifact, import, compress and combine",
            lambda source: sum(getattr(source, name) is not None for name in type(source).model_fields) == 1,
        ),
    )

    @property
    def by_jobs(self) -> bool:
        """Whether Jobs of ours make it and publish it."""
        return self.import_ is not None or self.compress is not None or self.combine is not None

    @property
    def parents(self) -> tuple[VersionChoice, ...]:
        """The versions that it is made of."""
        if self.compress is not None:
            return (self.compress.from_,)
        return self.combine.members if self.combine is not None else ()


class Retraction(ApiModel):
    """Nobody is to use the version any more."""

    reason: str = Field(
        min_length=1, max_length=1024, description="Why, for those who used it: their channels and services say it."
    )


def unchanged(*fields: str) -> str:
    """CEL: these fields of a spec are as they were; of one with a question mark behind it, which is optional, that it
    is left out as well. It stands on the spec, which is always there: a transition rule on an optional field does not
    see it go, or come."""
    terms = []
    for field in fields:
        name = field.removesuffix("?")
        if field != name:
            terms.append(f"has(self.{name}) == has(oldSelf.{name})")
        same = f"self.{name} == oldSelf.{name}"
        terms.append(same if field == name else f"(!has(self.{name}) || !has(oldSelf.{name}) || {same})")
    return " && ".join(terms)


class ModelVersionSpec(ApiModel):
    """Which version of which model this is, and where it comes from. Of all that only retracted can be changed."""

    model: Name = Field(description="The model that it is a version of: the name of a Model, which need not exist.")
    version: Version = Field(
        description="Semantic version (SemVer 2.0), such as 1.0.0 or 1.1.0-rc.1; without build metadata."
    )
    variant: Variant | None = Field(
        default=None,
        description="A form of the same version that runs otherwise, such as int8. Left out: the original.",
    )
    source: VersionSource = Field(description="What the version is made of.")
    storage: Storage | None = Field(
        default=None,
        description="With import, compress and combine: the store that the version is written to; what it is made of"
        " is read with its endpoint and credentials.",
    )
    evaluation: VersionEvaluation | None = Field(
        default=None,
        description="With import, compress and combine: how it is measured, and how good it must be. Left out: on the"
        " test split of the data that what it is made of was trained on, without gates; an import is not measured.",
    )
    retracted: Retraction | None = Field(
        default=None,
        description="Takes the version back: channels go back to what they pointed at before, and services follow."
        " Taken out again, all is as before.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            unchanged("model", "version", "variant?", "source", "storage?", "evaluation?"),
            "a version is immutable; create another ModelVersion, with another version or variant",
        ),
        *DERIVED_RULES,
    )


class VersionLineage(StatusModel):
    """The digests of the links that this version hangs on."""

    training_job: UidRef | None = Field(default=None, description="The TrainingJob that published it.")
    dataset_ref: StatusRef | None = Field(default=None, description="The Dataset that it was trained on.")
    data_uri: str | None = Field(
        default=None, max_length=1024, description="The data that it was trained on; of a Dataset its manifest."
    )
    dataset_digest: str | None = Field(default=None, max_length=71, description="sha256 of the Dataset's manifest.")
    parents: Parents | None = Field(
        default=None,
        description="The versions that it is made of, as they were when the work began. Of one that is compressed the"
        " training is its parent's.",
    )
    steps: int | None = Field(default=None, ge=0, description="How many steps of compression lie between it and them.")
    method: str | None = Field(default=None, max_length=32, description="How the parents were combined.")


class VersionUse(StatusModel):
    """An InferenceService that has to do with the version."""

    name: str = Field(max_length=253, description="Name of the InferenceService, in the same namespace.")
    role: UseRole = Field(
        description="Active: it answers requests with this version. Next: it is about to. Before: it answered with it"
        " until now, and may go back."
    )


class ModelVersionStatus(StatusModel):
    """What is known of the version."""

    phase: VersionPhase = Field(
        default="Pending",
        description="For people's eyes; programs read the conditions. Pending: not published, or not checked yet."
        " Running: a Job makes it. Retracted: it is there, and nobody is to use it.",
    )
    observed_generation: int | None = Field(default=None, ge=0, description="The generation that status is about.")
    conditions: Items[Condition] | None = Field(
        default=None, max_length=16, description=conditions_field("Ready"), json_schema_extra=CONDITIONS_SCHEMA
    )
    artifact: ArtifactStatus | None = Field(default=None, description="The artifact.")
    metrics: Mapping[str, Figure] | None = Field(
        default=None, max_length=64, description="Measured on the test split; decimals by the metric's name."
    )
    lineage: VersionLineage | None = Field(default=None, description="Where it came from.")
    steps: Items[VersionStep] | None = Field(
        default=None,
        max_length=MOST_STAGES,
        description="Of import, compress and combine: what was done, and what it did.",
    )
    search: VersionSearch | None = Field(
        default=None, description="Of a compression with a target: what the search for its steps saw."
    )
    size: VersionSize | None = Field(
        default=None, description="Of compress and combine: size and speed of what it is made of, and its own."
    )
    evaluation: EvaluationStatus | None = Field(
        default=None, description="Of import, compress and combine: what it is measured on and compared with."
    )
    storage: StorageStatus | None = Field(
        default=None, description="Of import, compress and combine: the store that is used."
    )
    served_by: Items[VersionUse] | None = Field(
        default=None, max_length=64, description="Who serves it, or is about to; the first 64."
    )
    serving: str | None = Field(
        default=None, max_length=1024, description="The same on one line, for people: digits, edge (next)."
    )


def _named(version: ModelVersion) -> str:
    return model_version_name(version.spec.model, version.spec.version, version.spec.variant)


_CEL_NAMED = (
    "self.spec.model + '-v' + self.spec.version.replace('.', '-')"
    " + (has(self.spec.variant) ? '--' + self.spec.variant : '')"
)


class ModelVersion(ApiObject):
    """One immutable version of a model: where it came from, its artifact, its metrics. Its name says which it is:
    <model>-v<version, dots as hyphens>[--<variant>]."""

    spec: ModelVersionSpec = Field(description="Which version this is. Immutable, all but retracted.")
    status: ModelVersionStatus = Field(
        default=ModelVersionStatus(conditions=before_the_first_look("Ready")),
        description="What is known of it; written by the operator.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        NAME_RULE,
        Rule(
            f"self.metadata.name == {_CEL_NAMED}",
            "'{self.metadata.name}' must say which version it is; write '{named}'",
            lambda version: version.metadata.name == _named(version),
            field="metadata.name",
            terms={"named": (_CEL_NAMED, _named)},
        ),
    )
    names: ClassVar[Names] = Names(
        plural="modelversions",
        singular="modelversion",
        short=("mv",),
        main_condition="Ready",
        columns=(
            Column("Model", ".spec.model", "The model."),
            Column("Version", ".spec.version", "Its version."),
            Column("Variant", ".spec.variant", "Its variant, where it is one."),
            Column("Phase", ".status.phase", "Where it stands."),
            Column("Accuracy", ".status.metrics.accuracy", "Accuracy on the test split."),
            Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', "Why it is ready, or not."),
            Column("Served by", ".status.serving", "The InferenceServices that serve it, or are about to."),
            AGE,
            Column("Retracted", ".spec.retracted.reason", "Why nobody is to use it.", priority=1),
            Column("Digest", ".status.artifact.digest", "sha256 of the artifact's manifest.", priority=1),
            Column(
                "Bytes", ".status.size.version.bytes", "Size of the files that a server loads.", "integer", priority=1
            ),
            Column(
                "Made of", ".status.lineage.parents[0].name", "What it is made of; of several the first.", priority=1
            ),
            Column("Trained by", ".status.lineage.trainingJob.name", "The TrainingJob.", priority=1),
            Column("Message", '.status.conditions[?(@.type=="Ready")].message', "Why, in words.", priority=1),
        ),
        selectable=(".spec.model", ".spec.version"),
    )
