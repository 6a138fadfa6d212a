"""What the training loop asks of a recipe at work on a table. The loop knows steps, ranks and checkpoints; a learner
knows the module, what a row's loss is, and the file that is published in the end."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from modelwright import artifact
from modelwright.api.recipes import Hyperparameters, SteppedHyperparameters
from torch import nn

from modelwright_trainer.data import Table
from modelwright_trainer.metrics import Measured
from modelwright_trainer.onnxgraph import Session, Weights
from modelwright_trainer.split import Rows


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows of a table on a device: `features` [rows, …], and `targets` [rows] where the table has any."""

    features: torch.Tensor
    targets: torch.Tensor | None

    @property
    def rows(self) -> int:
        return len(self.features)

    @classmethod
    def of(cls, table: Table, rows: Rows, device: torch.device) -> Batch:
        """The given rows of the table: they alone are copied."""
        targets = None if table.targets is None else torch.from_numpy(table.targets[rows]).to(device)
        return cls(torch.from_numpy(table.features[rows]).to(device), targets)


Tell = Callable[[int, int], None]
"""Called at each round of a fit with its number and how many there are at most; raises Preempted after a stop."""
Reference = Callable[[npt.NDArray[Any]], npt.NDArray[np.floating]]


class Publisher(abc.ABC):
    """A recipe at work on a table, as far as a file is published in the end. `inputs` and `outputs` are the file's
    signature; `evaluation_rows` is how many rows are computed at once, `golden_rows` how many are golden samples."""

    hyperparameters: Hyperparameters
    inputs: tuple[artifact.Tensor, ...]
    outputs: tuple[artifact.Tensor, ...]
    evaluation_rows: int = 65536
    golden_rows: int = 32

    @abc.abstractmethod
    def write(self, weights: Weights, folder: Path) -> None:
        """Writes the ONNX graph and its weights to `folder`."""

    @property
    @abc.abstractmethod
    def compared(self) -> str:
        """The name of the file's output that `reference` gives."""

    @abc.abstractmethod
    def reference(self, weights: Weights) -> Reference:
        """What was trained, as a function of features [rows, …]: the file is compared with it."""

    @abc.abstractmethod
    def measured(self, session: Session, table: Table, rows: Rows) -> Measured:
        """Metrics of the task on the given rows, of the published file in its own runtime."""

    def pieces(self, rows: Rows) -> Iterator[Rows]:
        for at in range(0, len(rows), self.evaluation_rows):
            yield rows[at : at + self.evaluation_rows]


class Fitted(Publisher):
    """A recipe that is fitted at once, by one process."""

    @abc.abstractmethod
    def fit(self, table: Table, train: Rows, tell: Tell) -> Weights:
        """The weights, from the rows `train`. Raises DataFailed."""


class Learner(Publisher):
    """A recipe that is trained in steps. `write` is given the module's whole state dict."""

    hyperparameters: SteppedHyperparameters

    @abc.abstractmethod
    def module(self) -> nn.Module:
        """A new module, its weights drawn from torch's random state. It takes `Batch.features` as the data set holds
        them: numeric preprocessing is inside."""

    def augmented(self, batch: Batch) -> Batch:
        """The batch as it is trained on. What is drawn for it is drawn from torch's random state, which the loop sets
        to a function of (seed, step, rank) before."""
        return batch

    @abc.abstractmethod
    def loss(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Of what the module gives for the batch: the sum over its rows, a scalar. The loop makes it the mean over the
        global batch."""

    @abc.abstractmethod
    def sums(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """What `figures` needs of some rows, as float64 of any fixed length; the loop adds up over pieces and ranks."""

    @abc.abstractmethod
    def figures(self, sums: npt.NDArray[np.float64], rows: int) -> dict[str, float]:
        """Figures of the validation split, of the sums over all its `rows`; `validation_loss` is one of them."""

    def rebuilt(self, weights: Weights) -> nn.Module:
        """The trained module on the CPU, without dropout, from its whole state dict."""
        module = self.module()
        module.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        return module.eval()

    def reference(self, weights: Weights) -> Reference:
        module = self.rebuilt(weights)

        def given(features: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
            with torch.no_grad():
                return module(torch.from_numpy(features)).numpy()

        return given


def whole(module: nn.Module) -> dict[str, npt.NDArray[np.float32]]:
    """The state dict of a module that is not sharded."""
    state: Mapping[str, torch.Tensor] = module.state_dict()
    return {name: value.detach().cpu().numpy() for name, value in state.items()}
