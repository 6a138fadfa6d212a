"""The metrics against scikit-learn's, by hand where it has none, and how sure they are."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given
from hypothesis import strategies as st
from modelwright.api.evaluation import MEASURED
from modelwright.contract import Gate, Outcome
from modelwright_trainer import export, metrics
from modelwright_trainer.failures import TrainingFailed


def drawn(classes: int, rows: int, seed: int) -> tuple[metrics.Figures, metrics.Labels]:
    """Probabilities, some of which are equal, and labels that they tell something of."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    probabilities = generator.dirichlet(np.full(classes, 0.5), rows) + 0.5 * np.eye(classes)[labels]
    probabilities = np.round(probabilities / probabilities.sum(axis=1, keepdims=True), 2) + 0.01
    return probabilities / probabilities.sum(axis=1, keepdims=True), labels


@given(st.integers(2, 6), st.integers(1, 80), st.integers(0, 1000))
def test_metrics_of_a_classification_are_those_of_scikit_learn(classes: int, rows: int, seed: int) -> None:
    probabilities, labels = drawn(classes, rows, seed)
    found = metrics.classification(probabilities, labels).figures
    predicted = probabilities.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(labels, predicted))
    recalls = [float(np.mean(predicted[labels == one] == one)) for one in np.unique(labels)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert found["log_loss"] == pytest.approx(reference.log_loss(labels, probabilities, labels=range(classes)))
    for average in ("macro", "micro"):
        expected = reference.precision_recall_fscore_support(labels, predicted, average=average, zero_division=0)
        for index, name in enumerate(("precision", "recall", "f1")):
            assert found[f"{name}_{average}"] == pytest.approx(expected[index])
    by_class = reference.precision_recall_fscore_support(labels, predicted, average=None, zero_division=0)
    for index, name in enumerate(("precision", "recall", "f1")):
        assert found[f"{name}_min"] == pytest.approx(by_class[index].min())
    counts = np.bincount(labels, minlength=classes)
    told = [one for one in range(classes) if 0 < counts[one] < rows]
    for name, of in (("auroc", reference.roc_auc_score), ("average_precision", reference.average_precision_score)):
        if told:
            each = [of(labels == one, probabilities[:, one]) for one in told]
            assert found[name] == pytest.approx(np.mean(each))
        else:
            assert name not in found


def test_the_area_is_scikit_learn_s_one_against_the_rest() -> None:
    probabilities, labels = drawn(4, 200, 1)
    found = metrics.classification(probabilities, labels).figures["auroc"]
    assert found == pytest.approx(reference.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"))


def test_a_calibration_error_by_hand() -> None:
    """Three rows that say 0.9, of which two are right, and one that says 0.6 and is right."""
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.4, 0.6]])
    found = metrics.classification(probabilities, np.array([0, 1, 1, 1])).figures["calibration_error"]
    assert found == pytest.approx((abs(2 - 3 * 0.9) + abs(1 - 0.6)) / 4)


def test_each_class_and_what_it_is_taken_for_are_told() -> None:
    probabilities = np.eye(3)[[0, 1, 1, 2, 0]]
    labels = np.array([0, 1, 0, 2, 0])
    details = metrics.classification(probabilities, labels, ("a", "b", "c")).details
    assert details["confusion"] == {"classes": ["a", "b", "c"], "counts": [[2, 1, 0], [0, 1, 0], [0, 0, 1]]}
    expected = reference.confusion_matrix(labels, probabilities.argmax(axis=1))
    assert details["confusion"]["counts"] == expected.tolist()
    assert details["classes"]["a"] == pytest.approx({"rows": 3, "precision": 1.0, "recall": 2 / 3, "f1": 0.8})
    many = metrics.classification(np.eye(300), np.arange(300))
    assert "confusion" not in many.details


@given(st.integers(2, 60), st.integers(0, 1000))
def test_metrics_of_a_regression_are_those_of_scikit_learn(rows: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    targets = generator.normal(100, 20, rows)
    predicted = targets + generator.normal(3, 10, rows)
    found = metrics.regression(predicted, targets).figures
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(targets, predicted))
    assert found["mse"] == pytest.approx(reference.mean_squared_error(targets, predicted))
    assert found["rmse"] == pytest.approx(reference.root_mean_squared_error(targets, predicted))
    assert found["r2"] == pytest.approx(reference.r2_score(targets, predicted))
    assert found["explained_variance"] == pytest.approx(reference.explained_variance_score(targets, predicted))


