"""The digits as 28×28 images, folds of them, and nets as the literature names them, for the benches of compression."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from modelwright import artifact
from modelwright.artifact import DataLineage, Manifest
from modelwright.contract import Data, Trainer
from modelwright.derivation import Calibration, Step
from modelwright_trainer import evaluated, recipes
from modelwright_trainer.compress import files, steps
from modelwright_trainer.compress.finetune import seed_of
from modelwright_trainer.compress.state import State
from modelwright_trainer.compress.subject import Parent
from modelwright_trainer.compress.work import Work
from modelwright_trainer.data import Table
from modelwright_trainer.evaluated import Material
from modelwright_trainer.learner import Batch, Learner, whole
from modelwright_trainer.onnxgraph import Session
from modelwright_trainer.order import Plan
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold

SIDE = 28
Rows = np.ndarray[Any, np.dtype[np.int64]]


def resampled(images: np.ndarray[Any, Any], side: int = SIDE) -> np.ndarray[Any, Any]:
    """[rows, 8, 8] → [rows, side, side], bilinear, the corners on the corners: a linear map, of rank 64 at most."""
    places = np.linspace(0, images.shape[1] - 1, side)
    low = np.minimum(places.astype(int), images.shape[1] - 2)
    weights = np.zeros((side, images.shape[1]))
    weights[np.arange(side), low] = 1 - (places - low)
    weights[np.arange(side), low + 1] = places - low
    return np.einsum("ai,rij,bj->rab", weights, images, weights)


def digits(side: int = SIDE) -> Table:
    """All 1,797 of scikit-learn's digits."""
    pixels, labels = load_digits(return_X_y=True)
    images = resampled(pixels.reshape(-1, 8, 8), side) if side != 8 else pixels
    features = images.reshape(len(labels), -1).astype(np.float32)
    names = tuple(f"p{index}" for index in range(features.shape[1]))
    return Table(
        features, labels.astype(np.int64), names, ("float",) * len(names), tuple("0123456789"), "sha256:" + "0" * 64
    )


def folds(table: Table, count: int, seed: int) -> Iterator[tuple[Rows, Rows]]:
    """Rows for training and for the test; over all folds each row is tested once."""
    yield from StratifiedKFold(count, shuffle=True, random_state=seed).split(table.features, table.targets)


def material(table: Table, train: Rows, test: Rows) -> Material:
    return Material(table, {"train": train, "validation": test, "test": test},
                    DataLineage(uri="file:///digits.parquet", digest=table.digest, target="target"))  # fmt: skip


def trained(learner: Learner, table: Table, train: Rows, epochs: int, seed: int, rate: float = 1e-3) -> dict[str, Any]:
    """AdamW in batches of 64, the learning rate falling in half a cosine."""
    torch.manual_seed(seed)
    module = learner.module().train()
    plan = Plan(len(train), 64, epochs, seed)
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, plan.steps)
    for epoch in range(epochs):
        order = train[plan.order(epoch)]
        for at in range(0, len(order), plan.batch):
            batch = Batch.of(table, order[at : at + plan.batch], torch.device("cpu"))
            optimizer.zero_grad()
            (learner.loss(module(batch.features), batch) / batch.rows).backward()
            optimizer.step()
            schedule.step()
    return whole(module)


@dataclasses.dataclass
class Net:
    """A trained net with its rows, as the steps take it."""

    work: Work
    state: State
    folder: Path

    @property
    def plain_bytes(self) -> int:
        """Of its weights as safetensors, without the graph."""
        return (self.folder / "parent" / "model.safetensors").stat().st_size

    def compressed(self, *asked: dict[str, Any]) -> State:
        state = self.state
        for step in asked:
            state = steps.apply(self.work, state, Step.model_validate(step))
        return state

    def files(self, state: State, name: str = "made") -> tuple[Path, artifact.Onnx]:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return folder, files.write(self.work, state, folder)

    def hits(self, session: Session) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Of the test rows."""
        rows = self.work.rows.parts["test"]
        given = session.run(self.work.rows.table.features[rows], only=["logits"])["logits"]
        found: np.ndarray[Any, np.dtype[np.bool_]] = given.argmax(axis=1) == self.work.rows.table.targets[rows]
        return found


def net(
    table: Table, train: Rows, test: Rows, seed: int, *, recipe: str = "mlp", epochs: int = 30, rate: float = 1e-3,
    learner: Learner | None = None, **hyperparameters: str,
) -> Net:  # fmt: skip
    """Trained on the rows `train`."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    made = folder / "parent"
    made.mkdir()
    data = Data(uri="file:///digits.parquet", target="target")
    trainer = Trainer(recipe=recipe, hyperparameters=hyperparameters)
    one = learner or recipes.learner(trainer, data, table, train)
    weights = trained(one, table, train, epochs, seed, rate)
    one.write(weights, made)
    onnx = artifact.Onnx(opset=21, ir_version=10)
    rebuild = artifact.RecipeRebuild(
        recipe=recipe, hyperparameters=one.hyperparameters.to_strings(), inputs=table.features.shape[1], outputs=10
    )
    manifest = Manifest.model_construct(
        model="digits", version="1.0.0", task="Classification", classes=table.classes, inputs=one.inputs,
        outputs=one.outputs, formats=artifact.Formats(onnx=onnx), rebuild=rebuild, files=(),
    )  # fmt: skip
    work = Work(
        Parent("digits", "", manifest, made),
        material(table, train, test),
        Calibration(),
        seed_of(seed, "bench"),
        folder,
    )
    if learner is not None:
        work._learners[(recipe, tuple(sorted(rebuild.hyperparameters.items())))] = learner
    return Net(work, State(rebuild, weights), folder)


def accuracy(one: Net, state: State) -> float:
    folder, onnx = one.files(state)
    return float(
        evaluated.measured(Session(folder, onnx), one.work.parent.manifest, one.work.rows, "test").figures["accuracy"]
    )
