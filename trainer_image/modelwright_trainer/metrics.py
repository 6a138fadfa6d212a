"""Metrics of a classification, from the probabilities that the model gives."""

from __future__ import annotations

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
