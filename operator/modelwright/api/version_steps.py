"""The steps of a compression: those of `modelwright.derivation`, as a user writes them, with decimals as strings."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from modelwright.api.base import ApiModel
from modelwright.api.rules import Rule, Rules, cel_matches
from modelwright.api.training_recipe import Hyperparameters, Recipe
from modelwright.api.types import DecimalText, Fraction, cel_is_decimal, cel_is_fraction

_PATTERN = "[1-9][0-9]?:[1-9][0-9]?"


def _inside(field: str, attribute: str, example: str) -> Rule:
    """A fraction, where there is one, is neither 0 nor 1."""

    def holds(model: Any) -> bool:
        given = getattr(model, attribute)
        return given is None or 0 < Decimal(given) < 1

    return Rule(
        f"!has(self.{field}) || !{cel_is_fraction(f'self.{field}')}"
        f" || (double(self.{field}) > 0.0 && double(self.{field}) < 1.0)",
        f'{field} {{self.{field}}} must lie between 0 and 1, without them; write a decimal such as "{example}"',
        holds,
        field=field,
    )


def above_zero(field: str, attribute: str, example: str) -> Rule:
    """A rule of a model: its decimal, where there is one, is above 0."""

    def holds(model: Any) -> bool:
        given = getattr(model, attribute)
        return given is None or Decimal(given) > 0

    return Rule(
        f"!has(self.{field}) || !{cel_is_decimal(f'self.{field}')} || double(self.{field}) > 0.0",
        f'{field} {{self.{field}}} must be above 0; write a decimal such as "{example}"',
        holds,
        field=field,
    )


class Finetune(ApiModel):
    """Training after a step, on the parent's training split; what the step did is kept."""

    epochs: int = Field(ge=1, le=1000, description="Epochs.")
    learning_rate: DecimalText = Field(default="0.001", description="Of Adam.")
    batch_size: int = Field(default=64, ge=1, le=65536, description="Rows of a step.")
    distillation: Fraction = Field(
        default="0",
        description="Share of the loss that comes from the parent's outputs. 0: the targets alone; 1: it alone.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (above_zero("learningRate", "learning_rate", "0.001"),)


NofM = Annotated[
    str,
    StringConstraints(min_length=3, max_length=5),
    Rules(
        Rule(
            f"!{cel_matches('self', _PATTERN)} || int(self.split(':')[0]) < int(self.split(':')[1])",
            "'{self}' keeps all weights; the first number is of those that stay, and below the second, such as 2:4",
            lambda text: (
                not _is_pattern(text) or int(text.split(":")[0]) < int(text.split(":")[1])
            ),
        ),
        Rule(
            cel_matches("self", _PATTERN),
            "'{self}' is not a pattern; write how many of how many weights in a row stay, such as 2:4",
            lambda text: _is_pattern(text),
        ),
    ),
]  # fmt: skip


def _is_pattern(text: str) -> bool:
    parts = text.split(":")
    return len(parts) == 2 and all(part.isdecimal() and len(part) <= 2 and part[0] != "0" for part in parts)


class Prune(ApiModel):
    """Removes what matters least."""

    method: Literal["Magnitude", "Gradient", "Movement"] = Field(
        default="Magnitude",
        description="What matters least. Magnitude: the smallest weights. Gradient: those whose weight times gradient"
        " is smallest. Movement: those that fine-tuning moves towards 0.",
    )
    granularity: Literal["Unstructured", "NofM", "Structured"] = Field(
        default="Unstructured",
        description="Unstructured: single weights; the file shrinks, and is no faster. NofM: all but N of M weights in"
        " a row, as some GPUs want it. Structured: neurons, channels and heads; the tensors shrink, and it is faster.",
    )
    sparsity: Fraction | None = Field(
        default=None, description='The share that goes, such as "0.9". Required, but with NofM, where pattern says it.'
    )
    pattern: NofM | None = Field(
        default=None, description="With NofM: how many of how many weights in a row stay, such as 2:4."
    )
    rounds: int = Field(
        default=1,
        ge=1,
        le=100,
        description="In how many rounds it goes (cubic schedule), each followed by its share of finetune.",
    )
    finetune: Finetune | None = Field(default=None, description="Training after it. Left out: none.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.pattern) == (self.granularity == 'NofM')",
            "pattern is of granularity NofM, which needs it: write both, such as 2:4, or none of them",
            lambda prune: (prune.pattern is not None) == (prune.granularity == "NofM"),
        ),
        Rule(
            "has(self.sparsity) == (self.granularity != 'NofM')",
            'give sparsity, the share that goes, such as "0.9"; but leave it out with NofM, where pattern says it',
            lambda prune: (prune.sparsity is not None) == (prune.granularity != "NofM"),
        ),
        _inside("sparsity", "sparsity", "0.9"),
        Rule(
            "has(self.finetune) || (self.rounds == 1 && self.method != 'Movement')",
            "rounds and the method Movement are of training; give finetune.epochs",
            lambda prune: prune.finetune is not None or (prune.rounds == 1 and prune.method != "Movement"),
        ),
    )


