"""Small tables and learners on them, without a store or a loop."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from modelwright.contract import Data, Trainer
from modelwright_trainer import recipes
from modelwright_trainer.data import Table
from modelwright_trainer.learner import Batch, Learner, whole
from modelwright_trainer.onnxgraph import Session, Weights
from modelwright_trainer.order import Plan
from sklearn import datasets

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


def real(name: str, *, tokens: bool = False) -> Table:
    """One of scikit-learn's data sets. `tokens`: its numbers, which are small and whole, as token ids."""
    found = getattr(datasets, f"load_{name}")()
    features = found.data.astype(np.int64 if tokens else np.float32)
    classes = tuple(map(str, found.target_names)) if "target_names" in found else ()
    targets = found.target.astype(np.int64 if classes else np.float32)
    names = tuple(f"x{index}" for index in range(features.shape[1]))
    return Table(features, targets, names, ("double",) * len(names), classes, "sha256:" + "0" * 64)


def text(length: int = 24) -> tuple[Table, int]:
    """Lower-case English of Python's own manual, in rows of `length` letters, and how many different letters there are.
    Every fifth row is padded behind two thirds."""
    words = " ".join(topics[name] for name in sorted(topics))[:100_000]
    kept = "".join(one for one in " ".join(words.lower().split()) if "a" <= one <= "z" or one == " ")
    letters = sorted(set(kept))
    ids = np.array([letters.index(one) for one in kept], dtype=np.int64)
    rows = ids[: len(ids) // length * length].reshape(-1, length).copy()
    rows[::5, length * 2 // 3 :] = -1
    names = tuple(f"t{index}" for index in range(length))
    return Table(rows, None, names, ("int64",) * length, (), "sha256:" + "0" * 64), len(letters)


def parts(table: Table, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Four fifths of the rows, and the others."""
    order = np.random.default_rng(seed).permutation(table.rows)
    return np.sort(order[table.rows // 5 :]), np.sort(order[: table.rows // 5])


def learner(
    table: Table,
    recipe: str = "mlp",
    task: str = "Classification",
    *,
    train: np.ndarray[Any, Any] | None = None,
    **hyperparameters: str,
) -> Learner:
    data = Data(uri="file:///d.parquet", target="kind", task=task)  # type: ignore[arg-type]
    rows = np.arange(table.rows) if train is None else train
    return recipes.learner(Trainer(recipe=recipe, hyperparameters=hyperparameters), data, table, rows)


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


def fitted(one: Learner, table: Table, train: np.ndarray[Any, Any]) -> Weights:
    """Weights after the epochs, in batches, as the loop trains on one rank."""
    recipe = one.hyperparameters
    torch.manual_seed(recipe.seed)
    module = one.module().train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    plan = Plan(len(train), recipe.batch_size, recipe.epochs, recipe.seed)
    for epoch in range(recipe.epochs):
        order = train[plan.order(epoch)]
        for at in range(0, len(train), recipe.batch_size):
            batch = one.augmented(Batch.of(table, order[at : at + recipe.batch_size], CPU))
            optimizer.zero_grad()
            (one.loss(module(batch.features), batch) / batch.rows).backward()
            optimizer.step()
    return whole(module)


def exported(one: Learner, weights: Weights, folder: Path) -> Session:
    one.write(weights, folder)
    return Session(folder)


def with_features(table: Table, features: np.ndarray[Any, Any]) -> Table:
    return dataclasses.replace(table, features=features)
