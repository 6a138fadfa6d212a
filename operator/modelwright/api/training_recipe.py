"""What runs in the workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from modelwright.api.base import ApiModel
from modelwright.api.rules import Rule, Rules
from modelwright.api.training_own import Environment, Image, Words
from modelwright.api.types import Name

Recipe = Literal[
    "autoencoder", "cnn", "dbscan", "gradient-boosting", "kmeans", "linear", "mlp", "pca", "transformer"
]  # fmt: skip
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


class VersionRef(ApiModel):
    """A ModelVersion of the same namespace."""

    name: Name = Field(description="Its name. It may be created later.")


class InitFrom(ApiModel):
    """What a fine-tuning begins with."""

    model_version_ref: VersionRef = Field(
        description="The version whose weights and preprocessing the training begins with: of the same recipe, with"
        " hyperparameters that make a module of the same shapes, on the same features and classes. The training waits"
        " until it is Ready, and reads it with its own store's endpoint and credentials."
    )


class Trainer(ApiModel):
    """What runs in the workers: a built-in recipe, or an image and a command of your own (docs/own-code.md)."""

    recipe: Recipe | None = Field(
        default=None,
        description="A built-in recipe. linear, mlp, gradient-boosting: for tables of numbers; cnn: for images;"
        " transformer: for rows of token ids; autoencoder, pca: for rows that are unlike the rest; kmeans, dbscan:"
        " for groups of rows. docs/recipes.md says when to take which.",
    )
    hyperparameters: Hyperparameters | None = Field(
        default=None,
        description="Of the recipe, by name, as strings. Those left out have the recipe's defaults; wrong ones are told"
        " in status.",
    )
    init_from: InitFrom | None = Field(
        default=None, description="With a recipe: what a fine-tuning begins with. Left out: weights drawn by the seed."
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
            "!has(self.initFrom) || !has(self.image)",
            "initFrom is of a recipe; your own code loads what it likes",
            lambda trainer: trainer.init_from is None or trainer.image is None,
            field="initFrom",
        ),
        Rule(
            "!has(self.recipe) || !(has(self.command) || has(self.args) || has(self.env))",
            "command, args and env are of your own code, and so of an image; leave them out beside a recipe",
            lambda trainer: (
                trainer.recipe is None or (trainer.command is None and trainer.args is None and trainer.env is None)
            ),
        ),
    )
