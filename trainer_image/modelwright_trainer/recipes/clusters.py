"""What recipes share that put rows in groups: distances are of standardized columns, and what counts is the group."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from modelwright.artifact import CLUSTER

from modelwright_trainer import metrics
from modelwright_trainer.data import Table
from modelwright_trainer.learner import Fitted
from modelwright_trainer.metrics import Measured
from modelwright_trainer.onnxgraph import Session
from modelwright_trainer.preprocessing import Moments, scales
from modelwright_trainer.split import Rows

AT_ONCE = 2**23
"""Numbers that are computed at once."""


class Clusterer(Fitted):
    """`_moments` are of the columns over the training rows."""

    _moments: Moments

    def measured(self, session: Session, table: Table, rows: Rows) -> Measured:
        clusters = np.concatenate(
            [session.run(table.features[piece], only=[CLUSTER])[CLUSTER] for piece in self.pieces(rows)]
        )
        return metrics.clusters(lambda chosen: self._standard(table.features[rows[chosen]]), clusters)

    def _standard(self, features: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        mean, scale = scales(self._moments)
        return (features.astype(np.float64) - mean) / scale
