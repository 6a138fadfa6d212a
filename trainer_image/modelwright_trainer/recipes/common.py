"""What the recipes share: outputs, loss and metrics are the task's, and the file is the module's graph between an input
and the task's last nodes."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from modelwright.api.recipes import Hyperparameters, PredictorHyperparameters
from modelwright.artifact import INPUT, Tensor

from modelwright_trainer import augmentation
from modelwright_trainer.data import Table
from modelwright_trainer.learner import Batch, Learner, Publisher
from modelwright_trainer.metrics import Measured
from modelwright_trainer.onnxgraph import Graph, Session, Weights
from modelwright_trainer.preprocessing import Moments
from modelwright_trainer.split import Rows
from modelwright_trainer.tasks import Classification, Regression, Task


class OfTask(Publisher):
    name: ClassVar[str]
    task: Task

    def __init__(self, recipe: Hyperparameters, task: Task, rows: Tensor) -> None:
        """`rows` is the file's only input."""
        self.hyperparameters, self.task = recipe, task
        self.inputs, self.outputs = (rows,), task.outputs

    @abc.abstractmethod
    def nodes(self, graph: Graph) -> None:
        """Adds the nodes of what was trained, from `graph.input` to the task's `raw`."""

    def write(self, weights: Weights, folder: Path) -> None:
        graph = Graph(self.name, weights, folder, rows=self.inputs[0].name)
        self.nodes(graph)
        self.task.finish(graph)
        graph.write(self.inputs, self.outputs)

    @property
    def compared(self) -> str:
        return self.task.compared

    def measured(self, session: Session, table: Table, rows: Rows) -> Measured:
        return self.task.measured(session, table, list(self.pieces(rows)))


class TaskLearner(OfTask, Learner):
    """One that is trained in steps."""

    def loss(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self.task.loss(outputs, batch)

    def sums(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self.task.sums(outputs, batch)

    def figures(self, sums: npt.NDArray[np.float64], rows: int) -> dict[str, float]:
        return self.task.figures(sums, rows)


class Predictor(TaskLearner):
    """A recipe that predicts a column of other columns. `moments` are of the columns over the training rows."""

    task: Classification | Regression

    def __init__(
        self, recipe: PredictorHyperparameters, task: Classification | Regression, table: Table, moments: Moments
    ) -> None:
        super().__init__(recipe, task, numbers(table))
        self._augmentation, self._moments = recipe, moments
        self._deviation = torch.tensor(moments[1], dtype=torch.float32)

    def augmented(self, batch: Batch) -> Batch:
        asked, classes = self._augmentation, self.task.width if isinstance(self.task, Classification) else 0
        if not batch.rows:
            # A rank that has no row of a small batch. Its targets have the form of the others', and no row.
            return batch
        if asked.noise:
            batch = Batch(augmentation.noisy(batch.features, self._deviation, asked.noise), batch.targets)
        return augmentation.mixed(batch, asked.mixup, classes) if asked.mixup else batch


def numbers(table: Table) -> Tensor:
    """The input of a recipe for columns of numbers."""
    return Tensor(name=INPUT, dtype="float32", shape=(None, len(table.names)), names=table.names)
