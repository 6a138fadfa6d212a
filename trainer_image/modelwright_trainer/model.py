"""The modules of the recipes."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from modelwright_trainer.recipes import MlpHyperparameters


class Standardize(nn.Module):
    """(x - mean) / scale per feature, inside the graph, so that a client sends what the data set holds. `mean` and
    `scale` have shape [features] and are of the training split; a constant feature has scale 1."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, mean: npt.NDArray[np.float64], deviation: npt.NDArray[np.float64]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        scale = np.where(deviation > 0, deviation, 1.0)
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return (rows - self.mean) / self.scale


class Perceptron(nn.Module):
    """[rows, features] float32 → logits [rows, classes]: standardize, then Linear and ReLU in turn."""

    def __init__(self, standardize: Standardize, classes: int, recipe: MlpHyperparameters) -> None:
        super().__init__()
        self.standardize = standardize
        widths = [len(standardize.mean), *recipe.hidden_sizes, classes]
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.dropout = recipe.dropout

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        hidden = self.standardize(rows)
        for linear in list(self.linears)[:-1]:
            hidden = torch.relu(linear(hidden))
            if self.dropout:
                hidden = nn.functional.dropout(hidden, self.dropout, self.training)
        logits: torch.Tensor = self.linears[-1](hidden)
        return logits
