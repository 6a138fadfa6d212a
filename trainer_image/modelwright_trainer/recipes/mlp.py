"""The recipe mlp: a multilayer perceptron."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from modelwright.api.recipes import MlpHyperparameters
from modelwright.artifact import INPUT, Tensor
from torch import nn

from modelwright_trainer.data import Table
from modelwright_trainer.learner import Batch, Learner
from modelwright_trainer.onnxgraph import Graph, Session, Weights
from modelwright_trainer.preprocessing import Standardize, moments, standardized
from modelwright_trainer.split import Rows
from modelwright_trainer.tasks import Classification


class Perceptron(nn.Module):
    """[rows, features] float32 → [rows, width]: standardize, then Linear and ReLU in turn."""

    def __init__(self, standardize: Standardize, width: int, recipe: MlpHyperparameters) -> None:
        super().__init__()
        self.standardize = standardize
        widths = [len(standardize.mean), *recipe.hidden_sizes, width]
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.dropout = recipe.dropout

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        hidden = self.standardize(rows)
        for linear in list(self.linears)[:-1]:
            hidden = torch.relu(linear(hidden))
            if self.dropout:
                hidden = nn.functional.dropout(hidden, self.dropout, self.training)
        given: torch.Tensor = self.linears[-1](hidden)
        return given


class Mlp(Learner):
    def __init__(self, recipe: MlpHyperparameters, task: Classification, table: Table, train: Rows) -> None:
        self.hyperparameters = self.recipe = recipe
        self.task = task
        self.inputs = (Tensor(name=INPUT, dtype="float32", shape=(None, len(table.names)), names=table.names),)
        self.outputs = task.outputs
        self._moments = moments(table.features, train)

    def module(self) -> nn.Module:
        return Perceptron(Standardize(self._moments), self.task.width, self.recipe)

    def loss(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self.task.loss(outputs, batch)

    def sums(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self.task.sums(outputs, batch)

    def figures(self, sums: npt.NDArray[np.float64], rows: int) -> dict[str, float]:
        return self.task.figures(sums, rows)

    def write(self, weights: Weights, folder: Path) -> None:
        graph = Graph("mlp", weights, folder)
        hidden = standardized(graph, INPUT)
        depth = len(self.recipe.hidden_sizes)
        for layer in range(depth):
            hidden = graph.node(
                "Relu", [graph.linear(hidden, f"linears.{layer}", f"linear.{layer}")], f"hidden.{layer}"
            )
        graph.linear(hidden, f"linears.{depth}", self.compared)
        self.task.finish(graph)
        graph.write(self.inputs, self.outputs)

    @property
    def compared(self) -> str:
        return self.task.compared

    def metrics(self, session: Session, table: Table, rows: Rows) -> dict[str, float]:
        return self.task.metrics(session, table, rows)
