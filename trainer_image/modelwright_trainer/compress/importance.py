"""How much each weight matters, by the three methods; scores are as large as the tensors, and compare between them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from modelwright_trainer.compress.finetune import batches
from modelwright_trainer.compress.modules import built
from modelwright_trainer.compress.state import State
from modelwright_trainer.compress.work import Work
from modelwright_trainer.learner import Batch
from modelwright_trainer.onnxgraph import Array

Scores = dict[str, npt.NDArray[np.float64]]
_CPU = torch.device("cpu")
_ROWS, _MOST_ROWS = 64, 8192


def magnitude(weights: Mapping[str, Array], names: list[str]) -> Scores:
    """Squared weights, each over the sum of those of its tensor that are not smaller, so that layers of unlike scale
    compare (LAMP: Lee et al. 2021, arXiv:2010.07611). A tensor's largest has score 1: no layer is emptied."""
    scores = {}
    for name in names:
        squares = np.square(weights[name].astype(np.float64)).reshape(-1)
        order = np.argsort(squares, kind="stable")
        # From the largest down, so that what is left is summed, and nothing is taken off a large sum.
        rest = np.cumsum(squares[order][::-1])[::-1]
        found = np.empty_like(squares)
        found[order] = squares[order] / np.maximum(rest, 1e-300)
        scores[name] = found.reshape(weights[name].shape)
    return scores


def gradient(work: Work, state: State, names: list[str]) -> Scores:
    """|w · ∂L/∂w|, the mean over batches of the training rows: how much the loss changes, to the first order, when the
    weight goes (Molchanov et al. 2017, arXiv:1611.06440)."""
    learner = work.learner(state)
    module = built(learner, state.weights)
    parameters = dict(module.named_parameters())
    train = work.rows.parts["train"]
    chosen = train[np.unique(np.linspace(0, len(train) - 1, min(len(train), _MOST_ROWS)).astype(np.int64))]
    pieces = batches(np.random.RandomState(work.seed % 2**32).permutation(chosen), _ROWS)
    scores: Scores = {name: np.zeros(parameters[name].shape) for name in names}
    for rows in pieces:
        module.zero_grad()
        batch = Batch.of(work.rows.table, rows, _CPU)
        (learner.loss(module(batch.features), batch) / batch.rows).backward()
        for name, score in scores.items():
            found = parameters[name].grad
            if found is not None:
                score += (parameters[name].detach() * found).double().abs().numpy() / len(pieces)
    return scores


class Movement:
    """−Σ w · ∂L/∂w over the steps of a training: what moves away from 0 scores high, what moves towards it low (Sanh,
    Wolf and Rush 2020, arXiv:2005.07683)."""

    def __init__(self, weights: Mapping[str, Array], names: list[str]) -> None:
        self.scores: Scores = {name: np.zeros(weights[name].shape) for name in names}

    def watch(self, tensors: Mapping[str, torch.Tensor], gradients: Mapping[str, torch.Tensor]) -> None:
        for name, score in self.scores.items():
            if name in gradients:
                score -= (tensors[name].detach() * gradients[name]).double().numpy()
