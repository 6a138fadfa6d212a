"""lowRank: a matrix becomes the product of two narrow ones, where that saves."""

from __future__ import annotations

import numpy as np
from modelwright.derivation import LowRank
from torch import nn

from modelwright_trainer.compress.finetune import finetune
from modelwright_trainer.compress.modules import built
from modelwright_trainer.compress.state import Held, State
from modelwright_trainer.compress.work import Work
from modelwright_trainer.onnxgraph import LEFT, RIGHT


def apply(work: Work, state: State, asked: LowRank) -> State:
    """Raises StepNeedsModule, UserFailed."""
    weights, held = dict(state.weights), dict(state.held)
    for place, part in built(work.learner(state), state.weights).named_modules():
        name = f"{place}.weight"
        if isinstance(part, nn.Conv2d):
            work.notes.append(f"{name} is left: a convolution is no matrix")
        if not isinstance(part, nn.Linear):
            continue
        if held.get(name, Held()) != Held():
            work.notes.append(f"{name} is left: it was pruned or clustered, and its factors would be dense again")
            continue
        matrix = weights[name].astype(np.float64)
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        rank = rank_of(values, asked.energy)
        if rank * sum(matrix.shape) >= matrix.size:
            work.notes.append(
                f"{name} is left: {asked.energy:g} of its energy takes rank {rank} of {len(values)}, which is"
                f" {rank * sum(matrix.shape):,} weights in place of {matrix.size:,}"
            )
            continue
        # Both factors have the same scale, so that one learning rate fits them.
        roots = np.sqrt(values[:rank])
        del weights[name]
        for own, factor in ((LEFT, left[:, :rank] * roots), (RIGHT, roots[:, None] * right[:rank])):
            weights[f"{place}.{own}"] = np.ascontiguousarray(factor, np.float32)
            held[f"{place}.{own}"] = Held(rank=rank)
    return finetune(
        work, State(state.rebuild, weights, held), asked.finetune, asked.finetune.epochs, "lowRank"
    )  # fmt: skip


def rank_of(values: np.ndarray, energy: float) -> int:
    """The least rank that keeps this share of the squared singular values, which descend."""
    sums = np.cumsum(np.square(values))
    return int(np.searchsorted(sums, energy * sums[-1])) + 1
