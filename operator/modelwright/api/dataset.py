"""Dataset: rows that are checked, split, profiled and laid out in the store once, for many trainings."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue, StringConstraints

from modelwright.api.base import AGE, NAME_RULE, ApiModel, ApiObject, Column, Names, StatusModel
from modelwright.api.conditions import CONDITIONS_SCHEMA, Condition, before_the_first_look, conditions_field
from modelwright.api.dataset_split import CEL_SAYS_PARTS, DatasetSplit, says_parts
from modelwright.api.pods import PodTemplateOverlay, Resources
from modelwright.api.rules import Rule
from modelwright.api.storage import ArtifactRef, Storage, StorageStatus
from modelwright.api.types import Fraction, Items, SourceUri, cel_is_fraction, each_once

DatasetPhase = Literal["Pending", "Running", "Succeeded", "Failed"]
_ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=256)]
_SET: dict[str, JsonValue] = {"x-kubernetes-list-type": "set"}


class DatasetSource(ApiModel):
    """Where the rows come from: one place; or, where they are divided already, one for each part."""

    uri: SourceUri | None = Field(
        default=None,
        description="A parquet, csv or jsonl file, s3://bucket/path/rows.parquet or file:///path/rows.csv on a volume;"
        " or a prefix, which ends with a slash: all such files below it, of one format.",
    )
    train: SourceUri | None = Field(default=None, description="The rows to train on, of either form.")
    validation: SourceUri | None = Field(
        default=None, description="The rows to watch trainings with, after each epoch. Left out: none."
    )
    test: SourceUri | None = Field(default=None, description="The rows to measure the metrics and gates on.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.uri) != (has(self.train) || has(self.validation) || has(self.test))",
            "give uri; or train, test and perhaps validation, for rows that are divided already",
            lambda source: (source.uri is not None) != any(source.parts),
        ),
        Rule(
            "has(self.uri) || has(self.train) == has(self.test)",
            "give both train and test: a model is trained on the one and measured on the other",
            lambda source: source.uri is not None or (source.train is None) == (source.test is None),
        ),
    )

    @property
    def parts(self) -> tuple[str, ...]:
        """The URIs of rows that are divided already."""
        return tuple(uri for uri in (self.train, self.validation, self.test) if uri is not None)

    @property
    def uris(self) -> tuple[str, ...]:
        return (self.uri,) if self.uri is not None else self.parts

    @property
    def said(self) -> str:
        """For messages."""
        return " and ".join(self.uris)


class DatasetSchema(ApiModel):
    """What the columns are for. Without a target nothing is to be predicted: the rows are profiled and divided."""

    target: str | None = Field(default=None, min_length=1, max_length=256, description="The column to predict.")
    task: Literal["Classification", "Regression"] | None = Field(
        default=None,
        description="What is predicted. Classification: one of several classes. Regression: a number.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.target) == has(self.task)",
            "give both target and task: which column is to be predicted, and as what; or none of them",
            lambda schema: (schema.target is None) == (schema.task is None),
        ),
    )


class DatasetChecks(ApiModel):
    """What must hold of the rows. Where it does not, the Dataset fails, and says which rows they are."""

    min_rows: int | None = Field(default=None, ge=1, le=10**12, description="The least number of rows.")
    no_missing: Annotated[Items[_ColumnName], Field(max_length=64), each_once("column", str)] | None = Field(
        default=None,
        description="Columns that have a value in each row. The target must in any case.",
        json_schema_extra=_SET,
    )
    min_class_fraction: Fraction | None = Field(
        default=None, description='The least share of the rows that each class has, such as "0.05".'
    )
    unique: Annotated[Items[_ColumnName], Field(max_length=16), each_once("column", str)] | None = Field(
        default=None, description="Columns in which no value occurs twice.", json_schema_extra=_SET
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!has(self.minClassFraction) || !{cel_is_fraction('self.minClassFraction')} ||"
            " (double(self.minClassFraction) > 0.0 && double(self.minClassFraction) <= 0.5)",
            "minClassFraction {self.minClassFraction} cannot be: there are two classes or more, so it is above 0 and at"
            ' most "0.5"',
            lambda checks: (
                checks.min_class_fraction is None or 0 < Decimal(checks.min_class_fraction) <= Decimal("0.5")
            ),
            field="minClassFraction",
        ),
    )


_CEL_FILES = " && ".join(
    f"(!has(self.source.{part}) || self.source.{part}.startsWith('file://'))"
    for part in ("uri", "train", "validation", "test")
)
_CEL_CLASSES = "(has(self.schema.task) && self.schema.task == 'Classification')"


def _on_volumes_alone(spec: DatasetSpec) -> bool:
    store = spec.storage
    return (
        store is not None
        and (store.uri or "").startswith("file://")
        and all(uri.startswith("file://") for uri in spec.source.uris)
        and not (store.endpoint is None and store.region is None and store.secret_ref is None)
    )


class DatasetSpec(ApiModel):
    """What to read, what must hold of it, and how to divide it. A change prepares the data set anew."""

    source: DatasetSource = Field(description="Where the rows come from.")
    storage: Storage | None = Field(
        default=None, description="The store that the source is read from and the data set written to."
    )
    # The name in the API is schema, which pydantic's models have a method of.
    schema_: DatasetSchema = Field(alias="schema", description="What the columns are for.")
    split: DatasetSplit = Field(default=DatasetSplit(), description="The parts that the rows are divided into.")
    checks: DatasetChecks = Field(default=DatasetChecks(), description="What must hold of the rows.")
    resources: Resources | None = Field(
        default=None,
        description="What the pod needs. Rows beyond its memory limit go through its scratch volume, which takes about"
        " three times the source's size.",
    )
    pod_template: PodTemplateOverlay | None = Field(
        default=None, description="What to add to the pod: the volume of a source or store that is file://."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.storage) && has(self.storage.uri) && self.storage.uri.startsWith('file://')"
            f" && {_CEL_FILES}"
            " && (has(self.storage.endpoint) || has(self.storage.region) || has(self.storage.secretRef)))",
            "endpoint, region and secretRef are of s3://, but the source and storage.uri are file://; leave them out",
            lambda spec: not _on_volumes_alone(spec),
            field="storage",
        ),
        Rule(
            f"has(self.source.uri) || !{CEL_SAYS_PARTS}",
            "the source says which part each row is in; leave out all of split but seed",
            lambda spec: spec.source.uri is not None or not says_parts(spec.split),
            field="split",
        ),
        Rule(
            f"!(has(self.split.stratify) && self.split.stratify) || {_CEL_CLASSES}",
            "stratify keeps the shares of classes, and there are none without the task Classification; leave it out",
            lambda spec: not spec.split.stratify or spec.schema_.task == "Classification",
            field="split",
        ),
        Rule(
            f"!has(self.checks.minClassFraction) || {_CEL_CLASSES}",
            "minClassFraction is of classes, and there are none without the task Classification; leave it out",
            lambda spec: spec.checks.min_class_fraction is None or spec.schema_.task == "Classification",
            field="checks",
        ),
    )


class SplitRows(StatusModel):
    """Rows of each part."""

    train: int = Field(ge=0, description="To train on.")
    validation: int = Field(ge=0, description="To watch the training with.")
    test: int = Field(ge=0, description="To measure on.")


class ClassRows(StatusModel):
    """A class."""

    name: str = Field(max_length=64, description="Its value in the target's column.")
    rows: int = Field(ge=0, description="How many rows are of it.")


class DatasetStatus(StatusModel):
    """What became of the data set."""

    phase: DatasetPhase = Field(
        default="Pending",
        description="For people's eyes; programs read the conditions. Pending: the pod does not run yet.",
    )
    observed_generation: int | None = Field(default=None, ge=0, description="The generation that status is about.")
    conditions: Items[Condition] | None = Field(
        default=None, max_length=16, description=conditions_field("Succeeded"), json_schema_extra=CONDITIONS_SCHEMA
    )
    artifact: ArtifactRef | None = Field(
        default=None,
        description="The data set's manifest, which names all shards by their digests and holds the profile.",
    )
    rows: int | None = Field(default=None, ge=0, description="Rows of all parts together.")
    bytes: int | None = Field(default=None, ge=0, description="Size of all shards together.")
    columns: int | None = Field(default=None, ge=0, description="Number of columns, the target among them.")
    splits: SplitRows | None = Field(default=None, description="Rows of each part.")
    class_count: int | None = Field(default=None, ge=0, description="Number of classes, where there are any.")
    classes: Items[ClassRows] | None = Field(
        default=None, max_length=32, description="The classes that have most rows; the manifest has all."
    )
    warnings: Items[Annotated[str, StringConstraints(max_length=1024)]] | None = Field(
        default=None,
        max_length=16,
        description="What a person should look at: the same row in two splits, classes of few rows, constant columns, a"
        " test split too small to tell models apart.",
    )
    storage: StorageStatus | None = Field(default=None, description="The store that is used.")


class Dataset(ApiObject):
    """Checks, splits and profiles rows, and lays them out in the store as shards with digests, for trainings to use."""

    spec: DatasetSpec = Field(description="What to read, what must hold of it, and how to divide it.")
    status: DatasetStatus = Field(
        default=DatasetStatus(conditions=before_the_first_look("Succeeded")),
        description="What became of it; written by the operator.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (NAME_RULE,)
    names: ClassVar[Names] = Names(
        plural="datasets",
        singular="dataset",
        short=("dset",),
        main_condition="Succeeded",
        columns=(
            Column("Phase", ".status.phase", "Where it stands."),
            Column("Rows", ".status.rows", "Rows of all parts together.", "integer"),
            Column("Train", ".status.splits.train", "Rows to train on.", "integer"),
            Column("Test", ".status.splits.test", "Rows to measure on.", "integer"),
            Column("Classes", ".status.classCount", "Number of classes.", "integer"),
            Column("Reason", '.status.conditions[?(@.type=="Succeeded")].reason', "Why it is in that phase."),
            AGE,
            Column("Digest", ".status.artifact.digest", "sha256 of the manifest.", priority=1),
            Column("Warnings", ".status.warnings", "What a person should look at.", priority=1),
            Column("Message", '.status.conditions[?(@.type=="Succeeded")].message', "Why, in words.", priority=1),
        ),
    )
