"""The published file against the module that it was made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from modelwright.contract import Outcome
from modelwright_trainer import export, failures
from modelwright_trainer.preprocessing import Standardize, moments

from tests.trainer.tables import classified, exported, learner, trained

TABLE = classified()
MLP = learner(TABLE, hiddenSizes="6,5")
WEIGHTS = trained(MLP, TABLE)


def test_the_graph_gives_what_the_module_gives_for_any_batch(tmp_path: Path) -> None:
    session = exported(MLP, WEIGHTS, tmp_path)
    expected = MLP.rebuilt(WEIGHTS)(torch.from_numpy(TABLE.features)).detach().numpy()
    for length in (1, 2, 33):
        given = session.run(TABLE.features[:length])
        np.testing.assert_allclose(given["logits"], expected[:length], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(given["probabilities"].sum(axis=1), 1, rtol=1e-6)


def test_the_graph_holds_no_weights_of_its_own(tmp_path: Path) -> None:
    MLP.write(WEIGHTS, tmp_path)
    graph = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph
    assert {tensor.name for tensor in graph.initializer} == set(WEIGHTS)
    assert all(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(Exception, match=r"model\.safetensors"):
        onnxruntime.InferenceSession(tmp_path / "model.onnx")


def test_equal_weights_make_equal_bytes(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    MLP.write(WEIGHTS, tmp_path / "one")
    MLP.write(WEIGHTS, tmp_path / "two")
    assert (tmp_path / "one" / "model.onnx").read_bytes() == (tmp_path / "two" / "model.onnx").read_bytes()


def test_an_export_that_differs_is_refused(tmp_path: Path) -> None:
    session = exported(MLP, WEIGHTS, tmp_path)
    rows = np.arange(TABLE.rows)
    export.agree(MLP, WEIGHTS, session, TABLE, rows)
    other = {**WEIGHTS, "linears.2.bias": WEIGHTS["linears.2.bias"] + np.float32(0.01)}
    with pytest.raises(failures.TrainingFailed, match="exported file's logits") as told:
        export.agree(MLP, other, session, TABLE, rows)
    assert told.value.outcome is Outcome.EXPORT_MISMATCH


def test_a_constant_feature_is_not_divided_by_zero() -> None:
    standardize = Standardize((np.array([5.0, -3.0, 7.0]), np.array([2.0, 0.5, 0.0])))
    assert standardize(torch.tensor([[7.0, -3.0, 7.0]])).tolist() == [[1.0, 0.0, 0.0]]


def test_moments_are_numpy_s_to_the_bit() -> None:
    rows = np.arange(0, TABLE.rows, 2)
    columns = TABLE.features[rows].astype(np.float64)
    mean, deviation = moments(TABLE.features, rows)
    assert (mean.tolist(), deviation.tolist()) == (columns.mean(axis=0).tolist(), columns.std(axis=0).tolist())
