"""The recipe kmeans: rows in groups around centers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from modelwright.api.recipes import KmeansHyperparameters
from modelwright.artifact import CLUSTER, DISTANCES, Tensor

from modelwright_trainer.data import Table
from modelwright_trainer.failures import DataFailed
from modelwright_trainer.learner import Reference, Tell
from modelwright_trainer.onnxgraph import Graph, Weights
from modelwright_trainer.preprocessing import moments, scales, standardized
from modelwright_trainer.recipes.clusters import AT_ONCE, Clusterer
from modelwright_trainer.recipes.common import numbers
from modelwright_trainer.split import Rows


class Kmeans(Clusterer):
    compared = DISTANCES

    def __init__(self, recipe: KmeansHyperparameters, table: Table, train: Rows) -> None:
        """Raises DataFailed where there are fewer rows than clusters."""
        if len(train) < recipe.clusters:
            raise DataFailed(
                f"trainer.hyperparameters.clusters: {recipe.clusters} are more than the {len(train)} training rows:"
                " write less, or give more rows"
            )
        self.hyperparameters = self._recipe = recipe
        self.inputs = (numbers(table),)
        self.outputs = (
            Tensor(name=CLUSTER, dtype="int64", shape=(None,)),
            Tensor(name=DISTANCES, dtype="float32", shape=(None, recipe.clusters)),
        )
        self.evaluation_rows = max(1, AT_ONCE // (recipe.clusters * len(table.names)))
        self._moments = moments(table.features, train)

    def fit(self, table: Table, train: Rows, tell: Tell) -> Weights:
        from sklearn.cluster import KMeans

        recipe = self._recipe
        mean, scale = scales(self._moments)
        rows = (table.features[train] - mean) / scale
        best: Any = None
        for number in range(recipe.restarts):
            drawn = np.random.SeedSequence([recipe.seed, number]).generate_state(1)[0]
            found = KMeans(recipe.clusters, n_init=1, max_iter=recipe.iterations, random_state=int(drawn)).fit(rows)
            if best is None or found.inertia_ < best.inertia_:
                best = found
            tell(number + 1, recipe.restarts)
        centers = best.cluster_centers_.astype(np.float32)
        return {"centers": centers, "standardize.mean": mean, "standardize.scale": scale}

    def reference(self, weights: Weights) -> Reference:
        centers = weights["centers"].astype(np.float64)

        def given(features: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
            found: npt.NDArray[np.floating] = np.linalg.norm(self._standard(features)[:, None] - centers, axis=2)
            return found

        return given

    def write(self, weights: Weights, folder: Path) -> None:
        graph = Graph("kmeans", weights, folder)
        row = graph.reshape(standardized(graph, graph.input), [-1, 1, len(self.inputs[0].names)], "row")
        apart = graph.node("Sub", [row, "centers"], "apart")
        graph.node("ReduceL2", [apart, graph.constant("columns", np.array([2], np.int64))], DISTANCES, keepdims=0)
        graph.node("ArgMin", [DISTANCES], CLUSTER, axis=1, keepdims=0)
        graph.write(self.inputs, self.outputs)
