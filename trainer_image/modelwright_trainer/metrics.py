"""Metrics of the tasks, from what the published file gives."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt


def classification(probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.int64]) -> dict[str, float]:
    """accuracy, f1_macro and log_loss of `probabilities` [rows, classes] against `labels` [rows], as scikit-learn
    defines them: F1 is the mean over the classes that occur in labels or predictions, 0 where a class was never hit;
    the logarithm is natural, and probabilities are normalized and clipped by their type's epsilon. Raises ValueError
    without rows."""
    if not len(labels):
        raise ValueError("no rows to evaluate")
    predicted = probabilities.argmax(axis=1)
    seen = np.union1d(labels, predicted)
    hits = np.array([np.sum((predicted == one) & (labels == one)) for one in seen])
    total = np.array([np.sum(predicted == one) + np.sum(labels == one) for one in seen])
    epsilon = np.finfo(probabilities.dtype).eps
    exact = np.clip(probabilities.astype(np.float64), epsilon, 1 - epsilon)
    own = exact[np.arange(len(labels)), labels] / exact.sum(axis=1)
    return {
        "accuracy": float(np.mean(predicted == labels)),
        "f1_macro": float(np.mean(2 * hits / total)),
        "log_loss": float(-np.mean(np.log(own))),
    }


def regression(predicted: npt.NDArray[np.floating], targets: npt.NDArray[np.floating]) -> dict[str, float]:
    """mae, mse, rmse and r2 of `predicted` [rows] against `targets` [rows], as scikit-learn defines them: where all
    targets are equal, r2 is 1 for exact predictions, else 0. Raises ValueError without rows."""
    if not len(targets):
        raise ValueError("no rows to evaluate")
    wanted = targets.astype(np.float64)
    errors = predicted.astype(np.float64) - wanted
    mse = float(np.mean(np.square(errors)))
    variance = float(np.var(wanted))
    return {
        "mae": float(np.mean(np.abs(errors))),
        "mse": mse,
        "rmse": math.sqrt(mse),
        "r2": 1 - mse / variance if variance else float(mse == 0),
    }


def anomalies(scores: npt.NDArray[np.floating]) -> dict[str, float]:
    """reconstruction_error: the mean of the anomaly scores [rows]. Raises ValueError without rows."""
    if not len(scores):
        raise ValueError("no rows to evaluate")
    return {"reconstruction_error": float(np.mean(scores.astype(np.float64)))}


def language(loss: float, hits: int, tokens: int) -> dict[str, float]:
    """accuracy, log_loss and perplexity of `tokens` predicted tokens, of which `hits` were right, and over which the
    natural logarithms of what the right ones were given add up to −`loss`. Raises ValueError without tokens."""
    if not tokens:
        raise ValueError("no tokens to evaluate: each row has one token, or none")
    mean = loss / tokens
    return {"accuracy": hits / tokens, "log_loss": mean, "perplexity": math.exp(min(mean, 700.0))}