class Merge(ApiModel):
    """Makes one neuron of those of a layer that are alike; the layer shrinks."""

    threshold: Fraction = Field(
        default="0.95", description="How alike: the least cosine between the weights that lead into two neurons."
    )
    finetune: Finetune | None = Field(default=None, description="Training after it. Left out: none.")

    rules: ClassVar[tuple[Rule, ...]] = (_inside("threshold", "threshold", "0.95"),)


class Cluster(ApiModel):
    """Gives the weights of each tensor few values, which the file holds once; it is no faster."""

    bits: int = Field(default=4, ge=1, le=8, description="2^bits values for each tensor, by k-means.")
    finetune: Finetune | None = Field(
        default=None, description="Training after it, which moves the values and no weight to another. Left out: none."
    )


class LowRank(ApiModel):
    """Makes two small layers of one, where that saves."""

    energy: Fraction = Field(
        default="0.95", description="The least share of a layer's squared singular values that is kept."
    )
    finetune: Finetune | None = Field(default=None, description="Training after it. Left out: none.")

    rules: ClassVar[tuple[Rule, ...]] = (_inside("energy", "energy", "0.95"),)


class Distill(ApiModel):
    """Trains a smaller model on the parent's outputs."""

    recipe: Recipe = Field(description="A built-in recipe.")
    hyperparameters: Hyperparameters | None = Field(
        default=None,
        description="Of the recipe, by name, as strings. Those left out are the parent's own where the recipe is the"
        " same, else the recipe's defaults.",
    )
    temperature: DecimalText = Field(default="2", description="Of the softened outputs.")
    distillation: Fraction = Field(
        default="0.9", description="Share of the loss that comes from the parent's outputs; the rest from the targets."
    )

    rules: ClassVar[tuple[Rule, ...]] = (above_zero("temperature", "temperature", "2"),)


class Quantize(ApiModel):
    """Makes the graph calculate in fewer bits, for the built-in runtime."""

    scheme: Literal["Int8Dynamic", "Int8Static", "Int4Weight"] = Field(
        description="Int8Dynamic: 8 bits, ranges measured with each request. Int8Static: ranges measured before, on the"
        " rows of calibration. Int4Weight: weights of 4 bits, calculated in float."
    )


_KINDS = ("prune", "merge", "cluster", "lowRank", "distill", "quantize")


class Step(ApiModel):
    """One step: exactly one of these."""

    prune: Prune | None = Field(default=None, description="Removes weights, or neurons, channels and heads.")
    merge: Merge | None = Field(default=None, description="Makes one neuron of those that are alike.")
    cluster: Cluster | None = Field(default=None, description="Gives the weights of each tensor few values.")
    low_rank: LowRank | None = Field(default=None, description="Makes two small layers of one, where that saves.")
    distill: Distill | None = Field(default=None, description="Trains a smaller model on the parent's outputs.")
    quantize: Quantize | None = Field(default=None, description="Makes the graph calculate in fewer bits.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"[{', '.join(f'has(self.{kind})' for kind in _KINDS)}].filter(given, given).size() == 1",
            f"a step is exactly one of {', '.join(_KINDS[:-1])} and {_KINDS[-1]}; write one item for each",
            lambda step: sum(getattr(step, name) is not None for name in type(step).model_fields) == 1,
        ),
    )

    @property
    def kind(self) -> str:
        """Its name as it is written, such as lowRank."""
        return next(kind for kind in _KINDS if kind in self.to_object())
