"""The recipe pca: principal components, and what they do not give back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from modelwright.api.recipes import PcaHyperparameters
from modelwright.artifact import CODE, Tensor

from modelwright_trainer.data import Table
from modelwright_trainer.failures import UserFailed
from modelwright_trainer.learner import Fitted, Reference, Tell
from modelwright_trainer.onnxgraph import Graph, Weights
from modelwright_trainer.preprocessing import moments, scales, standardized
from modelwright_trainer.recipes.common import OfTask, numbers
from modelwright_trainer.split import Rows
from modelwright_trainer.tasks import AnomalyDetection


class Pca(OfTask, Fitted):
    name = "pca"

    def __init__(self, recipe: PcaHyperparameters, table: Table, train: Rows) -> None:
        """Raises UserFailed where there are no so many components."""
        most = min(len(table.names), len(train))
        if recipe.components > most:
            raise UserFailed(
                f"spec.trainer.hyperparameters.components: {recipe.components} is more than there can be of"
                f" {len(table.names)} columns and {len(train)} training rows: write {most} or less"
            )
        self._moments = moments(table.features, train)
        super().__init__(recipe, AnomalyDetection(table.names, self._moments), numbers(table))
        self.outputs = (
            *self.outputs, Tensor(name=CODE, dtype="float32", shape=(None, recipe.components))
        )  # fmt: skip
        self._recipe = recipe

    def fit(self, table: Table, train: Rows, tell: Tell) -> Weights:
        from sklearn.decomposition import PCA

        mean, scale = scales(self._moments)
        found = PCA(self._recipe.components, random_state=self._recipe.seed)
        found.fit((table.features[train] - mean) / scale)
        tell(1, 1)
        # Rows are the directions, of length 1; the mean of what is standardized is 0 but for rounding.
        return {
            "components": found.components_.astype(np.float32),
            "standardize.mean": mean, "standardize.scale": scale, "head.mean": mean, "head.scale": scale,
        }  # fmt: skip

    def reference(self, weights: Weights) -> Reference:
        components = weights["components"].astype(np.float64)
        mean, scale = scales(self._moments)

        def given(features: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
            code = ((features.astype(np.float64) - mean) / scale) @ components.T
            found: npt.NDArray[np.floating] = code @ components * scale + mean
            return found

        return given

    def nodes(self, graph: Graph) -> None:
        graph.node("Gemm", [standardized(graph, graph.input), "components"], CODE, transB=1)
        graph.node("MatMul", [CODE, "components"], self.task.raw)
