"""The contract between the operator and the Job that prepares a data set, and what that leaves in the store.

In: a `DatasetRun` as JSON in `DATASET_VARIABLE`; the store's credentials as AWS_* variables from the user's Secret.
Out: one of `contract.Outcome`s as exit code, a `DatasetSummary` as termination message, and in the store, below
`<store>/datasets/<namespace>/<name>/`, the rows as `shards/<sha256>.parquet` and, created last and never overwritten,
`manifests/<sha256>.json`: a `DatasetManifest`, which names every shard by its digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from modelwright.contract import Failure, Message, Published, Shape, Split, StoreAccess

COMMAND = ("dataset",)
"""Arguments of the trainer image's entry point."""
DATASET_VARIABLE = "MODELWRIGHT_DATASET"
SUFFIXES: Mapping[str, str] = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
"""What a file's name ends with, and the format that it is read as."""

_DIGEST = r"^sha256:[0-9a-f]{64}$"
PartName = Literal["train", "validation", "test"]
DatasetTask = Literal["Classification", "Regression"]


class Checks(Shape):
    """What must hold of the rows. `min_class_fraction`: each class's share of the rows is at least this; `unique`: no
    two rows have the same value in the column."""

    min_rows: int | None = Field(default=None, ge=1)
    no_missing: tuple[str, ...] = ()
    min_class_fraction: float | None = Field(default=None, gt=0, le=1)
    unique: tuple[str, ...] = ()


class Given(Shape):
    """Parts that the rows came divided into: as `column` says, or, where that is None, by their files. `seed` is of the
    order within a part."""

    given: Literal[True] = True
    column: str | None = None
    seed: int = Field(default=0, ge=0, lt=2**32)


class DatasetRun(Shape):
    """What to read, how to check and split it, and where to put it. The source is `source_uri`, or, of rows that came
    divided, `part_uris`. One that ends with a slash is a prefix: all files below it whose names end with one of
    `SUFFIXES`, which must be of one format. Without `target` and `task` nothing is to be predicted."""

    contract: Literal[1] = 1
    namespace: str
    name: str
    source_uri: str | None = None
    part_uris: Mapping[PartName, str] = Field(default_factory=dict)
    store: StoreAccess
    target: str | None = None
    task: DatasetTask | None = None
    split: Split | Given = Split()
    checks: Checks = Checks()

    @model_validator(mode="after")
    def _whole(self) -> DatasetRun:
        if (self.source_uri is None) == (not self.part_uris):
            raise ValueError("give exactly one of source_uri and part_uris")
        if (self.target is None) != (self.task is None):
            raise ValueError("give both target and task, or none of them")
        return self


class SourceFile(Shape):
    """A file as it was read. `rows` are without a header; `part` is the one that all of them are in, where the files
    say it."""

    uri: str
    bytes: int
    rows: int
    part: PartName | None = None


class ColumnProfile(Shape):
    """Of one column. `missing` counts rows without a value, NaN included; `minimum`, `maximum` and `mean` are over the
    finite numbers, `infinite` counts the others. `quantiles` are by probability ("0.25"); `histogram` counts the finite
    numbers in bins of equal width from minimum to maximum. `distinct` is an estimate (HyperLogLog)."""

    name: str
    type: str
    missing: int
    distinct: int
    infinite: int | None = None
    minimum: float | str | None = None
    maximum: float | str | None = None
    mean: float | None = None
    quantiles: Mapping[str, float] | None = None
    histogram: tuple[int, ...] | None = None


class ClassCount(Shape):
    """`splits` are the rows of the class in each part."""

    name: str
    rows: int
    splits: Mapping[PartName, int]


class Shard(Shape):
    """A parquet file; `path` is relative to the data set's folder."""

    path: str
    digest: str = Field(pattern=_DIGEST)
    bytes: int
    rows: int

    @model_validator(mode="after")
    def _by_content(self) -> Shard:
        if self.path != shard_path(self.digest):
            raise ValueError(f"{self.path} is not where a shard of {self.digest} lies")
        return self


class SplitShards(Shape):
    rows: int
    shards: tuple[Shard, ...]


class Leakage(Shape):
    """Rows of which an equal one is in another split: `contents` is how many different such rows there are, `rows` how
    many there are of them in all; `examples` are groups of positions of equal rows."""

    contents: int
    rows: int
    examples: tuple[tuple[str, ...], ...] = ()


class DatasetManifest(Shape):
    """All that is known of a prepared data set. `approximate` says which figures are no exact ones, and why."""

    schema_version: Literal[1] = 1
    namespace: str
    name: str
    source_uri: str | None = None
    part_uris: Mapping[PartName, str] = Field(default_factory=dict)
    sources: tuple[SourceFile, ...]
    target: str | None = None
    task: DatasetTask | None = None
    split: Split | Given
    checks: Checks
    rows: int
    bytes: int
    columns: tuple[ColumnProfile, ...]
    classes: tuple[ClassCount, ...]
    splits: Mapping[PartName, SplitShards]
    leakage: Leakage
    warnings: tuple[str, ...]
    approximate: Mapping[str, str]
    frameworks: Mapping[str, str]


def folder_uri(store_uri: str, namespace: str, name: str) -> str:
    """Where a data set lies; without a slash at its end."""
    return f"{store_uri.rstrip('/')}/datasets/{namespace}/{name}"


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def shard_path(digest: str) -> str:
    return f"shards/{digest.removeprefix('sha256:')}.parquet"


def manifest_path(digest: str) -> str:
    return f"manifests/{digest.removeprefix('sha256:')}.json"


def folder_of(manifest_uri: str) -> str:
    """The folder that a manifest's paths are relative to."""
    return manifest_uri.rsplit("/", 2)[0]


class DatasetSummary(Message):
    """The termination message of the Job's pod. `bytes` is the size of all shards, `classes` the rows of the classes
    that have most, `failed_checks` whether it failed by the checks that the user wrote."""

    outcome: str
    exit_code: int
    manifest: Published | None = None
    rows: int = 0
    bytes: int = 0
    columns: int = 0
    splits: Mapping[PartName, int] = Field(default_factory=dict)
    class_count: int = 0
    classes: Mapping[str, int] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    failed_checks: bool = False
    failure: Failure | None = None

    def shorter(self) -> DatasetSummary | None:
        """First the outer frames go, then the smallest classes, the last warnings, and the message's end."""
        if self.failure and self.failure.frames:
            return self.model_copy(update={"failure": self.failure.without_outer_frame()})
        if len(self.classes) > 10 or (self.classes and not self.warnings):
            return self.model_copy(update={"classes": dict(list(self.classes.items())[: len(self.classes) // 2])})
        if self.warnings:
            return self.model_copy(update={"warnings": self.warnings[:-1]})
        failure = self.failure.shorter() if self.failure else None
        return self.model_copy(update={"failure": failure}) if failure else None
