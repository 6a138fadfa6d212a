"""The tasks: what the last layer's numbers mean, what a row's loss is, how a result is measured."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from modelwright.artifact import LOGITS, NEXT, PREDICTION, PROBABILITIES, RECONSTRUCTION, SCORE, Tensor
from torch import nn
from torch.nn import functional

from modelwright_trainer import metrics
from modelwright_trainer.data import Table
from modelwright_trainer.learner import Batch
from modelwright_trainer.metrics import PADDING, Measured
from modelwright_trainer.onnxgraph import Graph, Session
from modelwright_trainer.preprocessing import STANDARDIZED, Moments, Rescale, Standardize, rescaled
from modelwright_trainer.split import Rows


class Task(abc.ABC):
    """`outputs` are the file's, of which `compared` is the module's own; `raw` is the name that the last layer's
    numbers have in the graph, and `width` how many they are."""

    outputs: tuple[Tensor, ...]
    compared: str
    raw: str
    width: int

    def head(self) -> nn.Module:
        """What the module does with the last layer's numbers; its place in the state dict is `head`."""
        return nn.Identity()

    @abc.abstractmethod
    def loss(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The sum over the rows."""

    @abc.abstractmethod
    def sums(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor: ...

    def figures(self, sums: npt.NDArray[np.float64], rows: int) -> dict[str, float]:
        """The first of the sums is the loss."""
        return {"validation_loss": float(sums[0]) / rows}

    @abc.abstractmethod
    def finish(self, graph: Graph) -> None:
        """Adds the nodes that make the outputs of `raw`."""

    @abc.abstractmethod
    def measured(self, session: Session, table: Table, pieces: Sequence[Rows]) -> Measured:
        """On the rows of all `pieces`, each of so many as there is memory for."""


class Classification(Task):
    """One of several classes: the module gives logits [rows, classes], the file their softmax too. `weights` are of the
    classes in the loss. A batch's targets are indices, or, where rows were mixed, shares [rows, classes]."""

    compared = raw = LOGITS

    def __init__(self, classes: tuple[str, ...], weights: npt.NDArray[np.float32] | None = None) -> None:
        self.width = len(classes)
        self.outputs = tuple(
            Tensor(name=name, dtype="float32", shape=(None, self.width), names=classes)
            for name in (LOGITS, PROBABILITIES)
        )
        self._weights = None if weights is None else torch.from_numpy(weights)

    @classmethod
    def of(cls, table: Table, train: Rows, *, balanced: bool = False) -> Classification:
        """`balanced`: the weights make each class count the same over the rows `train`, and their mean over them 1."""
        if not balanced:
            return cls(table.classes)
        counts = np.bincount(table.targets[train], minlength=len(table.classes))
        weights = np.where(counts, len(train) / (np.count_nonzero(counts) * np.maximum(counts, 1)), 0.0)
        return cls(table.classes, weights.astype(np.float32))

    def loss(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        weights = None if self._weights is None else self._weights.to(outputs.device)
        return functional.cross_entropy(outputs.float(), batch.targets, weights, reduction="sum")

    def sums(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        hits = (outputs.argmax(dim=1) == batch.targets).sum()
        return torch.stack([functional.cross_entropy(outputs, batch.targets, reduction="sum").double(), hits.double()])

    def figures(self, sums: npt.NDArray[np.float64], rows: int) -> dict[str, float]:
        return {**super().figures(sums, rows), "validation_accuracy": float(sums[1]) / rows}

    def finish(self, graph: Graph) -> None:
        graph.node("Softmax", [LOGITS], PROBABILITIES, axis=-1)

    def measured(self, session: Session, table: Table, pieces: Sequence[Rows]) -> Measured:
        (given,) = _run(session, table, pieces, PROBABILITIES)
        return metrics.classification(given, _targets(table, pieces), table.classes)


class Regression(Task):
    """A number: the module gives it as [rows, 1], in the target's own unit. The loss is the squared error in units of
    the target's standard deviation over the training rows, so that a learning rate fits whatever the unit is."""

    compared, raw, width = PREDICTION, "scaled", 1

    def __init__(self, target: str, moments: Moments) -> None:
        self.outputs = (Tensor(name=PREDICTION, dtype="float32", shape=(None, 1), names=(target,)),)
        self.moments = moments
        self._scale = float(Standardize(moments).scale[0])

    def head(self) -> nn.Module:
        return Rescale(self.moments)

    def _errors(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return (outputs[:, 0].float() - batch.targets) / self._scale

    def loss(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self._errors(outputs, batch).square().sum()

    def distance(self, outputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """The squared difference of two predictions [rows, 1] in the loss's units, the sum over the rows."""
        return ((outputs.float() - wanted) / self._scale).square().sum()

    def sums(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self._errors(outputs, batch).double().square().sum()[None]

    def finish(self, graph: Graph) -> None:
        rescaled(graph, self.raw, PREDICTION)

    def measured(self, session: Session, table: Table, pieces: Sequence[Rows]) -> Measured:
        (given,) = _run(session, table, pieces, PREDICTION)
        return metrics.regression(given[:, 0], _targets(table, pieces))


class AnomalyDetection(Task):
    """How unlike the rest a row is: the module gives it back as [rows, columns], the file also its anomaly score
    [rows], which is the loss: the squared error in units of each column's standard deviation, mean over the columns. A
    batch's targets, where it has any, are the rows without the noise that was added to them."""

    compared, raw = RECONSTRUCTION, "scaled"

    def __init__(self, names: tuple[str, ...], moments: Moments) -> None:
        self.width = len(names)
        self.outputs = (
            Tensor(name=RECONSTRUCTION, dtype="float32", shape=(None, self.width), names=names),
            Tensor(name=SCORE, dtype="float32", shape=(None,)),
        )
        self._moments = moments
        self._standardize = Standardize(moments)

    def head(self) -> nn.Module:
        return Rescale(self._moments)

    def _scores(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self._apart(outputs, batch.features if batch.targets is None else batch.targets)

    def _apart(self, outputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        scale = self._standardize.scale.to(outputs.device)
        return ((outputs.float() - wanted) / scale).square().mean(dim=1)

    def distance(self, outputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """The squared difference of what is given back for rows [rows, columns] in the loss's units, the sum over the
        rows."""
        return self._apart(outputs, wanted).sum()

    def loss(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self._scores(outputs, batch).sum()

    def sums(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self._scores(outputs, batch).double().sum()[None]

    def finish(self, graph: Graph) -> None:
        rescaled(graph, self.raw, RECONSTRUCTION)
        # Before they get their units back, where a large mean would round the small differences away.
        errors = graph.node("Sub", [self.raw, STANDARDIZED], "errors")
        squares = graph.node("Mul", [errors, errors], "squares")
        graph.node("ReduceMean", [squares, graph.constant("columns", np.array([1], np.int64))], SCORE, keepdims=0)

    def measured(self, session: Session, table: Table, pieces: Sequence[Rows]) -> Measured:
        scores, given = _run(session, table, pieces, SCORE, RECONSTRUCTION)
        scale = self._standardize.scale.numpy()
        wanted = np.concatenate([table.features[piece] for piece in pieces]) / scale
        return metrics.anomalies(scores, given / scale - wanted, wanted)


class LanguageModelling(Task):
    """Which token comes next: the module gives logits [rows, length, tokens], those at a position for the next one; the
    file also the probabilities [rows, tokens] of the token after the last of each row. A row's loss is the mean over
    its tokens but for the first."""

    compared = raw = LOGITS

    def __init__(self, length: int, vocabulary: int) -> None:
        self.width = vocabulary
        self.length = length
        self.outputs = (
            Tensor(name=LOGITS, dtype="float32", shape=(None, length, vocabulary)),
            Tensor(name=NEXT, dtype="float32", shape=(None, vocabulary)),
        )

    def _losses(self, outputs: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of each token [rows, length − 1], 0 where there is none, and which there are."""
        wanted = batch.features[:, 1:]
        each = functional.cross_entropy(
            outputs[:, :-1].float().flatten(0, 1), wanted.flatten(), reduction="none", ignore_index=PADDING
        )
        return each.view(wanted.shape), wanted != PADDING

    def loss(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        losses, there = self._losses(outputs, batch)
        return (losses.sum(dim=1) / there.sum(dim=1).clamp(min=1)).sum()

    def sums(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        losses, there = self._losses(outputs, batch)
        hits = (outputs[:, :-1].argmax(dim=2) == batch.features[:, 1:]) & there
        by_row = (losses.double().sum(dim=1) / there.sum(dim=1).clamp(min=1)).sum()
        return torch.stack([by_row, hits.sum().double(), there.sum().double()])

    def figures(self, sums: npt.NDArray[np.float64], rows: int) -> dict[str, float]:
        return {**super().figures(sums, rows), "validation_accuracy": float(sums[1] / max(sums[2], 1.0))}

    def finish(self, graph: Graph) -> None:
        """The logits at each row's last token are picked by a product with a row that is 1 there and 0 elsewhere."""
        positions = graph.constant("next.positions", np.arange(self.length, dtype=np.int64)[None])
        zero, one = (graph.constant(f"next.{value}", np.array([value], np.int64)) for value in (0, 1))
        there = graph.cast(graph.node("GreaterOrEqual", [graph.input, zero], "there"), "int64")
        count = graph.node("ReduceSum", [there, one], "count", keepdims=1)
        last = graph.node("Max", [graph.node("Sub", [count, one], "before"), zero], "last")
        chosen = graph.cast(graph.node("Equal", [positions, last], "is_last"), "float32")
        picked = graph.node("MatMul", [graph.node("Unsqueeze", [chosen, one], "chosen.row"), LOGITS], "picked")
        graph.node("Softmax", [graph.node("Squeeze", [picked, one], "last_logits")], NEXT, axis=-1)

    def measured(self, session: Session, table: Table, pieces: Sequence[Rows]) -> Measured:
        found = [
            metrics.of_tokens(session.run(table.features[piece], only=[LOGITS])[LOGITS], table.features[piece])
            for piece in pieces
        ]
        return metrics.language(*map(np.concatenate, zip(*found, strict=True)))


def _targets(table: Table, pieces: Sequence[Rows]) -> npt.NDArray[Any]:
    return np.concatenate([table.targets[piece] for piece in pieces])


def _run(session: Session, table: Table, pieces: Sequence[Rows], *names: str) -> list[npt.NDArray[np.float32]]:
    """The named outputs for the rows of all pieces."""
    given = [session.run(table.features[piece], only=names) for piece in pieces]
    return [np.concatenate([one[name] for one in given]) for name in names]
