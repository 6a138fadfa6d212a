"""merge: neurons and channels that are alike become one, and the layer shrinks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from modelwright.derivation import Merge

from modelwright_trainer.compress import structured
from modelwright_trainer.compress.finetune import finetune
from modelwright_trainer.compress.groups import Group, cut, of_units
from modelwright_trainer.compress.state import Held, State
from modelwright_trainer.compress.subject import needs_module
from modelwright_trainer.compress.work import Work
from modelwright_trainer.onnxgraph import Array


def apply(work: Work, state: State, asked: Merge) -> State:
    """Raises StepNeedsModule, UserFailed."""
    if state.rebuild is not None and state.rebuild.recipe == "transformer":
        raise needs_module(
            "merge takes one neuron for a multiple of another, which holds behind ReLU and not behind the transformer's"
            " GELU: take prune with granularity Structured"
        )
    weights: Mapping[str, Array] = state.weights
    held = dict(state.held)
    for group in structured.of_state(work, state):
        leaders, shares, nearest = alike(_incoming(weights, group), asked.threshold)
        kept = np.unique(leaders)
        if len(kept) == group.units:
            work.notes.append(
                f"{group.name} keeps all its {group.units} {group.kind}s: the two most alike have a cosine of"
                f" {nearest:.3f}"
            )
            continue
        weights = cut(_taken_over(weights, group, leaders, shares), group, kept)
        for part in group.used:
            if held.get(part.tensor, Held()).values:
                held[part.tensor] = held[part.tensor].model_copy(update={"values": None})
                work.notes.append(f"{part.tensor} has no codebook any more: what was merged is a sum of its values")
    merged = structured.refitted(work, State(state.rebuild, state.weights, held), weights)
    return finetune(work, merged, asked.finetune, asked.finetune.epochs, "merge")


def _incoming(weights: Mapping[str, Array], group: Group) -> npt.NDArray[np.float64]:
    """What makes each unit [units, weights and bias]."""
    made = [of_units(weights[part.tensor], part, group.units) for part in group.made]
    return np.concatenate(made, axis=1).astype(np.float64)


def alike(
    vectors: npt.NDArray[np.float64], threshold: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], float]:
    """Of each vector [units, n] the one that stands for it (itself, where none does), of which multiple it is then, and
    the largest cosine between two. The longest come first: each takes in those that are alike and not taken yet."""
    lengths = np.linalg.norm(vectors, axis=1)
    directions = vectors / np.maximum(lengths, 1e-30)[:, None]
    cosines = directions @ directions.T
    apart = cosines - 2 * np.eye(len(vectors))
    leaders = np.arange(len(vectors))
    taken = np.zeros(len(vectors), bool)
    for one in np.argsort(-lengths, kind="stable"):
        if taken[one]:
            continue
        taken[one] = True
        near = np.flatnonzero((cosines[one] >= threshold) & ~taken)
        leaders[near] = one
        taken[near] = True
    shares = np.where(leaders == np.arange(len(vectors)), 1.0, lengths / np.maximum(lengths[leaders], 1e-30))
    return leaders, shares, float(apart.max()) if len(vectors) > 1 else 0.0


def _taken_over(
    weights: Mapping[str, Array], group: Group, leaders: npt.NDArray[np.int64], shares: npt.NDArray[np.float64]
) -> dict[str, Array]:
    """Those that stand for others have their readers' weights, too: ReLU and maximum give of c · x, where c is above 0,
    c times what they give of x."""
    found = dict(weights)
    for part in group.used:
        value = np.moveaxis(found[part.tensor].astype(np.float64), part.axis, 0)
        shape = value.shape
        units = value.reshape(group.units, -1)
        summed = np.zeros_like(units)
        np.add.at(summed, leaders, units * shares[:, None])
        found[part.tensor] = np.ascontiguousarray(np.moveaxis(summed.reshape(shape), 0, part.axis)).astype(np.float32)
    return found
