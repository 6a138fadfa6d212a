"""How the rows of a Dataset come to be for training, validation and test."""

from __future__ import annotations

from decimal import Decimal
from typing import ClassVar

from pydantic import Field

from modelwright.api.base import ApiModel
from modelwright.api.rules import Rule
from modelwright.api.types import Fraction, cel_is_fraction

FRACTIONS = {"train": "0.8", "validation": "0.1", "test": "0.1"}


def fraction(split: DatasetSplit, part: str) -> Decimal:
    """The share of the rows that a part gets."""
    return Decimal(getattr(split, part) or FRACTIONS[part])


def _cel(part: str) -> str:
    return f"(has(self.{part}) ? self.{part} : '{FRACTIONS[part]}')"


_WRITTEN = " && ".join(cel_is_fraction(_cel(part)) for part in FRACTIONS)


class DatasetSplit(ApiModel):
    """The parts that the rows are divided into: by fractions that add up to 1, the same for the same rows and seed; or
    as a column says. Of rows that lie divided in files of their own, source says the parts."""

    train: Fraction | None = Field(default=None, description='Share of the rows to train on. Left out: "0.8".')
    validation: Fraction | None = Field(
        default=None, description='Share to watch trainings with, after each epoch; "0" for none. Left out: "0.1".'
    )
    test: Fraction | None = Field(
        default=None, description='Share to measure the metrics and gates on. Left out: "0.1".'
    )
    stratify: bool | None = Field(
        default=None,
        description="Keep the classes' shares the same in each part. Left out: yes, where there are classes.",
    )
    column: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="The column that says which part a row is in: train, validation or test (or training; valid, val or"
        " dev; testing or eval). It is dropped.",
    )
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="Of the random order in which rows are drawn.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.column) || !(has(self.train) || has(self.validation) || has(self.test) || has(self.stratify))",
            "column says which part a row is in; leave out train, validation, test and stratify",
            lambda split: split.column is None or not _drawn(split),
        ),
        Rule(
            f"!({_WRITTEN}) || ({' + '.join(f'double({_cel(part)})' for part in FRACTIONS)} > 0.9999999"
            f" && {' + '.join(f'double({_cel(part)})' for part in FRACTIONS)} < 1.0000001)",
            "train {train}, validation {validation} and test {test} must add up to 1",
            lambda split: sum(fraction(split, part) for part in FRACTIONS) == 1,
            terms={
                part: (_cel(part), lambda split, part=part: getattr(split, part) or FRACTIONS[part])  # type: ignore[misc]
                for part in FRACTIONS
            },
        ),
        Rule(
            f"!({_WRITTEN}) || (double({_cel('train')}) > 0.0 && double({_cel('test')}) > 0.0)",
            "train and test must be above 0: a model is trained on the one and measured on the other",
            lambda split: fraction(split, "train") > 0 and fraction(split, "test") > 0,
        ),
    )


def _drawn(split: DatasetSplit) -> bool:
    """Whether anything is said of how parts are drawn."""
    return not (split.train is None and split.validation is None and split.test is None and split.stratify is None)


CEL_SAYS_PARTS = (
    "(has(self.split.column) || has(self.split.train) || has(self.split.validation) || has(self.split.test)"
    " || has(self.split.stratify))"
)


def says_parts(split: DatasetSplit) -> bool:
    """Whether it says more than a seed."""
    return split.column is not None or _drawn(split)
