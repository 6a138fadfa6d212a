"""How unlike the training data what is asked has become: of the last rows, against the version's published baseline.

The population stability index of a feature is the sum over bins of (q - p) ln(q / p), where p is the fraction of
training rows in a bin and q that of the rows in the window (Siddiqi, Credit Risk Scorecards, 2006: below 0.1 is no
change, above 0.2 a significant one). The bins are the baseline's, which are deciles; the outermost take what lies
beyond. A fraction below EPSILON counts as EPSILON, so that an empty bin is no infinity. Of n rows that did not drift
the index is about 9 / n by chance alone, which 500 keep far below what matters.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from modelwright.artifact import Manifest

from modelwright_server.records import PROBABILITIES, columns_of
from modelwright_server.tensors import Array

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]
EPSILON = 1e-4
LEAST_ROWS = 500
WINDOW_ROWS = 1000
"""The most recent rows that are looked at."""
MOST_FEATURES = 256
"""More are not followed: each is three series of Prometheus."""
_LOGITS, _PREDICTION = "logits", "prediction"


@dataclasses.dataclass(frozen=True)
class Bins:
    """`edges` are ascending; between two of them lies a fraction of the training rows. One edge alone is the only value
    that there was."""

    edges: Floats
    fractions: Floats

    @classmethod
    def of(cls, stated: Mapping[str, Any]) -> Bins:
        """Of a column of a baseline. Raises ValueError, KeyError, TypeError where it is none."""
        edges, fractions = (np.asarray(stated[name], np.float64) for name in ("edges", "fractions"))
        if len(edges) == 0 or len(fractions) != max(1, len(edges) - 1):
            raise ValueError(f"{len(edges)} edges do not bound {len(fractions)} bins")
        return cls(edges, fractions)

    def psi(self, values: Floats) -> float:
        """Of values without NaN, of which there is at least one."""
        if len(self.edges) == 1:
            same = float((values == self.edges[0]).mean())
            return psi(np.array([1.0, 0.0]), np.array([same, 1 - same]))
        bins = np.searchsorted(self.edges, values, side="right") - 1
        counts = np.bincount(np.clip(bins, 0, len(self.fractions) - 1), minlength=len(self.fractions))
        return psi(self.fractions, counts / len(values))

    def outside(self, values: Floats) -> float:
        """The share of values that are beyond all of training's."""
        return float(((values < self.edges[0]) | (values > self.edges[-1])).mean())


def psi(expected: Floats, found: Floats) -> float:
    p, q = np.maximum(expected, EPSILON), np.maximum(found, EPSILON)
    return float(np.sum((q - p) * np.log(q / p)))


@dataclasses.dataclass(frozen=True)
class Baseline:
    """What is followed: bins by feature, of the columns `columns` of the input `tensor`; and of the output, its
    classes' shares or its bins."""

    tensor: str
    columns: Sequence[int]
    features: Mapping[str, Bins]
    classes: Floats | None
    target: Bins | None


def read(folder: Path, manifest: Manifest) -> Baseline | None:
    """The baseline of a fetched version; None where it has none that can be followed, which is no reason not to
    serve."""
    named = {one.name: columns_of(one) for one in manifest.inputs if columns_of(one)}
    if not manifest.baseline or len(named) != 1:
        return None
    ((tensor, names),) = named.items()
    try:
        stated = json.loads((folder / manifest.baseline).read_text())
        features = {name: Bins.of(one) for name, one in list(stated["features"].items())[:MOST_FEATURES]}
        columns = [names.index(name) for name in features]
        shares = [stated.get("classes", {})[name] for name in manifest.classes]
        target = Bins.of(stated["target"]) if stated.get("target") else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is not followed for drift: %s %s", manifest.baseline, type(error).__name__, error)
        return None
    return Baseline(tensor, columns, features, np.asarray(shares, np.float64) if shares else None, target)


@dataclasses.dataclass(frozen=True)
class Figures:
    """Of a window of `rows` rows: by feature the index, and the shares of missing values and of values beyond all of
    training's; and the index of the predictions. Empty, and None, where there are fewer rows than LEAST_ROWS."""

    rows: int
    psi: Mapping[str, float] = dataclasses.field(default_factory=dict)
    missing: Mapping[str, float] = dataclasses.field(default_factory=dict)
    outside: Mapping[str, float] = dataclasses.field(default_factory=dict)
    prediction: float | None = None


class Window:
    """The last rows that were asked, and what was answered. Told of from several threads."""

    def __init__(self, baseline: Baseline) -> None:
        self._baseline = baseline
        self._lock = threading.Lock()
        self._rows = np.empty((WINDOW_ROWS, len(baseline.columns)), np.float32)
        self._answers = np.full(WINDOW_ROWS, np.nan, np.float32)
        self._columns = np.asarray(baseline.columns, np.intp)
        self._seen = 0

    def saw(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Rows that were asked together, and the outputs that there are of them."""
        given = inputs[self._baseline.tensor][-WINDOW_ROWS:]
        answers = self._answered(outputs, len(given))
        with self._lock:
            begin = self._seen % WINDOW_ROWS
            first = min(len(given), WINDOW_ROWS - begin)
            for part, at in ((slice(0, first), begin), (slice(first, len(given)), 0)):
                rows = given[part]
                self._rows[at : at + len(rows)] = rows[:, self._columns]
                self._answers[at : at + len(rows)] = np.nan if answers is None else answers[part]
            self._seen += len(given)

    def _answered(self, outputs: Mapping[str, Array], rows: int) -> Array | None:
        if self._baseline.classes is not None:
            found = outputs.get(PROBABILITIES, outputs.get(_LOGITS))
            told = found is not None and found.ndim == 2 and found.shape[1] == len(self._baseline.classes)
            return found[-rows:].argmax(axis=1) if found is not None and told and rows else None
        found = outputs.get(_PREDICTION)
        return found[-rows:].reshape(rows, -1)[:, 0] if found is not None and found.ndim and rows else None

    def figures(self) -> Figures:
        with self._lock:
            count = min(self._seen, WINDOW_ROWS)
            if count < LEAST_ROWS:
                return Figures(count)
            rows, answers = self._rows[:count].astype(np.float64), self._answers[:count].astype(np.float64)
        index: dict[str, float] = {}
        missing: dict[str, float] = {}
        outside: dict[str, float] = {}
        for column, (name, bins) in enumerate(self._baseline.features.items()):
            values = rows[:, column]
            there = values[~np.isnan(values)]
            missing[name] = 1 - len(there) / count
            if len(there):
                index[name], outside[name] = bins.psi(there), bins.outside(there)
        return Figures(count, index, missing, outside, self._prediction(answers[~np.isnan(answers)]))

    def _prediction(self, answers: Floats) -> float | None:
        baseline = self._baseline
        if len(answers) < LEAST_ROWS:
            return None
        if baseline.classes is not None:
            counts = np.bincount(answers.astype(np.intp), minlength=len(baseline.classes))
            return psi(baseline.classes, counts / len(answers))
        return baseline.target.psi(answers) if baseline.target else None
