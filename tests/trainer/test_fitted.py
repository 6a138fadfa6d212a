"""The recipes that are fitted at once, by scikit-learn: how good they get, and that the file gives what they give."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modelwright.contract import Outcome, StoreAccess
from modelwright.store import Store
from modelwright_trainer import export, recipes
from modelwright_trainer.data import Table
from modelwright_trainer.failures import DataFailed, Preempted, UserFailed
from modelwright_trainer.learner import Fitted
from modelwright_trainer.onnxgraph import Session
from sklearn.cluster import DBSCAN
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, silhouette_score

from tests.trainer.pods import job, train
from tests.trainer.tables import classified, exported, learner, parts, real
from tests.trainer.test_tasks import stored


def no_look(_step: int, _steps: int) -> None:
    pass


def bare(name: str) -> Table:
    return dataclasses.replace(real(name), targets=None, classes=())


def fitted(
    table: Table, folder: Path, recipe: str, task: str, tell: Callable[[int, int], None] = no_look, **given: str
) -> tuple[Fitted, Session, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The recipe, fitted, its file, which is checked against it, and the rows that it was fitted to, and the others."""
    own, test = parts(table)
    one: Any = learner(table, recipe, task, train=own, **given)
    weights = one.fit(table, own, tell)
    session = exported(one, weights, folder)
    export.agree(one, weights, session, table, np.arange(table.rows))
    return one, session, own, test


@pytest.mark.parametrize(
    ("table", "given", "gate"),
    [
        (real("breast_cancer"), {}, 0.94),
        (real("digits"), {"trees": "60", "leaves": "15"}, 0.95),
        (real("wine"), {"minLeafRows": "5", "classWeights": "Balanced"}, 0.9),
        (classified(), {"minLeafRows": "2"}, 0.7),
    ],
    ids=["two classes", "ten classes", "balanced", "a constant column"],
)
def test_boosted_trees_tell_classes_apart(table: Table, given: dict[str, str], gate: float, tmp_path: Path) -> None:
    one, session, _, test = fitted(table, tmp_path, "gradient-boosting", "Classification", **given)
    figures = one.measured(session, table, test).figures
    print(f"gradient-boosting: accuracy {figures['accuracy']:.3f}, auroc {figures['auroc']:.3f}")
    assert figures["accuracy"] >= gate


def test_boosted_trees_predict_a_number_in_its_own_unit(tmp_path: Path) -> None:
    table = real("diabetes")
    given = {"trees": "40", "leaves": "6", "learningRate": "0.05"}
    one, session, _, test = fitted(table, tmp_path, "gradient-boosting", "Regression", **given)
    figures = one.measured(session, table, test).figures
    print(f"gradient-boosting: r2 {figures['r2']:.3f}, rmse {figures['rmse']:.1f}")
    assert figures["r2"] >= 0.35


def test_a_row_at_a_threshold_goes_where_scikit_learn_sends_it(tmp_path: Path) -> None:
    """Of neighbouring float32s the middle is the threshold: no float32, and it must not be rounded up to one."""
    values = np.float32(1) + np.arange(60, dtype=np.float32) * np.float32(2**-23)
    targets = (np.arange(60) % 7 < 3).astype(np.int64)
    table = Table(values[:, None], targets, ("x",), ("float",), ("a", "b"), "sha256:" + "0" * 64)
    one: Any = learner(table, "gradient-boosting", minLeafRows="1", leaves="60", trees="20")
    weights = one.fit(table, np.arange(60), no_look)
    session = exported(one, weights, tmp_path)
    np.testing.assert_allclose(
        session.run(table.features)["logits"], one.reference(weights)(table.features), rtol=1e-5, atol=1e-6
    )


def test_centers_are_found_and_a_row_is_of_the_nearest(tmp_path: Path) -> None:
    labelled = real("wine")
    table = bare("wine")
    one, session, _, test = fitted(table, tmp_path, "kmeans", "Clustering", clusters="3")
    outputs = session.run(table.features)
    assert (outputs["cluster"] == outputs["distances"].argmin(axis=1)).all()
    assert adjusted_rand_score(labelled.targets, outputs["cluster"]) >= 0.8
    measured = one.measured(session, table, test)
    standard = one._standard(table.features[test])  # type: ignore[attr-defined]
    expected = silhouette_score(standard, outputs["cluster"][test])
    assert measured.figures["silhouette"] == pytest.approx(expected)
    assert sum(measured.details["clusters"]) == len(test)
    assert measured.interval("silhouette") is not None


