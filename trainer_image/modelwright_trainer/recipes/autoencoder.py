"""The recipe autoencoder: rows through a narrow layer and back."""

from __future__ import annotations

import torch
from modelwright.api.recipes import AutoencoderHyperparameters
from torch import nn

from modelwright_trainer import augmentation
from modelwright_trainer.data import Table
from modelwright_trainer.learner import Batch
from modelwright_trainer.onnxgraph import Graph
from modelwright_trainer.preprocessing import Standardize, moments
from modelwright_trainer.recipes.common import TaskLearner, numbers
from modelwright_trainer.recipes.mlp import Perceptron, perceptron
from modelwright_trainer.split import Rows
from modelwright_trainer.tasks import AnomalyDetection


class Autoencoder(TaskLearner):
    name = "autoencoder"

    def __init__(self, recipe: AutoencoderHyperparameters, table: Table, train: Rows) -> None:
        self._moments = moments(table.features, train)
        super().__init__(recipe, AnomalyDetection(table.names, self._moments), numbers(table))
        self._widths = (*recipe.hidden_sizes, recipe.code_size, *reversed(recipe.hidden_sizes))
        self._noise = recipe.noise
        self._deviation = torch.tensor(self._moments[1], dtype=torch.float32)

    def module(self) -> nn.Module:
        return Perceptron(Standardize(self._moments), self._widths, 0.0, self.task.width, self.task.head())

    def augmented(self, batch: Batch) -> Batch:
        if not self._noise or not batch.rows:
            return batch
        return Batch(augmentation.noisy(batch.features, self._deviation, self._noise), batch.features)

    def nodes(self, graph: Graph) -> None:
        perceptron(graph, len(self._widths), self.task.raw)
