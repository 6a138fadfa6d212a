"""The rows of a training, and the parts that they are divided into."""

from __future__ import annotations

from decimal import Decimal
from typing import ClassVar

from pydantic import Field

from modelwright.api.base import ApiModel
from modelwright.api.rules import Rule
from modelwright.api.tasks import CEL_WITHOUT_TARGET, WITHOUT_TARGET, Task
from modelwright.api.types import DataUri, Fraction, Name, cel_is_fraction


class Split(ApiModel):
    """The parts that the rows are divided into, as fractions that add up to 1. The same seed and data give the same
    parts, on any number of workers."""

    train: Fraction = Field(default="0.8", description="Rows to train on.")
    validation: Fraction = Field(
        default="0.1", description='Rows to watch the training with, after each epoch. "0" for none.'
    )
    test: Fraction = Field(default="0.1", description="Rows to measure the metrics and gates on, once, in the end.")
    stratify: bool | None = Field(
        default=None,
        description="With the task Classification: keep the classes' shares the same in each part. Left out: true.",
    )
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


class DatasetRef(ApiModel):
    """A Dataset of the same namespace."""

    name: Name = Field(description="Its name. It may be created later.")


class Data(ApiModel):
    """The rows to train on: a file, with what its columns are for and how it is divided; or a Dataset, which says all
    that itself."""

    uri: DataUri | None = Field(
        default=None,
        description="A parquet file: s3://bucket/path/rows.parquet, or file:///path on a volume. For your own code any"
        " file, or a prefix that ends with a slash: all files below it.",
    )
    dataset_ref: DatasetRef | None = Field(
        default=None,
        description="A Dataset. The first attempt waits until it has Succeeded; all train on what it was then.",
    )
    target: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="With uri: the column to predict; all others are features, and numbers. Required with a recipe that"
        " predicts one; your own code finds it as MODELWRIGHT_TARGET.",
    )
    task: Task | None = Field(
        default=None,
        description="What is learned. Classification: which of several classes a row is of. Regression: a number."
        " AnomalyDetection: how unlike the rest a row is. Clustering: which rows are alike. LanguageModelling: which"
        " token comes next, of rows of token ids. The latter three have no target, and can be done on a Dataset, whose"
        " target is passed over; the former are a Dataset's own to say. Required with uri and a recipe; your own"
        " code finds it as MODELWRIGHT_TASK.",
    )
    split: Split | None = Field(
        default=None,
        description='With uri and a recipe: the parts that the rows are divided into. Left out: "0.8", "0.1" and "0.1",'
        " stratified.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.uri) != has(self.datasetRef)",
            "give exactly one of uri and datasetRef",
            lambda data: (data.uri is None) != (data.dataset_ref is None),
        ),
        Rule(
            "!has(self.datasetRef) || !(has(self.target) || has(self.split)"
            f" || (has(self.task) && !(self.task in {CEL_WITHOUT_TARGET})))",
            "target, task and split are the Dataset's own; leave them out beside datasetRef",
            lambda data: (
                data.dataset_ref is None
                or (data.target is None and data.split is None and data.task in (None, *WITHOUT_TARGET))
            ),
        ),
        Rule(
            "!has(self.split) || !has(self.split.stratify) || !self.split.stratify"
            " || !has(self.task) || self.task == 'Classification'",
            "stratify keeps the shares of classes, and the task {self.task} has none; leave it out",
            lambda data: data.split is None or not data.split.stratify or data.task in (None, "Classification"),
            field="split.stratify",
        ),
    )
