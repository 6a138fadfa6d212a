"""The recipe dbscan: groups of rows that lie close together, of any form, and rows that are of none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from modelwright.api.recipes import DbscanHyperparameters
from modelwright.artifact import CLUSTER, DISTANCE, Tensor
from onnx import TensorProto

from modelwright_trainer.data import Table
from modelwright_trainer.failures import DataFailed
from modelwright_trainer.learner import Reference, Tell
from modelwright_trainer.onnxgraph import Graph, Weights
from modelwright_trainer.preprocessing import moments, scales, standardized
from modelwright_trainer.recipes.clusters import AT_ONCE, Clusterer
from modelwright_trainer.recipes.common import numbers
from modelwright_trainer.split import Rows

_MOST_CORES = 100_000
_PATH = "trainer.hyperparameters"


class Dbscan(Clusterer):
    """A row is of the cluster of the nearest core sample, where that is within `eps`, else of none: -1. That is what
    DBSCAN says of core samples and of noise; of a border row within `eps` of two clusters DBSCAN takes the one that it
    came upon first."""

    compared = DISTANCE

    def __init__(self, recipe: DbscanHyperparameters, table: Table, train: Rows) -> None:
        self.hyperparameters = self._recipe = recipe
        self.inputs = (numbers(table),)
        self.outputs = (
            Tensor(name=CLUSTER, dtype="int64", shape=(None,)),
            Tensor(name=DISTANCE, dtype="float32", shape=(None,)),
        )
        self._moments = moments(table.features, train)

    def fit(self, table: Table, train: Rows, tell: Tell) -> Weights:
        from sklearn.cluster import DBSCAN

        recipe = self._recipe
        mean, scale = scales(self._moments)
        rows = (table.features[train] - mean) / scale
        found = DBSCAN(eps=recipe.eps, min_samples=recipe.min_rows).fit(rows)
        tell(1, 1)
        cores = found.core_sample_indices_
        if not len(cores):
            raise DataFailed(
                f"{_PATH}.eps: of {len(train)} training rows none has {recipe.min_rows} rows within {recipe.eps:g},"
                " itself counted: there is no cluster; raise eps, or lower minRows"
            )
        if len(cores) > _MOST_CORES:
            raise DataFailed(
                f"{_PATH}.eps: {len(cores)} training rows are core samples, and each is a part of the model:"
                f" {_MOST_CORES} are the most; give fewer rows, or take kmeans"
            )
        self.evaluation_rows = max(1, AT_ONCE // len(cores))
        return {
            "cores": rows[cores].astype(np.float32),
            "clusters": found.labels_[cores].astype(np.float32),
            "standardize.mean": mean, "standardize.scale": scale,
        }  # fmt: skip

    def reference(self, weights: Weights) -> Reference:
        from sklearn.neighbors import NearestNeighbors

        nearest = NearestNeighbors(n_neighbors=1).fit(weights["cores"].astype(np.float64))

        def given(features: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
            found: npt.NDArray[np.floating] = nearest.kneighbors(self._standard(features))[0][:, 0]
            return found

        return given

    def write(self, weights: Weights, folder: Path) -> None:
        """The nearest core is the one with the largest x·c − |c|²/2. These are large numbers that differ by little, and
        float32 would tell of their rounding: so they are float64, and how far it is is computed of the row itself."""
        graph = Graph("dbscan", weights, folder)
        rows = standardized(graph, graph.input)
        columns = graph.constant("columns", np.array([1], np.int64))
        exact, cores = (graph.node("Cast", [one], f"{one}.exact", to=TensorProto.DOUBLE) for one in (rows, "cores"))
        squares = graph.node(
            "ReduceSum", [graph.node("Mul", [cores, cores], "squares"), columns], "lengths", keepdims=0
        )
        halves = graph.node("Mul", [squares, graph.constant("half", np.array(0.5))], "halves")
        turned = graph.node("Transpose", [cores], "cores.turned", perm=[1, 0])
        nearness = graph.node("Sub", [graph.node("MatMul", [exact, turned], "products"), halves], "nearness")
        nearest = graph.node("ArgMax", [nearness], "nearest", axis=1, keepdims=0)
        apart = graph.node("Sub", [rows, graph.node("Gather", ["cores", nearest], "core", axis=0)], "apart")
        graph.node("ReduceL2", [apart, columns], DISTANCE, keepdims=0)
        near = graph.node(
            "LessOrEqual", [DISTANCE, graph.constant("eps", np.array(self._recipe.eps, np.float32))], "near"
        )
        of = graph.node("Gather", ["clusters", nearest], "of", axis=0)
        chosen = graph.node("Where", [near, of, graph.constant("none", np.array(-1, np.float32))], "chosen")
        graph.node("Cast", [chosen], CLUSTER, to=TensorProto.INT64)
        graph.write(self.inputs, self.outputs)
