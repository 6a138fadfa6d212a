"""Stacking: a linear model learns from the members' outputs what to make of them (Wolpert 1992).

The members have learned from the training rows, and are surer of them than of any others; so the model is fitted to the
validation rows. How strongly it is regularized is chosen by what it gives out of fold: for each row, from a fit to the
folds that the row is not in, so that no row's own target has a part in its figure. In the end it is fitted to all
validation rows. Test rows are never looked at.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from modelwright_trainer import metrics
from modelwright_trainer.failures import DataFailed
from modelwright_trainer.metrics import Measured

FOLDS = 5
LEAST = 1e-12
_STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
_OTHER = "give the Dataset a larger validation split, or take the method Mean or Weighted"
Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Stack:
    """`weight` [outputs, inputs] and `bias` [outputs], on log probabilities or predictions. `out_of_fold` is measured
    on the validation rows, each by a fit that has not seen it."""

    weight: Array
    bias: Array
    strength: float
    folds: int
    out_of_fold: Measured


def fit(given: Array, targets: Array, classes: tuple[str, ...], seed: int) -> Stack:
    """Of `given` [rows, members, outputs], probabilities or predictions, and `targets` [rows]: classes as indices, or
    numbers where `classes` is empty. Raises DataFailed where there are too few rows."""
    values = np.log(np.maximum(given.astype(np.float64), LEAST)) if classes else given.astype(np.float64)
    rows = values.reshape(len(values), -1)
    folds = _folds(targets, classes, seed)
    best: tuple[float, float, Measured] | None = None
    for strength in _STRENGTHS:
        predicted = np.empty((len(rows), len(classes) or 1))
        for chosen, others in folds:
            weight, bias = _fitted(rows[others], targets[others], len(classes), strength)
            predicted[chosen] = rows[chosen] @ weight.T + bias
        measured = _measured(predicted, targets, classes)
        loss = measured.figures["log_loss" if classes else "mse"]
        if best is None or loss < best[0]:
            best = (loss, strength, measured)
    assert best is not None  # noqa: S101 - there are strengths
    weight, bias = _fitted(rows, targets, len(classes), best[1])
    return Stack(weight.astype(np.float32), bias.astype(np.float32), best[1], len(folds), best[2])


def _folds(targets: Array, classes: tuple[str, ...], seed: int) -> list[tuple[Array, Array]]:
    """Of each fold its rows, and the others."""
    from sklearn.model_selection import KFold, StratifiedKFold

    count = FOLDS
    if classes:
        rows = np.bincount(targets, minlength=len(classes))
        fewest = int(rows.argmin())
        if rows[fewest] < 2:
            raise DataFailed(
                f"spec.source.combine.method: Stack learns from the validation rows, of which {rows[fewest]} are of"
                f" class {classes[fewest]}, and 2 are the least: {_OTHER}"
            )
        count = min(FOLDS, int(rows[fewest]))
    elif len(targets) < 2 * FOLDS:
        raise DataFailed(
            f"spec.source.combine.method: Stack learns from the validation rows, of which there are {len(targets)}, and"
            f" {2 * FOLDS} are the least: {_OTHER}"
        )
    made = (StratifiedKFold if classes else KFold)(count, shuffle=True, random_state=seed)
    return [(chosen, others) for others, chosen in made.split(targets, targets)]


def _fitted(rows: Array, targets: Array, classes: int, strength: float) -> tuple[Array, Array]:
    """Weight and bias, of rows as they are: what standardizes them is taken into both. `strength` is of the L2
    penalty on the weights of standardized rows."""
    from sklearn.linear_model import LogisticRegression, Ridge

    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    scale = np.where(deviation > 0, deviation, 1.0)
    standard = (rows - mean) / scale
    if not classes:
        model = Ridge(alpha=strength).fit(standard, targets)
        weight, bias = model.coef_[None], np.array([model.intercept_])
    else:
        model = LogisticRegression(C=1 / strength, max_iter=1000).fit(standard, targets)
        weight, bias = model.coef_, model.intercept_
        if len(weight) == 1:  # of two classes the second's logit alone, the first's being 0
            weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
    weight = weight / scale
    return weight, bias - weight @ mean


def _measured(predicted: Array, targets: Array, classes: tuple[str, ...]) -> Measured:
    if not classes:
        return metrics.regression(predicted[:, 0], targets)
    exact = np.exp(predicted - predicted.max(axis=1, keepdims=True))
    return metrics.classification(exact / exact.sum(axis=1, keepdims=True), targets, classes)
