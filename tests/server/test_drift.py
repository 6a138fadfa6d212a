"""Drift is told of what has drifted, and of nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelwright_server.drift import LEAST_ROWS, WINDOW_ROWS, Baseline, Bins, Window, psi

from tests.server import artifacts
from tests.server.artifacts import CLASSES, FEATURES
from tests.server.conftest import Serve
from tests.server.processes import Server
from tests.server.test_inference import asked

LABELS = 'model="iris",version="1.0.0"'
Rows = npt.NDArray[np.float32]


def column(values: Rows) -> dict[str, Any]:
    """As the trainer publishes it."""
    edges = np.unique(np.quantile(values.astype(float), np.linspace(0, 1, 11)))
    counts = np.histogram(values, edges)[0] if len(edges) > 1 else np.array([len(values)])
    return {"edges": edges.tolist(), "fractions": (counts / len(values)).tolist()}


def drawn(rows: int, seed: int) -> Rows:
    """Normal, but the last feature, which is 0 nine times in ten."""
    random = np.random.default_rng(seed)
    found = random.normal(size=(rows, FEATURES)).astype(np.float32)
    found[:, -1] = np.where(random.random(rows) < 0.9, 0, found[:, -1])
    return found


@pytest.fixture
def followed(tmp_path: Path, serve: Serve) -> Server:
    """A server whose baseline is of the rows that `drawn` draws, and whose classes are those that it predicts."""
    training = drawn(5000, 1)
    _, probabilities = artifacts.publish(tmp_path / "same").expected(training)
    shares = np.bincount(probabilities.argmax(axis=1), minlength=CLASSES) / len(training)
    baseline = {
        "rows": len(training),
        "features": {f"f{index}": column(training[:, index]) for index in range(FEATURES)},
        "classes": {f"c{index}": float(share) for index, share in enumerate(shares)},
    }
    return serve(artifacts.publish(tmp_path, baseline=baseline)).wait_ready()


def ask(server: Server, rows: Rows) -> None:
    """One after the other, some together; a NaN has no JSON, so they are bytes."""
    for part in np.array_split(rows, len(rows) // 20):
        tensor = {"name": "features", "shape": list(part.shape), "datatype": "FP32"}
        head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": part.nbytes}}]}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        answer = httpx.post(f"{server.model_url}/infer", content=head + part.tobytes(), headers=headers)
        assert answer.status_code == 200


def by_feature(server: Server, name: str) -> dict[str, float]:
    figures = server.metrics()
    return {
        f"f{index}": figures[key]
        for index in range(FEATURES)
        if (key := f'modelwright_serving_{name}{{feature="f{index}",{LABELS}}}') in figures
    }


def test_a_shift_is_told_of_the_features_that_shifted_and_of_no_other(followed: Server) -> None:
    ask(followed, drawn(LEAST_ROWS - 20, 2))
    assert by_feature(followed, "input_drift_psi") == {}
    ask(followed, drawn(WINDOW_ROWS, 3))
    figures = by_feature(followed, "input_drift_psi")
    assert len(figures) == FEATURES
    assert max(figures.values()) < 0.1
    assert followed.metrics()[f"modelwright_serving_prediction_drift_psi{{{LABELS}}}"] < 0.1
    shifted = drawn(WINDOW_ROWS, 4)
    shifted[:, [2, 5]] += 1.0
    ask(followed, shifted)
    figures = by_feature(followed, "input_drift_psi")
    assert {name for name, value in figures.items() if value > 0.2} == {"f2", "f5"}
    assert max(value for name, value in figures.items() if name not in ("f2", "f5")) < 0.1
    assert followed.metrics()[f"modelwright_serving_drift_window_rows{{{LABELS}}}"] == WINDOW_ROWS


def test_missing_values_and_those_beyond_the_training_datas_are_told(followed: Server) -> None:
    rows = drawn(WINDOW_ROWS, 5)
    rows[: WINDOW_ROWS // 4, 1] = np.nan
    rows[: WINDOW_ROWS // 10, 3] = 100
    rows[:, 4] = np.nan
    ask(followed, rows)
    missing, outside = by_feature(followed, "input_missing_share"), by_feature(followed, "input_out_of_range_share")
    assert (missing["f1"], missing["f4"], missing["f0"]) == (0.25, 1.0, 0.0)
    assert 0.1 <= outside["f3"] < 0.11
    assert outside["f0"] < 0.01
    assert "f4" not in by_feature(followed, "input_drift_psi")
    assert by_feature(followed, "input_drift_psi")["f1"] < 0.1


def test_predictions_drift_where_the_classes_do(followed: Server) -> None:
    rows = np.repeat(drawn(1, 6), WINDOW_ROWS, axis=0)
    ask(followed, rows)
    assert followed.metrics()[f"modelwright_serving_prediction_drift_psi{{{LABELS}}}"] > 0.2


def test_a_version_without_a_baseline_is_served_without_these_figures(server: Server) -> None:
    httpx.post(f"{server.model_url}/infer", json=asked(np.ones((600, FEATURES), np.float32)))
    assert not [name for name in server.metrics() if "drift" in name]


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0]) | st.floats(-5, 5, width=32), min_size=1, max_size=50))
def test_the_training_rows_themselves_have_not_drifted(values: list[float]) -> None:
    rows = np.array(values, np.float32)
    bins = Bins.of(column(rows))
    # The edges are of float64, so that a value may fall beside its own by the last bit.
    assert bins.outside(rows.astype(float)) == 0
    assert bins.psi(rows.astype(float)) < 1e-9


def test_the_index_is_siddiqis() -> None:
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    assert psi(p, q) == pytest.approx(0.3 * np.log(5 / 2) + 0.3 * np.log(5 / 2))
    assert psi(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(2 * (1 - 1e-4) * np.log(1e4))


def test_the_window_holds_the_last_rows_however_they_came() -> None:
    baseline = Baseline("x", [0], {"a": Bins(np.array([0.0, 5000.0]), np.array([1.0]))}, None, None)
    window = Window(baseline)
    numbers = np.arange(2700, dtype=np.float32).reshape(-1, 1)
    for part in np.split(numbers, [1, 3, 700, 900, 1500, 2600]):
        window.saw({"x": part}, {})
    assert sorted(window._rows[:, 0]) == numbers[-WINDOW_ROWS:, 0].tolist()
    assert window.figures().rows == WINDOW_ROWS
