"""Metrics of the tasks, from what the published file gives; how sure they are, by the bootstrap.

Of what is measured of each class, `_macro` is the mean over the classes, `_micro` that over rows, and `_min` is of the
class that has the least.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Figures = npt.NDArray[np.floating]
Labels = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]

PADDING = -1
"""Instead of a token, at a row's end."""
# Beyond, an interval says less than it costs.
SMALL = 10_000
_RESAMPLES = 1000
_FEWER = 200
_BINS = 15
_LARGEST_CONFUSION = 200
_MOST_APART = 2000


@dataclasses.dataclass(frozen=True)
class Measured:
    """Figures of some rows. `again` computes one anew from a resample of the rows, given by their numbers from 0 (a row
    may occur several times); raises ValueError where it is not defined. `details` are for people."""

    rows: int
    figures: dict[str, float]
    again: Callable[[str, Indices], float]
    details: dict[str, Any] = dataclasses.field(default_factory=dict)

    def interval(self, name: str) -> tuple[float, float] | None:
        """Between which figures 95 % of resamples lie; None where there is no such figure, or more rows than
        `SMALL`."""
        return bootstrap(self.rows, lambda chosen: self.again(name, chosen)) if name in self.figures else None


def bootstrap(rows: int, figure: Callable[[Indices], float]) -> tuple[float, float] | None:
    """Between what 95 % of `figure` of resamples of `rows` rows lie (percentile bootstrap, Efron 1979), drawn from a
    fixed seed; None where there are more rows than `SMALL`, or no resample has a figure (it raises ValueError)."""
    if rows > SMALL:
        return None
    generator = np.random.RandomState(0)
    found = []
    for _ in range(_RESAMPLES if rows <= SMALL // 10 else _FEWER):
        chosen = generator.randint(0, rows, rows)
        try:
            found.append(figure(chosen))
        except ValueError:
            continue
    if not found:
        return None
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def classification(probabilities: Figures, labels: Labels, classes: tuple[str, ...] = ()) -> Measured:
    """Of `probabilities` [rows, classes] against `labels` [rows], as scikit-learn defines them. Precision, recall and
    F1 are of the classes that occur in labels or predictions, 0 where there is nothing to divide by; balanced accuracy
    is the mean recall of those that occur in labels; the logarithm is natural, and probabilities are normalized and
    clipped by their type's epsilon. AUROC and average precision are of each class against the others, mean over the
    classes that some rows are of and some are not; where there is none, the figures are left out. calibration_error is
    the expected one, of 15 bins of the largest probability (arXiv:1706.04599). Raises ValueError without rows."""
    _some(labels)
    figures = _defined(_CLASSIFICATION, probabilities, labels)
    names = classes or tuple(map(str, range(probabilities.shape[1])))
    confusion = np.bincount(
        labels * len(names) + probabilities.argmax(axis=1), minlength=len(names) ** 2
    ).reshape(len(names), -1) if len(names) <= _LARGEST_CONFUSION else None  # fmt: skip
    seen, precision, recall, f1 = _by_class(probabilities, labels)
    counts = np.bincount(labels, minlength=len(names))
    details: dict[str, Any] = {
        "classes": {
            names[one]: {
                "rows": int(counts[one]), "precision": float(precision[index]), "recall": float(recall[index]),
                "f1": float(f1[index]),
            }
            for index, one in enumerate(seen)
        }
    }  # fmt: skip
    if confusion is not None:
        details["confusion"] = {"classes": list(names), "counts": confusion.tolist()}
    return Measured(
        len(labels),
        figures,
        lambda name, chosen: _CLASSIFICATION[name](probabilities[chosen], labels[chosen]),
        details,
    )


def regression(predicted: Figures, targets: Figures) -> Measured:
    """Of `predicted` [rows] against `targets` [rows], as scikit-learn defines them: where all targets are equal, r2 and
    explained_variance are 1 for exact predictions, else 0. Raises ValueError without rows."""
    _some(targets)
    given, wanted = predicted.astype(np.float64), targets.astype(np.float64)
    return Measured(
        len(wanted),
        _defined(_REGRESSION, given, wanted),
        lambda name, chosen: _REGRESSION[name](given[chosen], wanted[chosen]),
    )


def anomalies(scores: Figures, errors: Figures, scaled: Figures) -> Measured:
    """reconstruction_error, the mean of the anomaly scores [rows], and explained_variance, the share of the columns'
    variance that is given back: of `errors` and what was to be given back, `scaled`, both [rows, columns] in units of
    the columns' standard deviations. Raises ValueError without rows."""
    _some(scores)
    exact = scores.astype(np.float64)

    def again(name: str, chosen: Indices) -> float:
        if name == "reconstruction_error":
            return float(np.mean(exact[chosen]))
        return _explained(errors[chosen].astype(np.float64), scaled[chosen].astype(np.float64))

    every = np.arange(len(exact))
    figures = {name: again(name, every) for name in ("reconstruction_error", "explained_variance")}
    shares = {str(share): float(np.quantile(exact, share)) for share in (0.5, 0.9, 0.95, 0.99, 0.999)}
    return Measured(len(exact), figures, again, {"anomalyScores": shares})


def language(losses: Figures, hits: Labels, tokens: Labels) -> Measured:
    """accuracy, log_loss and perplexity over tokens: of each row [rows] the sum of the losses, the tokens that were
    right, and all that were to be predicted. Raises ValueError without tokens."""

    def again(name: str, chosen: Indices) -> float:
        count = int(tokens[chosen].sum())
        if not count:
            raise ValueError("no tokens to evaluate: each row has one token, or none")
        if name == "accuracy":
            return float(hits[chosen].sum() / count)
        mean = float(losses[chosen].sum() / count)
        return mean if name == "log_loss" else math.exp(min(mean, 700.0))

    every = np.arange(len(tokens))
    return Measured(len(tokens), {name: again(name, every) for name in ("accuracy", "log_loss", "perplexity")}, again)


def of_tokens(logits: Figures, rows: Labels) -> tuple[Figures, Labels, Labels]:
    """What `language` measures, of each row: of logits [rows, length, tokens] for the token after each of `rows`
    [rows, length]."""
    wanted, given = rows[:, 1:], logits[:, :-1].astype(np.float64)
    there = wanted != PADDING
    own = np.take_along_axis(given, np.where(there, wanted, 0)[..., None], axis=2)[..., 0]
    most = given.max(axis=2)
    each = np.log(np.exp(given - most[..., None]).sum(axis=2)) + most - own
    hits = (given.argmax(axis=2) == wanted) & there
    return (each * there).sum(axis=1), hits.sum(axis=1), there.sum(axis=1)


def clusters(standardized: Callable[[Indices], Figures], found: Labels) -> Measured:
    """silhouette (Rousseeuw 1987): how much nearer a row is to its own cluster than to the next, from -1 to 1, mean
    over the rows that are of one, or over 2,000 of them that are drawn. `found` are the rows' clusters, -1 of none;
    `standardized` gives some rows. Left out where the rows are of one cluster, or each of its own. Raises ValueError
    without rows."""
    from sklearn.metrics import silhouette_samples

    _some(found)
    every = np.flatnonzero(found >= 0)
    few = len(every) <= _MOST_APART
    chosen = every if few else np.sort(np.random.RandomState(0).choice(every, _MOST_APART, replace=False))
    each = np.full(len(found), np.nan)
    if 1 < len(np.unique(found[chosen])) < len(chosen):
        each[chosen] = silhouette_samples(standardized(chosen), found[chosen])

    def again(_name: str, rows: Indices) -> float:
        if not few:
            raise ValueError("of a sample there is no resample")
        known = each[rows][~np.isnan(each[rows])]
        if not len(known):
            raise ValueError("no row is of a cluster")
        return float(np.mean(known))

    figures = {} if np.isnan(each).all() else {"silhouette": float(np.nanmean(each))}
    details: dict[str, Any] = {"clusters": np.bincount(found[every]).tolist()}
    if len(every) < len(found):
        details["noise"] = len(found) - len(every)
    return Measured(len(found), figures, again, details)


def _some(rows: npt.NDArray[Any]) -> None:
    if not len(rows):
        raise ValueError("no rows to evaluate")


def _defined(
    measures: Mapping[str, Callable[[Any, Any], float]], given: Figures, wanted: npt.NDArray[Any]
) -> dict[str, float]:
    figures = {}
    for name, measure in measures.items():
        try:
            figures[name] = measure(given, wanted)
        except ValueError:
            continue
    return figures


def _by_class(probabilities: Figures, labels: Labels) -> tuple[Labels, Figures, Figures, Figures]:
    """The classes that occur, and of each precision, recall and F1."""
    predicted = probabilities.argmax(axis=1)
    width = probabilities.shape[1]
    hits = np.bincount(labels[predicted == labels], minlength=width)
    given, wanted = np.bincount(predicted, minlength=width), np.bincount(labels, minlength=width)
    seen = np.flatnonzero(given + wanted)
    hits, given, wanted = hits[seen], given[seen], wanted[seen]
    return (
        seen,
        hits / np.maximum(given, 1),
        hits / np.maximum(wanted, 1),
        2 * hits / (given + wanted),
    )


def _of_classes(which: int, over: Callable[[Figures], Any]) -> Callable[[Figures, Labels], float]:
    return lambda probabilities, labels: float(over(_by_class(probabilities, labels)[which]))


def _accuracy(probabilities: Figures, labels: Labels) -> float:
    return float(np.mean(probabilities.argmax(axis=1) == labels))


def _balanced_accuracy(probabilities: Figures, labels: Labels) -> float:
    right = probabilities.argmax(axis=1) == labels
    counts = np.bincount(labels)
    return float(np.mean(np.bincount(labels, right)[counts > 0] / counts[counts > 0]))


def _log_loss(probabilities: Figures, labels: Labels) -> float:
    epsilon = np.finfo(probabilities.dtype).eps
    exact = np.clip(probabilities.astype(np.float64), epsilon, 1 - epsilon)
    return float(-np.mean(np.log(exact[np.arange(len(labels)), labels] / exact.sum(axis=1))))


def _against_others(of: Callable[[Figures, npt.NDArray[np.bool_]], float]) -> Callable[[Figures, Labels], float]:
    def measure(probabilities: Figures, labels: Labels) -> float:
        counts = np.bincount(labels, minlength=probabilities.shape[1])
        found = [
            of(probabilities[:, one], labels == one) for one in np.flatnonzero((counts > 0) & (counts < len(labels)))
        ]
        if not found:
            raise ValueError("all rows are of one class")
        return float(np.mean(found))

    return measure


def _area(scores: Figures, positive: npt.NDArray[np.bool_]) -> float:
    """Under the receiver operating characteristic: how often a positive row has the higher score, a tie counted half
    (Mann–Whitney)."""
    _, at, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[at]
    positives = int(positive.sum())
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * (len(scores) - positives)))