def test_metrics_of_a_language_model_by_hand() -> None:
    found = metrics.language(np.log(8) * np.array([1, 3]), np.array([0, 1]), np.array([1, 3])).figures
    assert found == pytest.approx({"accuracy": 0.25, "log_loss": np.log(8), "perplexity": 8.0})


def test_metrics_of_anomalies_by_hand() -> None:
    scaled = np.array([[0.0, 2.0], [2.0, 6.0]])
    errors = np.array([[1.0, 0.0], [1.0, 2.0]])
    found = metrics.anomalies(np.square(errors).mean(axis=1), errors, scaled)
    # The first column is off by a constant, which explains all of its variance; of the second, 1 of 4 is left.
    assert found.figures == pytest.approx({"reconstruction_error": 1.5, "explained_variance": 1 - 1 / 5})


def test_a_silhouette_by_hand_and_none_where_there_is_one_cluster() -> None:
    at = np.array([[0.0], [1.0], [10.0], [11.0]])
    found = metrics.clusters(lambda rows: at[rows], np.array([0, 0, 1, 1]))
    # To its own cluster each row has 1; to the other, on the mean, the outer ones 10.5 and the inner ones 9.5.
    assert found.figures["silhouette"] == pytest.approx(np.mean([1 - 1 / 10.5, 1 - 1 / 9.5]))
    assert found.details == {"clusters": [2, 2]}
    assert metrics.clusters(lambda rows: at[rows], np.zeros(4, np.int64)).figures == {}


def test_no_rows_have_no_metrics() -> None:
    none = np.empty(0)
    for measure in (
        lambda: metrics.classification(np.empty((0, 2)), none.astype(np.int64)),
        lambda: metrics.regression(none, none),
        lambda: metrics.anomalies(none, np.empty((0, 2)), np.empty((0, 2))),
        lambda: metrics.language(none, none.astype(np.int64), none.astype(np.int64)),
    ):
        with pytest.raises(ValueError, match=r"no (rows|tokens)"):
            measure()


def test_what_is_measured_is_what_the_api_names() -> None:
    probabilities, labels = drawn(3, 50, 0)
    numbers = np.arange(5.0)
    measured = {
        "Classification": metrics.classification(probabilities, labels),
        "Regression": metrics.regression(numbers + 1, numbers),
        "AnomalyDetection": metrics.anomalies(numbers, np.ones((5, 2)), np.ones((5, 2))),
        "Clustering": metrics.clusters(lambda rows: np.eye(5)[rows], np.array([0, 0, 1, 1, 1])),
        "LanguageModelling": metrics.language(numbers, np.ones(5, np.int64), np.ones(5, np.int64)),
    }
    assert {task: set(one.figures) for task, one in measured.items()} == {
        task: set(names) for task, names in MEASURED.items()
    }
    for one in measured.values():
        assert all(one.again(name, np.arange(one.rows)) == pytest.approx(one.figures[name]) for name in one.figures)


# How sure a figure is


def right(share: float, rows: int) -> metrics.Measured:
    hits = (np.arange(rows) < share * rows).astype(np.int64)
    return metrics.classification(np.eye(2)[hits], np.ones(rows, dtype=np.int64))


def test_the_interval_of_an_accuracy_is_the_binomial_s() -> None:
    interval = right(0.9, 200).interval("accuracy")
    assert interval is not None
    half = 1.96 * np.sqrt(0.9 * 0.1 / 200)
    assert interval == pytest.approx((0.9 - half, 0.9 + half), abs=0.008)
    assert right(0.9, 200).interval("accuracy") == interval
    assert right(0.9, 200).interval("auroc") is None
    assert right(0.9, metrics.SMALL + 1).interval("accuracy") is None


def test_a_refusal_says_how_sure_its_figures_are() -> None:
    gates = [Gate(metric="accuracy", min=0.93), Gate(metric="f1_macro", min=0.1)]
    measured = right(0.9, 200)
    with pytest.raises(TrainingFailed) as refused:
        export.check_gates(gates, measured.figures, measured)
    assert refused.value.outcome is Outcome.GATE_FAILED
    assert str(refused.value).startswith(
        "not published: accuracy 0.9 is below min 0.93. On 200 test rows the 95 % interval is (bootstrap): accuracy 0.8"
    )
    assert "f1_macro" not in str(refused.value)
    export.check_gates([Gate(metric="accuracy", min=0.9)], measured.figures, measured)
