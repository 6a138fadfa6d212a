"""cluster: each tensor's weights become few values, found by k-means, which are then trained."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from modelwright.derivation import Cluster

from modelwright_trainer.compress.finetune import finetune
from modelwright_trainer.compress.state import Held, State
from modelwright_trainer.compress.work import Work
from modelwright_trainer.onnxgraph import Array
from modelwright_trainer.recipes.mlp import Linear

_ROUNDS = 100
_MEAN, _SCALE, _FIRST = "standardize.mean", "standardize.scale", "linears.0"


def apply(work: Work, state: State, asked: Cluster) -> State:
    """Raises StepNeedsModule, UserFailed."""
    learner = work.learner(state)
    most = 2**asked.bits
    weights, held = dict(state.weights), {}
    if isinstance(learner, Linear):
        weights |= _standardized(weights, most)
    for name, value in weights.items():
        if name in (_MEAN, _SCALE):
            continue
        if not _saves(value, asked.bits):
            if value.ndim > 1:
                work.notes.append(f"{name} is left: its {value.size} weights are too few for a codebook of {most}")
            continue
        sparse = state.held.get(name, Held()).sparse
        weights[name] = clustered(value, most, zero_apart=sparse)
        found = len(np.unique(weights[name]))
        held[name] = state.held.get(name, Held()).model_copy(update={"values": found, "sparse": sparse})
    clustered_state = state.with_weights(weights, **held)
    return finetune(work, clustered_state, asked.finetune, asked.finetune.epochs, "cluster")


def _saves(value: Array, bits: int) -> bool:
    """Whether a codebook and codes are shorter than the numbers."""
    return value.dtype == np.float32 and 32 * 2**bits + bits * value.size < 32 * value.size


def clustered(value: Array, most: int, *, zero_apart: bool) -> npt.NDArray[np.float32]:
    """The tensor with at most `most` different values; with `zero_apart` 0 is one of them, and what is 0 stays so."""
    flat = value.reshape(-1).astype(np.float64)
    chosen = flat != 0 if zero_apart else np.ones(len(flat), bool)
    found = np.zeros(len(flat), np.float32)
    if chosen.any():
        found[chosen] = k_means(flat[chosen], max(1, most - zero_apart))
    return found.reshape(value.shape)


def k_means(values: npt.NDArray[np.float64], most: int) -> npt.NDArray[np.float32]:
    """Each value's centre, of at most `most` that begin evenly between the extremes (which keeps the rare large
    weights, Han, Mao and Dally 2016, arXiv:1510.00149) and are moved to the mean of what is nearest until nothing
    changes."""
    ordered = np.sort(values)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centres = np.unique(np.linspace(ordered[0], ordered[-1], most))
    for _ in range(_ROUNDS):
        cuts = np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
        edges = np.concatenate([[0], cuts, [len(ordered)]])
        counts = np.diff(edges)
        full = counts > 0
        moved = (np.diff(sums[edges])[full]) / counts[full]
        if len(moved) == len(centres) and np.array_equal(moved, centres):
            break
        centres = np.unique(moved)
    places = np.searchsorted((centres[1:] + centres[:-1]) / 2, values)
    return centres.astype(np.float32)[places]


def _standardized(weights: dict[str, Array], most: int) -> dict[str, Array]:
    """What columns are standardized by, in few values, and the first layer so that it computes what it did: of a small
    net on many columns they would be a third of the file."""
    mean, scale = weights[_MEAN], weights[_SCALE]
    first = f"{_FIRST}.weight"
    if first not in weights or len(mean) <= most:
        return {}
    means = clustered(mean, most, zero_apart=False)
    scales = np.exp(k_means(np.log(scale.astype(np.float64)), most)).astype(np.float32)
    # (x − mean) / scale · w = (x − means) / scales · w·scales/scale + w·(means − mean) / scale
    weight = weights[first].astype(np.float64)
    bias = weights[f"{_FIRST}.bias"] + weight @ ((means.astype(np.float64) - mean) / scale)
    return {
        _MEAN: means,
        _SCALE: scales,
        first: (weight * (scales.astype(np.float64) / scale)).astype(np.float32),
        f"{_FIRST}.bias": bias.astype(np.float32),
    }