def _average_precision(scores: Figures, positive: npt.NDArray[np.bool_]) -> float:
    """The mean of the precision at each threshold, weighted by how much recall it adds."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of each threshold
    precision = hits[last] / (last + 1)
    return float(np.sum(np.diff(hits[last], prepend=0) * precision) / hits[-1])


def _calibration_error(probabilities: Figures, labels: Labels) -> float:
    sure = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(sure * _BINS).astype(np.int64) - 1, 0, _BINS - 1)
    return float(np.abs(np.bincount(bins, right - sure, _BINS)).sum() / len(labels))


_CLASSIFICATION: Mapping[str, Callable[[Figures, Labels], float]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "precision_micro": _accuracy,  # each row has one class and one prediction, so that these are the same
    "recall_micro": _accuracy,
    "f1_micro": _accuracy,
    "precision_macro": _of_classes(1, np.mean),
    "recall_macro": _of_classes(2, np.mean),
    "f1_macro": _of_classes(3, np.mean),
    "precision_min": _of_classes(1, np.min),
    "recall_min": _of_classes(2, np.min),
    "f1_min": _of_classes(3, np.min),
    "auroc": _against_others(_area),
    "average_precision": _against_others(_average_precision),
    "log_loss": _log_loss,
    "calibration_error": _calibration_error,
}


def _mse(predicted: Figures, targets: Figures) -> float:
    return float(np.mean(np.square(predicted - targets)))


def _share(left: float, variance: float) -> float:
    """What is explained of a variance of which so much is left."""
    return 1 - left / variance if variance else float(left == 0)


def _explained(errors: Figures, wanted: Figures) -> float:
    return _share(float(np.var(errors, axis=0).sum()), float(np.var(wanted, axis=0).sum()))


_REGRESSION: Mapping[str, Callable[[Figures, Figures], float]] = {
    "mae": lambda predicted, targets: float(np.mean(np.abs(predicted - targets))),
    "mse": _mse,
    "rmse": lambda predicted, targets: math.sqrt(_mse(predicted, targets)),
    "r2": lambda predicted, targets: _share(_mse(predicted, targets), float(np.var(targets))),
    "explained_variance": lambda predicted, targets: _explained(predicted - targets, targets),
}
