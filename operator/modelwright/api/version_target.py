"""What a compressed version must be, where a search is to find its steps."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from modelwright.api.base import ApiModel
from modelwright.api.evaluation import Metric
from modelwright.api.rules import Rule, Rules, cel_matches
from modelwright.api.types import DecimalText, cel_is_decimal

_BYTES_PATTERN = "[1-9][0-9]{0,11}(Ki|Mi|Gi|k|M|G)?"
_LATENCY_PATTERN = "[0-9]{1,6}([.][0-9]{1,3})?ms"
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}

ByteCount = Annotated[
    str,
    StringConstraints(min_length=1, max_length=16),
    Rules(
        Rule(
            cel_matches("self", _BYTES_PATTERN),
            "'{self}' is no number of bytes; write a whole one with or without a unit, such as 20Ki or \"20480\"",
            lambda text: re.fullmatch(_BYTES_PATTERN, text) is not None,
        )
    ),
]
Latency = Annotated[
    str,
    StringConstraints(min_length=1, max_length=16),
    Rules(
        Rule(
            f"{cel_matches('self', _LATENCY_PATTERN)} && !{cel_matches('self', '0+([.]0+)?ms')}",
            "'{self}' is not a latency; write milliseconds above 0, such as 1ms or 0.25ms",
            lambda text: re.fullmatch(_LATENCY_PATTERN, text) is not None and float(text.removesuffix("ms")) > 0,
        )
    ),
]


def byte_count(text: str) -> int:
    """Of a `ByteCount`."""
    digits = text.rstrip("KMGki")
    return int(digits) * _UNITS[text[len(digits) :]]


def milliseconds(text: str) -> float:
    """Of a `Latency`."""
    return float(text.removesuffix("ms"))


class CompressTarget(ApiModel):
    """What the version must be, and how much worse for that it may be. Candidates are made of pruning, clustering and
    quantizing, scored on the validation split and never on the test split; status.search has what was seen."""

    bytes: ByteCount | None = Field(
        default=None, description="The most that the files that a server loads take together, such as 20Ki."
    )
    latency_p50: Latency | None = Field(
        default=None,
        description="The longest median time of one row in the server's runtime on one thread, such as 0.25ms.",
    )
    metric: Metric | None = Field(
        default=None,
        description="What maxRegression is of. Left out: accuracy of a classification or of a language model, rmse of a"
        " regression, reconstruction_error of anomalies.",
    )
    max_regression: DecimalText = Field(
        description="How much worse than the version that it is made of it may be on the validation split, such as"
        ' "0.01".'
    )
    epochs: int = Field(default=4, ge=0, le=1000, description="Of training after each step that is tried.")
    candidates: int = Field(default=24, ge=1, le=100, description="How many are tried at most.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.bytes) || has(self.latencyP50)",
            "give bytes, latencyP50 or both",
            lambda target: target.bytes is not None or target.latency_p50 is not None,
        ),
        Rule(
            f"!{cel_is_decimal('self.maxRegression')} || double(self.maxRegression) >= 0.0",
            'maxRegression {self.maxRegression} is below 0; write how much worse it may be, such as "0.01"',
            lambda target: float(target.max_regression) >= 0,
            field="maxRegression",
        ),
    )
