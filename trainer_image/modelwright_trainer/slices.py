"""Metrics of parts of the test rows: of slices by a column, and of each class."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from modelwright.contract import PartFigures, Slice, Task

from modelwright_trainer.data import Table, no_column
from modelwright_trainer.failures import DataFailed
from modelwright_trainer.learner import Publisher
from modelwright_trainer.metrics import Measured
from modelwright_trainer.onnxgraph import Session
from modelwright_trainer.split import Rows

# What a termination message has room for, in which status is told.
_MOST_CLASSES = 10
_TOLD: Mapping[Task, tuple[str, ...]] = {
    "AnomalyDetection": ("reconstruction_error",),
    "Classification": ("accuracy", "f1_macro"),
    "Clustering": ("silhouette",),
    "LanguageModelling": ("accuracy", "perplexity"),
    "Regression": ("mae", "r2"),
}


def check(slices: Sequence[Slice], table: Table) -> None:
    """Raises DataFailed for a column that the table does not have: before anything is trained in vain."""
    for index, one in enumerate(slices):
        if one.column not in table.names:
            raise DataFailed(no_column(f"evaluation.slices[{index}].column", one.column, list(table.names)))


def parts(slices: Sequence[Slice], table: Table, rows: Rows) -> Iterator[tuple[str, Rows]]:
    """Each slice's name and its rows, of `rows`."""
    for one in slices:
        column = table.features[rows, table.names.index(one.column)]
        for value in one.values:
            yield f"{one.column}={value:g}", rows[column == np.asarray(value, column.dtype)]
        if one.bounds:
            yield f"{one.column}<{one.bounds[0]:g}", rows[column < one.bounds[0]]
            for low, high in itertools.pairwise(one.bounds):
                yield f"{low:g}<={one.column}<{high:g}", rows[(column >= low) & (column < high)]
            yield f"{one.column}>={one.bounds[-1]:g}", rows[column >= one.bounds[-1]]


def measured(
    slices: Sequence[Slice], learner: Publisher, session: Session, table: Table, rows: Rows
) -> list[dict[str, Any]]:
    """For `evaluation.json`: of each slice its name, how many rows, and all metrics that are defined on them."""
    found = []
    for name, own in parts(slices, table, rows):
        figures = learner.measured(session, table, own).figures if len(own) else {}
        found.append({"name": name, "rows": len(own), "metrics": figures})
    return found


def told(found: Sequence[Mapping[str, Any]], task: Task) -> tuple[PartFigures, ...]:
    """For status: the main metrics of each slice."""
    return tuple(
        PartFigures(
            name=one["name"],
            rows=one["rows"],
            metrics={name: one["metrics"][name] for name in _TOLD[task] if name in one["metrics"]},
        )
        for one in found
    )


def worst_classes(of: Measured) -> tuple[PartFigures, ...]:
    """For status: the classes with the least F1, the least first. Of other tasks none."""
    classes: Mapping[str, Mapping[str, Any]] = of.details.get("classes", {})
    order = sorted(classes, key=lambda name: (classes[name]["f1"], name))[:_MOST_CLASSES]
    return tuple(
        PartFigures(
            name=name,
            rows=classes[name]["rows"],
            metrics={metric: classes[name][metric] for metric in ("precision", "recall", "f1")},
        )
        for name in order
    )
