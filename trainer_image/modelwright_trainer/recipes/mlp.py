"""The recipe mlp: a multilayer perceptron; and linear, which is one without hidden layers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from modelwright.api.recipes import LinearHyperparameters, MlpHyperparameters
from torch import nn

from modelwright_trainer.data import Table
from modelwright_trainer.onnxgraph import Graph
from modelwright_trainer.preprocessing import Standardize, moments, standardized
from modelwright_trainer.recipes.common import Predictor
from modelwright_trainer.split import Rows
from modelwright_trainer.tasks import Classification, Regression


class Perceptron(nn.Module):
    """[rows, features] float32 → what `head` makes of the last layer's numbers: standardize, then Linear and ReLU in
    turn."""

    def __init__(self, standardize: Standardize, hidden: Sequence[int], dropout: float, width: int, head: nn.Module):
        super().__init__()
        self.standardize = standardize
        widths = [len(standardize.mean), *hidden, width]
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.dropout = dropout
        self.head = head

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        hidden = self.standardize(rows)
        for linear in list(self.linears)[:-1]:
            hidden = torch.relu(linear(hidden))
            if self.dropout:
                hidden = nn.functional.dropout(hidden, self.dropout, self.training)
        given: torch.Tensor = self.head(self.linears[-1](hidden))
        return given


def perceptron(graph: Graph, depth: int, output: str) -> None:
    """`Perceptron` as nodes, with `depth` hidden layers, but for its head."""
    hidden = standardized(graph, graph.input)
    for layer in range(depth):
        hidden = graph.node("Relu", [graph.linear(hidden, f"linears.{layer}", f"linear.{layer}")], f"hidden.{layer}")
    graph.linear(hidden, f"linears.{depth}", output)


class Linear(Predictor):
    name = "linear"
    hidden: tuple[int, ...] = ()
    dropout = 0.0

    def __init__(
        self,
        recipe: LinearHyperparameters | MlpHyperparameters,
        task: Classification | Regression,
        table: Table,
        train: Rows,
    ) -> None:
        super().__init__(recipe, task, table, moments(table.features, train))

    def module(self) -> nn.Module:
        return Perceptron(Standardize(self._moments), self.hidden, self.dropout, self.task.width, self.task.head())

    def nodes(self, graph: Graph) -> None:
        perceptron(graph, len(self.hidden), self.task.raw)


class Mlp(Linear):
    name = "mlp"

    def __init__(
        self, recipe: MlpHyperparameters, task: Classification | Regression, table: Table, train: Rows
    ) -> None:
        super().__init__(recipe, task, table, train)
        self.hidden, self.dropout = recipe.hidden_sizes, recipe.dropout