def rings(rows: int = 400) -> Table:
    """Two rings, one in the other, which no centers tell apart, and a few rows far from both. The targets say which."""
    generator = np.random.default_rng(0)
    angles = generator.uniform(0, 2 * np.pi, rows)
    inner = np.arange(rows) % 2
    radius = np.where(inner, 1.0, 4.0) + generator.normal(scale=0.05, size=rows)
    features = np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1) * [1, 100]
    far = np.array([[9.0, 900.0], [-9.0, 900.0], [9.0, -900.0]])
    labels = np.concatenate([inner, np.full(3, 2)])
    whole = np.concatenate([features, far]).astype(np.float32)
    return Table(whole, labels, ("x", "y"), ("float",) * 2, (), "sha256:" + "0" * 64)


def test_clusters_of_any_form_are_found_and_what_is_near_none_is_of_none(tmp_path: Path) -> None:
    labelled = rings()
    table = dataclasses.replace(labelled, targets=None)
    one, session, own, _ = fitted(table, tmp_path, "dbscan", "Clustering", eps="0.5", minRows="4")
    outputs = session.run(table.features)
    assert labelled.targets is not None
    close = labelled.targets < 2
    assert (outputs["cluster"][~close] == -1).all()
    assert (outputs["distance"][~close] > 0.5).all()
    assert adjusted_rand_score(labelled.targets[close], outputs["cluster"][close]) == 1
    mean, deviation = table.features[own].mean(axis=0), table.features[own].std(axis=0)
    reference = DBSCAN(eps=0.5, min_samples=4).fit((table.features[own] - mean) / deviation)
    cores = reference.core_sample_indices_
    assert (outputs["cluster"][own][cores] == reference.labels_[cores]).all()
    assert (outputs["cluster"][own][reference.labels_ == -1] == -1).all()
    details = one.measured(session, table, own).details
    assert sum(details["clusters"]) + details["noise"] == len(own)
    assert details["noise"] == (reference.labels_ == -1).sum()
    assert one.measured(session, table, own).interval("silhouette") is not None


def test_far_from_zero_the_distance_is_still_of_the_row_and_not_of_the_rounding(tmp_path: Path) -> None:
    """Rows that lie together far out, as seen from the middle: lengths of thousands, distances of hundredths."""
    generator = np.random.default_rng(0)
    rows = np.concatenate([np.zeros((300, 2)), 1e4 + generator.normal(scale=1e-2, size=(10, 2))]).astype(np.float32)
    table = Table(rows, None, ("x", "y"), ("float",) * 2, (), "sha256:" + "0" * 64)
    one: Any = learner(table, "dbscan", "Clustering", eps="0.001", minRows="3")
    weights = one.fit(table, np.arange(len(rows)), no_look)
    session = exported(one, weights, tmp_path)
    given = session.run(rows)
    np.testing.assert_allclose(given["distance"], one.reference(weights)(rows), atol=1e-5)
    assert len(np.unique(given["cluster"])) == 2


def test_components_are_scikit_learn_s_and_what_they_do_not_give_back_is_the_score(tmp_path: Path) -> None:
    table = bare("breast_cancer")
    one, session, own, _ = fitted(table, tmp_path, "pca", "AnomalyDetection", components="4")
    outputs = session.run(table.features)
    deviation = table.features[own].std(axis=0)
    standard = (table.features - table.features[own].mean(axis=0)) / deviation
    reference = PCA(4).fit(standard[own])
    np.testing.assert_allclose(np.abs(outputs["code"]), np.abs(reference.transform(standard)), rtol=1e-2, atol=1e-2)
    given_back = reference.inverse_transform(reference.transform(standard))
    np.testing.assert_allclose(outputs["anomaly_score"], np.square(standard - given_back).mean(axis=1), rtol=1e-2)
    explained = one.measured(session, table, own).figures["explained_variance"]
    assert explained == pytest.approx(reference.explained_variance_ratio_.sum(), abs=1e-3)


