"""Small tables and learners on them, without a store or a loop."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from modelwright.contract import Data, Trainer
from modelwright_trainer import recipes
from modelwright_trainer.data import Table
from modelwright_trainer.learner import Batch, Learner, whole
from modelwright_trainer.onnxgraph import Session, Weights

CPU = torch.device("cpu")


def classified(rows: int = 90, columns: int = 3, classes: int = 3, seed: int = 0) -> Table:
    """Numbers of unlike scales, of which the last column is constant; classes by the sum of the others."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(rows, columns)) * np.logspace(0, 2, columns) + 5
    features[:, -1] = 7
    order = np.argsort(np.argsort(features[:, :-1].sum(axis=1)))
    targets = (order * classes // rows).astype(np.int64)
    names = tuple(f"x{index}" for index in range(columns))
    return Table(
        features.astype(np.float32), targets, names, ("double",) * columns, tuple("abcdefghij"[:classes]),
        "sha256:" + "0" * 64,
    )  # fmt: skip


def learner(table: Table, recipe: str = "mlp", task: str = "Classification", **hyperparameters: str) -> Learner:
    data = Data(uri="file:///d.parquet", target="kind", task=task)  # type: ignore[arg-type]
    return recipes.learner(Trainer(recipe=recipe, hyperparameters=hyperparameters), data, table, np.arange(table.rows))


def trained(one: Learner, table: Table, steps: int = 30) -> Weights:
    """Weights after some steps on all rows at once."""
    torch.manual_seed(one.hyperparameters.seed)
    module = one.module().train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    batch = Batch.of(table, np.arange(table.rows), CPU)
    for _ in range(steps):
        optimizer.zero_grad()
        (one.loss(module(batch.features), batch) / batch.rows).backward()
        optimizer.step()
    return whole(module)


def exported(one: Learner, weights: Weights, folder: Path) -> Session:
    one.write(weights, folder)
    return Session(folder)


def with_features(table: Table, features: np.ndarray[Any, Any]) -> Table:
    return dataclasses.replace(table, features=features)
