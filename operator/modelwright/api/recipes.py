"""The hyperparameters of the built-in recipes: which there are, their ranges and defaults, and how they are read from
the strings of a TrainingJob. The operator checks with it before a pod is started, the trainer reads with it; so this
module imports nothing of either."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

PATH = "spec.trainer.hyperparameters"
_WHOLE = "a whole number, such as 64"
_NUMBER = "a number, such as 0.001 or 1e-3"
_WIDTHS = "whole numbers with commas between, such as 300,100"
_IMAGE = "channels, height and width from 1 to 9999 with commas between, such as 1,28,28"


def _form(pattern: str, form: str) -> BeforeValidator:
    """Python reads "6_4" and " 64" as 64 and "nan" as a number; in YAML these are mistakes."""

    def read(value: Any) -> Any:
        if isinstance(value, str) and not re.fullmatch(pattern, value):
            raise PydanticCustomError("form", "is not {form}", {"form": form})
        return value

    return BeforeValidator(read)


def _widths(value: Any) -> Any:
    return tuple(value.replace(" ", "").split(",")) if isinstance(value, str) else value


Whole = Annotated[int, _form(r"-?[0-9]{1,18}", _WHOLE)]
Number = Annotated[float, _form(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?", _NUMBER)]
# The last annotation is the first to see the string.
Widths = Annotated[
    tuple[Annotated[int, Field(ge=1, le=65536)], ...],
    BeforeValidator(_widths),
    _form(r"-?[0-9]{1,9}( ?, ?-?[0-9]{1,9})*", _WIDTHS),
]

Optimizer = Annotated[Literal["AdamW", "SGD"], _form("AdamW|SGD", "AdamW or SGD")]
Schedule = Annotated[
    Literal["Constant", "Linear", "Cosine"], _form("Constant|Linear|Cosine", "Constant, Linear or Cosine")
]
Precision = Annotated[Literal["fp32", "bf16"], _form("fp32|bf16", "fp32 or bf16")]


ImageShape = Annotated[
    tuple[int, int, int],
    BeforeValidator(_widths),
    _form(r"[1-9][0-9]{0,3}( ?, ?[1-9][0-9]{0,3}){2}", _IMAGE),
]
ClassWeights = Annotated[
    Literal["None", "Balanced"],
    _form("None|Balanced", "None or Balanced"),
    Field(
        description="Balanced: each class counts the same in the loss, however few its rows are; with Classification."
    ),
]
_OF_CLASSES: Mapping[str, tuple[str, ...]] = {"class_weights": ("Classification",)}
Flip = Annotated[
    Literal["None", "Horizontal", "Vertical", "Both"],
    _form("None|Horizontal|Vertical|Both", "None, Horizontal, Vertical or Both"),
]


class Hyperparameters(BaseModel):
    """What all recipes' hyperparameters share. `tasks` are those that the recipe does; `of_tasks` names hyperparameters
    that go with some of them alone."""

    tasks: ClassVar[tuple[str, ...]] = ()
    of_tasks: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, frozen=True, extra="forbid"
    )

    def to_strings(self) -> dict[str, str]:
        """All of them, in the form in which they are given; `parse` reads it back to the same."""
        stated = self.model_dump(by_alias=True)
        return {
            name: ",".join(map(str, value))
            if isinstance(value, tuple)
            else f"{value:g}"
            if _exact(value)
            else str(value)
            for name, value in stated.items()
        }


def _exact(value: Any) -> bool:
    return isinstance(value, float) and float(f"{value:g}") == value


class SteppedHyperparameters(Hyperparameters):
    """What the recipes share that are trained in steps, by gradients."""

    learning_rate: Number = Field(default=0.001, gt=0, le=10, description="The optimizer's step size.")
    batch_size: Whole = Field(
        default=64, ge=1, le=1_000_000, description="Rows of a global batch: of all workers together."
    )
    micro_batch_size: Whole = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="The most rows that a process computes at once: a larger share of the global batch is done in"
        " pieces whose gradients are added up, which takes less memory and learns the same. 0: the whole share.",
    )
    epochs: Whole = Field(default=20, ge=1, le=100_000, description="Passes over the training rows.")
    optimizer: Optimizer = Field(default="AdamW", description="AdamW, or SGD: plain gradient descent without momentum.")
    weight_decay: Number = Field(
        default=0.0, ge=0, le=1, description="Weight decay: decoupled with AdamW, added to the gradient with SGD."
    )
    schedule: Schedule = Field(
        default="Constant",
        description="The course of the learning rate after the warm-up: as it is, or down to 0 at the last step of all"
        " epochs, in a line or half a cosine.",
    )
    warmup_steps: Whole = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="Global batches in which the learning rate rises in a line from almost 0; fewer than there are in"
        " all epochs.",
    )
    gradient_clipping: Number = Field(
        default=0.0,
        ge=0,
        le=1_000_000,
        description="The longest that the gradient of all parameters may be (its 2-norm); a longer one is shortened to"
        " it. 0: any length.",
    )
    precision: Precision = Field(
        default="fp32",
        description="bf16: matrix products in bfloat16 while training; parameters, their updates and the published"
        " model stay in float32.",
    )
    seed: Whole = Field(
        default=0, ge=0, le=2**32 - 1, description="Of the initial weights, the order of rows and the dropout."
    )


class PredictorHyperparameters(SteppedHyperparameters):
    """What the recipes share that predict a column of other columns."""

    tasks: ClassVar[tuple[str, ...]] = ("Classification", "Regression")
    of_tasks: ClassVar[Mapping[str, tuple[str, ...]]] = _OF_CLASSES

    class_weights: ClassWeights = "None"
    noise: Number = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Normal noise that is added to the features in training, as a share of each one's standard"
        " deviation.",
    )
    mixup: Number = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Where above 0, rows of a batch are mixed in pairs, targets too, in shares that a Beta distribution"
        " with this as both parameters draws (mixup); 0.2 is usual.",
    )


class MlpHyperparameters(PredictorHyperparameters):
    """A multilayer perceptron: linear layers with ReLU and dropout between, trained by gradients."""

    hidden_sizes: Widths = Field(
        default=(128, 64), min_length=1, max_length=16, description="Widths of the hidden layers, first to last."
    )
    dropout: Number = Field(default=0.0, ge=0, lt=1, description="Share of activations that are dropped in training.")


class LinearHyperparameters(PredictorHyperparameters):
    """Logistic regression (multinomial), or linear regression: one linear layer on standardized columns, trained with
    AdamW, whose weightDecay is the regularization."""


class CnnHyperparameters(PredictorHyperparameters):
    """A convolutional network for images, whose pixels are the columns, channel by channel and row by row: 3×3
    convolutions with ReLU and pooling that halves height and width after each, then a hidden layer."""

    image_shape: ImageShape = Field(description="Channels, height and width of the images, such as 3,32,32.")
    channels: Widths = Field(
        default=(16, 32), min_length=1, max_length=8, description="Channels of the convolutions, first to last."
    )
    hidden_size: Whole = Field(default=64, ge=1, le=65536, description="Width of the layer behind them.")
    dropout: Number = Field(default=0.0, ge=0, lt=1, description="Share of that layer that is dropped in training.")
    crop: Whole = Field(
        default=0,
        ge=0,
        le=64,
        description="Each image is moved in training by up to so many pixels, both ways; what it leaves is filled with"
        " its edge.",
    )
    rotate: Number = Field(
        default=0.0, ge=0, le=180, description="Each image is turned in training by up to so many degrees, both ways."
    )
    flip: Flip = Field(
        default="None", description="How half of the images are mirrored in training; Both: each way by itself."
    )


class AutoencoderHyperparameters(SteppedHyperparameters):
    """An autoencoder: it learns to give back rows through a narrow layer. A row that it gives back badly is unlike
    those that it learned from: the error is the anomaly score."""

    tasks: ClassVar[tuple[str, ...]] = ("AnomalyDetection",)

    hidden_sizes: Widths = Field(
        default=(64, 32),
        min_length=1,
        max_length=16,
        description="Widths of the layers before the narrow one; those behind it are the same in reverse.",
    )
    code_size: Whole = Field(
        default=8, ge=1, le=65536, description="Width of the narrow layer; less than there are columns."
    )
    noise: Number = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Normal noise on the rows in training, as a share of each column's standard deviation; what is to"
        " be given back is without it (denoising).",
    )


class TransformerHyperparameters(SteppedHyperparameters):
    """A transformer on rows of token ids, one column for each position. Classification: each token sees all, and the
    mean over them tells the class. LanguageModelling: each token sees those before it, and tells the next."""

    tasks: ClassVar[tuple[str, ...]] = ("Classification", "LanguageModelling")
    of_tasks: ClassVar[Mapping[str, tuple[str, ...]]] = _OF_CLASSES

    vocabulary: Whole = Field(
        ge=2, le=1_000_000, description="How many tokens there are: ids are 0 to one less. -1 pads a row at its end."
    )
    layers: Whole = Field(default=2, ge=1, le=48, description="Number of blocks of attention and two linear layers.")
    heads: Whole = Field(default=4, ge=1, le=64, description="Heads of attention in each block.")
    head_size: Whole = Field(default=16, ge=1, le=256, description="Width of a head; the model is heads times it wide.")
    dropout: Number = Field(default=0.0, ge=0, lt=1, description="Share of activations that are dropped in training.")
    class_weights: ClassWeights = "None"


class FittedHyperparameters(Hyperparameters):
    """What the recipes share that are fitted at once, by one process that holds the training rows in memory."""

    seed: Whole = Field(default=0, ge=0, le=2**32 - 1, description="Of what is drawn at random.")


class GradientBoostingHyperparameters(FittedHyperparameters):
    """Trees that each correct those before it, on columns in 255 bins (scikit-learn's HistGradientBoosting)."""

    tasks: ClassVar[tuple[str, ...]] = ("Classification", "Regression")
    of_tasks: ClassVar[Mapping[str, tuple[str, ...]]] = _OF_CLASSES

    trees: Whole = Field(
        default=100, ge=1, le=10_000, description="How many, one after the other; with more than two classes, of each."
    )
    learning_rate: Number = Field(default=0.1, gt=0, le=1, description="The share of its correction that a tree makes.")
    leaves: Whole = Field(default=31, ge=2, le=10_000, description="The most leaves of a tree.")
    min_leaf_rows: Whole = Field(default=20, ge=1, le=1_000_000, description="The least rows of a leaf.")
    regularization: Number = Field(default=0.0, ge=0, le=1_000_000, description="L2, on the leaves' values.")
    class_weights: ClassWeights = "None"


class KmeansHyperparameters(FittedHyperparameters):
    """k-means: rows in groups around centers, so that each row is near its own, on standardized columns."""

    tasks: ClassVar[tuple[str, ...]] = ("Clustering",)

    clusters: Whole = Field(default=8, ge=2, le=10_000, description="How many groups.")
    restarts: Whole = Field(
        default=10, ge=1, le=1000, description="Beginnings, drawn by k-means++, of which the best result is kept."
    )
    iterations: Whole = Field(default=300, ge=1, le=100_000, description="The most rounds from one beginning.")


class DbscanHyperparameters(FittedHyperparameters):
    """DBSCAN: rows that have many others near them, and what is near those, are a cluster, of any form and number; what
    is near to none of them is noise, -1. On standardized columns."""

    tasks: ClassVar[tuple[str, ...]] = ("Clustering",)

    eps: Number = Field(
        default=0.5, gt=0, le=1_000_000, description="How near is near: a distance in standard deviations of a column."
    )
    min_rows: Whole = Field(
        default=5, ge=1, le=1_000_000, description="How many rows near a row, itself counted, make it a core sample."
    )


class PcaHyperparameters(FittedHyperparameters):
    """Principal components: the directions in which standardized columns vary most. A row that they give back badly is
    unlike those that they are of; they are the linear counterpart of an autoencoder."""

    tasks: ClassVar[tuple[str, ...]] = ("AnomalyDetection",)

    components: Whole = Field(default=8, ge=1, le=65536, description="How many; less than there are columns.")


RECIPES: Mapping[str, type[Hyperparameters]] = {
    "autoencoder": AutoencoderHyperparameters,
    "cnn": CnnHyperparameters,
    "dbscan": DbscanHyperparameters,
    "gradient-boosting": GradientBoostingHyperparameters,
    "kmeans": KmeansHyperparameters,
    "linear": LinearHyperparameters,
    "mlp": MlpHyperparameters,
    "pca": PcaHyperparameters,
    "transformer": TransformerHyperparameters,
}


class HyperparameterError(ValueError):
    """Hyperparameters that a recipe cannot use. `problems` has a line for each that is wrong."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def parse(recipe: str, given: Mapping[str, str]) -> Hyperparameters:
    """The hyperparameters of `recipe`, with its defaults for those that are not given. Raises HyperparameterError that
    names every one that is wrong, and the nearest right name of one that does not exist."""
    if recipe not in RECIPES:
        raise HyperparameterError((f"spec.trainer.recipe: {recipe!r} is not a recipe; there are {', '.join(RECIPES)}",))
    model = RECIPES[recipe]
    names = {info.alias or name: info for name, info in model.model_fields.items()}
    unknown = [_unknown(recipe, name, list(names)) for name in given if name not in names]
    try:
        read = model.model_validate(
            {name: value for name, value in given.items() if name in names}, by_alias=True, by_name=False
        )
    except ValidationError as error:
        wrong: dict[str, str] = {}
        for one in error.errors(include_url=False):
            name = str(one["loc"][0])
            if one["type"] == "missing":
                wrong[name] = f"{PATH}.{name}: required by {recipe}. {names[name].description}"
                continue
            said = one["msg"] if one["type"] == "form" else f"is out of range: {limits(names[name])}"
            wrong.setdefault(name, f"{PATH}.{name}: {given[name]!r} {said}")
        raise HyperparameterError((*unknown, *wrong.values())) from None
    if unknown:
        raise HyperparameterError(tuple(unknown))
    return read


def parse_mlp(given: Mapping[str, str]) -> MlpHyperparameters:
    """As `parse`, of the recipe mlp."""
    read = parse("mlp", given)
    assert isinstance(read, MlpHyperparameters)  # noqa: S101 - RECIPES says so
    return read


def _unknown(recipe: str, name: str, known: list[str]) -> str:
    lowered = {one.lower(): one for one in known}
    # Case and separators are the usual mistake: hidden_sizes, learning-rate.
    near = difflib.get_close_matches(re.sub("[_-]", "", name.lower()), lowered, n=1, cutoff=0.6)
    advice = f"did you mean {lowered[near[0]]}?" if near else f"there are {', '.join(known)}"
    return f"{PATH}.{name}: {recipe} has no such hyperparameter; {advice}"


def limits(info: FieldInfo) -> str:
    """The range of a hyperparameter in words: "above 0, at most 10"."""
    if get_origin(info.annotation) is Literal:
        return " or ".join(get_args(info.annotation))
    if info.annotation == tuple[int, int, int]:
        return _IMAGE
    words = []
    for limit in info.metadata:
        if isinstance(limit, annotated_types.Gt):
            words.append(f"above {limit.gt}")
        elif isinstance(limit, annotated_types.Ge):
            words.append(f"at least {limit.ge}")
        elif isinstance(limit, annotated_types.Lt):
            words.append(f"below {limit.lt}")
        elif isinstance(limit, annotated_types.Le):
            words.append(f"at most {limit.le}")
        elif isinstance(limit, annotated_types.MaxLen):
            words.append(f"1 to {limit.max_length} widths, each from 1 to 65536")
    return ", ".join(words)