@pytest.mark.parametrize(
    ("recipe", "task", "table", "given"),
    [
        ("gradient-boosting", "Classification", real("wine"), {"trees": "20"}),
        ("kmeans", "Clustering", bare("wine"), {}),
        ("dbscan", "Clustering", bare("wine"), {"eps": "2.3"}),
        ("pca", "AnomalyDetection", bare("wine"), {"components": "3"}),
    ],
)
def test_the_same_seed_gives_the_same_and_a_stop_is_heard(
    recipe: str, task: str, table: Table, given: dict[str, str], tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        fitted(table, tmp_path / name, recipe, task, lambda step, steps: seen.append((step, steps)), **given)
    files = ("model.onnx", "model.safetensors")
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)
    assert seen[-1][0] == seen[-1][1]

    def stop(step: int, _steps: int) -> None:
        raise Preempted(step, None)

    with pytest.raises(Preempted):
        fitted(table, tmp_path, recipe, task, stop, **given)


def test_what_cannot_be_fitted_is_told_with_the_remedy(tmp_path: Path) -> None:
    table = real("wine")
    with pytest.raises(UserFailed, match=r"components: 14 is more than there can be of 13 columns and 178 .* write 13"):
        learner(bare("wine"), "pca", "AnomalyDetection", components="14")
    with pytest.raises(DataFailed, match=r"clusters: 179 are more than the 178 training rows: write less"):
        learner(bare("wine"), "kmeans", "Clustering", clusters="179")
    few: Any = learner(bare("wine"), "dbscan", "Clustering", eps="0.01")
    with pytest.raises(DataFailed, match=r"eps: of 178 training rows none has 5 rows within 0.01, .* raise eps"):
        few.fit(bare("wine"), np.arange(178), no_look)
    assert table.targets is not None
    own = np.flatnonzero(table.targets != 1)
    one: Any = learner(table, "gradient-boosting", train=own)
    with pytest.raises(DataFailed, match=f"class {table.classes[1]} has no training row"):
        one.fit(table, own, no_look)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("recipe", "task", "target", "given", "metric"),
    [
        ("gradient-boosting", "Classification", True, {"trees": "20", "minLeafRows": "5"}, "accuracy"),
        ("kmeans", "Clustering", False, {"clusters": "3"}, "silhouette"),
        ("dbscan", "Clustering", False, {"eps": "2.3"}, "silhouette"),
        ("pca", "AnomalyDetection", False, {"components": "3"}, "explained_variance"),
    ],
)
def test_each_is_published_from_a_pod(
    recipe: str, task: str, target: bool, given: dict[str, str], metric: str, access: StoreAccess, store: Store,
    tmp_path: Path,
) -> None:  # fmt: skip
    from modelwright import versions

    data = {"uri": stored(store, real("wine"), recipe, target=target), "task": task}
    run = job(
        access, recipe, processes=1, data={**data, **({"target": "y"} if target else {})},
        trainer={"recipe": recipe, "hyperparameters": given},
    )  # fmt: skip
    summary, pod = train(run, tmp_path / "pod")
    assert summary.artifact, pod.log()
    assert metric in summary.metrics
    manifest = versions.fetch(store, summary.artifact.uri, summary.artifact.digest, tmp_path / "version")
    assert (manifest.task, manifest.rebuild, manifest.lineage.epochs) == (task, None, 1)


@pytest.mark.usefixtures("keys")
def test_two_processes_cannot_fit_one(access: StoreAccess, store: Store, tmp_path: Path) -> None:
    data = {"uri": stored(store, bare("wine"), "two", target=False), "task": "Clustering"}
    run = job(access, "two", processes=2, data=data, trainer={"recipe": "kmeans"})
    summary, _ = train(run, tmp_path / "pod")
    assert summary.exit_code == Outcome.USER_ERROR.code
    assert summary.failure is not None
    assert "spec.workers: kmeans is fitted at once, by one process: write replicas: 1" in summary.failure.message


def test_every_recipe_is_there() -> None:
    from modelwright.api.recipes import RECIPES

    assert {*recipes._UNSUPERVISED, *recipes._PREDICTORS, "gradient-boosting", "transformer"} == set(RECIPES)
