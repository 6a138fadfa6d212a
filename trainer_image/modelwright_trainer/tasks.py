"""The tasks: what the last layer's numbers mean, what a row's loss is, how a result is measured."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from modelwright.artifact import LOGITS, PROBABILITIES, Tensor
from torch.nn import functional

from modelwright_trainer import metrics
from modelwright_trainer.data import Table
from modelwright_trainer.learner import Batch
from modelwright_trainer.onnxgraph import Graph, Session
from modelwright_trainer.split import Rows


@dataclasses.dataclass(frozen=True)
class Classification:
    """One of several classes: the module gives logits [rows, classes], the file their softmax too."""

    classes: tuple[str, ...]

    compared = LOGITS

    @property
    def width(self) -> int:
        """Of the module's last layer."""
        return len(self.classes)

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return tuple(
            Tensor(name=name, dtype="float32", shape=(None, self.width), names=self.classes)
            for name in (LOGITS, PROBABILITIES)
        )

    def loss(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return functional.cross_entropy(logits, batch.targets, reduction="sum")

    def sums(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        hits = (logits.argmax(dim=1) == batch.targets).sum()
        return torch.stack([functional.cross_entropy(logits, batch.targets, reduction="sum").double(), hits.double()])

    def figures(self, sums: npt.NDArray[np.float64], rows: int) -> dict[str, float]:
        return {"validation_loss": float(sums[0]) / rows, "validation_accuracy": float(sums[1]) / rows}

    def finish(self, graph: Graph) -> None:
        """Adds the nodes that make the outputs of what the module gives, `compared`."""
        graph.node("Softmax", [LOGITS], PROBABILITIES, axis=-1)

    def metrics(self, session: Session, table: Table, rows: Rows) -> dict[str, float]:
        outputs = session.run(table.features[rows])
        return metrics.classification(outputs[PROBABILITIES], table.targets[rows])
