"""What runs in the workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from modelwright.api.base import ApiModel
from modelwright.api.rules import Rule, Rules
from modelwright.api.training_own import Environment, Image, Words

Recipe = Literal["autoencoder", "cnn", "linear", "mlp", "transformer"]
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
    """What runs in the workers: a built-in recipe, or an image and a command of your own (docs/own-code.md)."""

    recipe: Recipe | None = Field(
        default=None,
        description="A built-in recipe. linear, mlp: for tables of numbers; cnn: for images; transformer: for rows of"
        " token ids; autoencoder: for rows that are unlike the rest. docs/recipes.md says when to take which.",
    )
    hyperparameters: Hyperparameters | None = Field(
        default=None,
        description="Of the recipe, by name, as strings. Those left out have the recipe's defaults; wrong ones are told"
        " in status.",
    )
    image: Image | None = Field(default=None, description="The image with your own code; nothing of ours is in it.")
    command: Words | None = Field(
        default=None, description="What is run in the image. Left out: the image's own entry point."
    )
    args: Words | None = Field(
        default=None, description="The command's arguments. Left out: the image's own, where command is left out, too."
    )
    env: Environment | None = Field(
        default=None,
        description="Variables of its environment.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.recipe) != has(self.image)",
            "give exactly one of recipe, a built-in one, and image, with your own code",
            lambda trainer: (trainer.recipe is None) != (trainer.image is None),
        ),
        Rule(
            "!has(self.hyperparameters) || !has(self.image)",
            "hyperparameters are of a recipe; your own code has args and env",
            lambda trainer: trainer.hyperparameters is None or trainer.image is None,
            field="hyperparameters",
        ),
        Rule(
            "!has(self.recipe) || !(has(self.command) || has(self.args) || has(self.env))",
            "command, args and env are of your own code, and so of an image; leave them out beside a recipe",
            lambda trainer: (
                trainer.recipe is None or (trainer.command is None and trainer.args is None and trainer.env is None)
            ),
        ),
    )
