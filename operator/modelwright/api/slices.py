"""Slices: the metrics of a part of the test rows, which a mean over all of them hides."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from modelwright.api.base import ApiModel, StatusModel
from modelwright.api.rules import Rule
from modelwright.api.types import DecimalText, Figure, Items, cel_is_decimal

_MOST_PIECES = 8
_CEL_ASCENDING = (
    f"!self.bounds.all(bound, {cel_is_decimal('bound')})"
    " || self.bounds.all(bound, self.bounds.exists_one(other, double(other) == double(bound)))"
)


class Slice(ApiModel):
    """The rows by a column: of each of some values, or between bounds."""

    column: Annotated[str, StringConstraints(min_length=1, max_length=128)] = Field(
        description="A column that the model learns from."
    )
    values: Annotated[Items[DecimalText], Field(min_length=1, max_length=_MOST_PIECES)] | None = Field(
        default=None, description='A slice for each value, such as "0" and "1" of a truth value.'
    )
    bounds: Annotated[Items[DecimalText], Field(min_length=1, max_length=_MOST_PIECES - 1)] | None = Field(
        default=None, description="A slice below the least, one from each to the next, and one from the largest on."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.values) != has(self.bounds)",
            "give exactly one of values and bounds",
            lambda one: (one.values is None) != (one.bounds is None),
        ),
        Rule(
            f"!has(self.bounds) || {_CEL_ASCENDING}",
            "bounds are each once",
            lambda one: one.bounds is None or len({Decimal(bound) for bound in one.bounds}) == len(one.bounds),
            field="bounds",
        ),
    )


class PartFigures(StatusModel):
    """Metrics of a part of the test rows."""

    name: str = Field(max_length=256, description="Which rows, such as age>=65; or a class.")
    rows: int = Field(ge=0, description="How many.")
    metrics: Mapping[str, Figure] | None = Field(
        default=None, max_length=8, description="Decimals by the metric's name; none where there are no rows."
    )
