"""What runs in the workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from modelwright.api.base import ApiModel
from modelwright.api.rules import Rule, Rules

Recipe = Literal["mlp"]
_HYPERPARAMETER_LENGTH = 63


Hyperparameters = Annotated[
    Mapping[
        Annotated[str, StringConstraints(min_length=1, max_length=_HYPERPARAMETER_LENGTH)],
        Annotated[str, StringConstraints(max_length=256)],
    ],
    Field(max_length=32),
    Rules(
        Rule(
            f"self.all(name, name.size() >= 1 && name.size() <= {_HYPERPARAMETER_LENGTH})",
            f"a hyperparameter's name has 1 to {_HYPERPARAMETER_LENGTH} characters",
            lambda given: all(1 <= len(name) <= _HYPERPARAMETER_LENGTH for name in given),
        )
    ),
]


class Trainer(ApiModel):
    """What runs in the workers."""

    recipe: Recipe = Field(description="A built-in recipe. mlp: a multilayer perceptron for tables of numbers.")
    hyperparameters: Hyperparameters | None = Field(
        default=None,
        description="Of the recipe, by name, as strings. Those left out have the recipe's defaults; wrong ones are told"
        " in status.",
    )
