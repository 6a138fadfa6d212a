"""What of a recipe's tensors goes together: a neuron, a channel or a head is so many entries of several tensors."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from modelwright.artifact import RecipeRebuild

from modelwright_trainer.onnxgraph import LEFT, RIGHT, Array

Indices = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Part:
    """Unit k of a group is the entries from k · `block` on, `block` of them, along `axis` of the tensor."""

    tensor: str
    axis: int
    block: int = 1


@dataclasses.dataclass(frozen=True)
class Group:
    """Units that stand beside each other. `made` are the tensors that make them, `used` those that read what they give.
    `kind` is what people call one."""

    name: str
    kind: str
    units: int
    made: tuple[Part, ...]
    used: tuple[Part, ...]

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.made + self.used


def groups(recipe: str, weights: Mapping[str, Array], head_size: int = 0) -> list[Group]:
    """The groups of a recipe's module; none where it has no layer inside."""
    if recipe in ("mlp", "autoencoder"):
        depth = sum(name.startswith("linears.") and name.endswith(".bias") for name in weights)
        names = [f"linears.{layer}" for layer in range(depth)]
        return [_between(weights, one, other, "neuron") for one, other in itertools.pairwise(names)]
    if recipe == "cnn":
        depth = sum(name.startswith("convolutions.") and name.endswith(".bias") for name in weights)
        names = [*(f"convolutions.{layer}" for layer in range(depth)), "hidden", "last"]
        return [
            _between(weights, one, other, "channel" if one.startswith("conv") else "neuron")
            for one, other in itertools.pairwise(names)
        ]
    if recipe == "transformer":
        depth = sum(name.endswith(".wide.bias") for name in weights)
        return [one for layer in range(depth) for one in _of_block(weights, f"blocks.{layer}", head_size)]
    return []


def _between(weights: Mapping[str, Array], one: str, other: str, kind: str) -> Group:
    """What layer `one` gives and layer `other` reads, flattened perhaps in between."""
    units = len(weights[f"{one}.bias"])
    inputs = weights[_inner(weights, other)].shape[1]
    return Group(one, kind, units, _outer(weights, one), (Part(_inner(weights, other), 1, inputs // units),))


def _outer(weights: Mapping[str, Array], layer: str, block: int = 1) -> tuple[Part, ...]:
    weight = f"{layer}.{LEFT}" if f"{layer}.{LEFT}" in weights else f"{layer}.weight"
    return (Part(weight, 0, block), Part(f"{layer}.bias", 0, block))


def _inner(weights: Mapping[str, Array], layer: str) -> str:
    return f"{layer}.{RIGHT}" if f"{layer}.{RIGHT}" in weights else f"{layer}.weight"


def _of_block(weights: Mapping[str, Array], block: str, head_size: int) -> list[Group]:
    made = tuple(part for name in ("asked", "keys", "values") for part in _outer(weights, f"{block}.{name}", head_size))
    heads = len(weights[f"{block}.asked.bias"]) // head_size
    return [
        Group(f"{block}.heads", "head", heads, made, (Part(_inner(weights, f"{block}.given"), 1, head_size),)),
        _between(weights, f"{block}.wide", f"{block}.narrow", "neuron"),
    ]


def cut(weights: Mapping[str, Array], group: Group, kept: Indices) -> dict[str, Array]:
    """The tensors with the units `kept` alone, in this order."""
    found = dict(weights)
    for part in group.parts:
        places = (kept[:, None] * part.block + np.arange(part.block)).reshape(-1)
        found[part.tensor] = np.ascontiguousarray(np.take(found[part.tensor], places, axis=part.axis))
    return found


def of_units(value: Array, part: Part, units: int) -> Array:
    """A tensor's entries by unit [units, …]."""
    return np.moveaxis(value, part.axis, 0).reshape(units, -1)


def resized(rebuild: RecipeRebuild, found: list[Group]) -> RecipeRebuild:
    """The recipe with the widths that the groups have now. Where the recipe cannot say them it is as it was, and what
    it builds does not have these tensors."""
    units = {one.name: one.units for one in found}
    told = dict(rebuild.hyperparameters)
    if rebuild.recipe == "mlp":
        told["hiddenSizes"] = ",".join(str(units[f"linears.{layer}"]) for layer in range(len(units)))
    elif rebuild.recipe == "cnn":
        told["channels"] = ",".join(str(units[f"convolutions.{layer}"]) for layer in range(len(units) - 1))
        told["hiddenSize"] = str(units["hidden"])
    elif rebuild.recipe == "autoencoder":
        widths = [units[f"linears.{layer}"] for layer in range(len(units))]
        half = len(widths) // 2
        if widths[:half] == widths[:half:-1]:
            told |= {"hiddenSizes": ",".join(map(str, widths[:half])), "codeSize": str(widths[half])}
    return rebuild.model_copy(update={"hyperparameters": told})
