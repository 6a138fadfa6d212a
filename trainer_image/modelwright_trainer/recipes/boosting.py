"""The recipe gradient-boosting: trees by scikit-learn, and the same trees as a node of the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from modelwright.api.recipes import GradientBoostingHyperparameters

from modelwright_trainer.data import Table
from modelwright_trainer.failures import DataFailed
from modelwright_trainer.learner import Fitted, Reference, Tell
from modelwright_trainer.onnxgraph import TREES, Graph, Weights
from modelwright_trainer.preprocessing import Moments, scales
from modelwright_trainer.recipes.common import OfTask, numbers
from modelwright_trainer.split import Rows
from modelwright_trainer.tasks import Classification, Regression

# Between two looks at whether to stop.
_LOOKS = 10


class GradientBoosting(OfTask, Fitted):
    name = "gradient-boosting"

    def __init__(
        self,
        recipe: GradientBoostingHyperparameters,
        task: Classification | Regression,
        table: Table,
        moments: Moments | None,
    ) -> None:
        """`moments` are the target's, of a regression."""
        super().__init__(recipe, task, numbers(table))
        self._recipe, self._moments, self._classes = recipe, moments, table.classes
        self._model: Any = None

    def fit(self, table: Table, train: Rows, tell: Tell) -> Weights:
        recipe = self._recipe
        features, targets = table.features[train], table.targets[train]
        weights: dict[str, npt.NDArray[np.float32]] = {}
        if self._moments is not None:
            weights["head.mean"], weights["head.scale"] = scales(self._moments)
            targets = (targets - weights["head.mean"]) / weights["head.scale"]
        else:
            self._all_occur(targets)
        model = self._made()
        for trees in np.unique(np.linspace(1, recipe.trees, _LOOKS + 1).astype(int)):
            model.set_params(max_iter=int(trees)).fit(features, targets)
            tell(int(trees), recipe.trees)
        self._model = model
        return {**weights, "base": self._base()}

    def reference(self, weights: Weights) -> Reference:
        def given(features: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
            if self._moments is not None:
                return self._model.predict(features)[:, None] * weights["head.scale"] + weights["head.mean"]
            raw = self._model.decision_function(features)
            return np.stack([np.zeros(len(raw)), raw], axis=1) if raw.ndim == 1 else raw

        return given

    def nodes(self, graph: Graph) -> None:
        trees = _ensemble(self._model._predictors, first=self.task.width - self._outputs)
        graph.node("TreeEnsembleRegressor", [graph.input], "trees", domain=TREES, n_targets=self.task.width, **trees)
        graph.node("Add", ["trees", "base"], self.task.raw)

    def _made(self) -> Any:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        recipe = self._recipe
        given = {
            "learning_rate": recipe.learning_rate, "max_leaf_nodes": recipe.leaves,
            "min_samples_leaf": recipe.min_leaf_rows, "l2_regularization": recipe.regularization,
            "early_stopping": False, "warm_start": True, "random_state": recipe.seed,
        }  # fmt: skip
        if self._moments is not None:
            return HistGradientBoostingRegressor(**given)
        balanced = "balanced" if recipe.class_weights == "Balanced" else None
        return HistGradientBoostingClassifier(class_weight=balanced, **given)

    def _all_occur(self, targets: npt.NDArray[np.int64]) -> None:
        missing = np.setdiff1d(np.arange(len(self._classes)), targets)
        if len(missing):
            raise DataFailed(
                f"class {self._classes[missing[0]]} has no training row: give more rows of it, or leave it out"
            )

    @property
    def _outputs(self) -> int:
        """What the trees give for a row: of two classes the second's logit alone, the first's being 0."""
        return 1 if self.task.width == 2 else self.task.width

    def _base(self) -> npt.NDArray[np.float32]:
        """What the first tree corrects."""
        base = np.zeros(self.task.width, dtype=np.float32)
        base[self.task.width - self._outputs :] = np.ravel(self._model._baseline_prediction)
        return base


def _ensemble(rounds: list[list[Any]], *, first: int) -> dict[str, Any]:
    """scikit-learn's trees as attributes of ai.onnx.ml's TreeEnsembleRegressor; those of a round are of the targets
    from `first` on. A row goes left where its value is at most the threshold: that is between two float32s, and is
    rounded down so that float32s are still on the same side."""
    nodes: dict[str, list[Any]] = {name: [] for name in (
        "treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids",
        "missing_value_tracks_true",
    )}  # fmt: skip
    targets: dict[str, list[Any]] = {name: [] for name in ("treeids", "nodeids", "ids", "weights")}
    trees = [(first + target, one.nodes) for each in rounds for target, one in enumerate(each)]
    for tree, (target, found) in enumerate(trees):
        leaf = found["is_leaf"].astype(bool)
        limits = found["num_threshold"].astype(np.float32)
        limits = np.where(limits > found["num_threshold"], np.nextafter(limits, np.float32(-np.inf)), limits)
        numbers = range(len(found))
        nodes["treeids"] += [tree] * len(found)
        nodes["nodeids"] += numbers
        nodes["featureids"] += np.where(leaf, 0, found["feature_idx"]).tolist()
        nodes["values"] += np.where(leaf, 0, limits).astype(np.float32).tolist()
        nodes["modes"] += np.where(leaf, "LEAF", "BRANCH_LEQ").tolist()
        nodes["truenodeids"] += np.where(leaf, 0, found["left"]).tolist()
        nodes["falsenodeids"] += np.where(leaf, 0, found["right"]).tolist()
        nodes["missing_value_tracks_true"] += np.where(leaf, 0, found["missing_go_to_left"]).tolist()
        leaves = np.flatnonzero(leaf)
        targets["treeids"] += [tree] * len(leaves)
        targets["nodeids"] += leaves.tolist()
        targets["ids"] += [target] * len(leaves)
        targets["weights"] += found["value"][leaves].astype(np.float32).tolist()
    return {
        **{f"nodes_{name}": list(value) for name, value in nodes.items()},
        **{f"target_{name}": value for name, value in targets.items()},
        "aggregate_function": "SUM",
    }
