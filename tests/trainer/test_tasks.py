"""Every task from a file in the store to a published version, in pods of two ranks."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from modelwright import versions
from modelwright.contract import Data, Outcome, Split, StoreAccess
from modelwright.datasets import DatasetRun
from modelwright.store import Store
from modelwright_trainer.data import Table
from modelwright_trainer.dataset import command
from modelwright_trainer.onnxgraph import Session
from safetensors.numpy import load_file

from tests.trainer.pods import job, train
from tests.trainer.tables import real, text

pytestmark = pytest.mark.usefixtures("keys")
TEXT, LETTERS = text()


def stored(store: Store, table: Table, name: str, *, target: bool) -> str:
    """The URI of the table as a parquet file; its target is the column y."""
    columns = {one: table.features[:, index] for index, one in enumerate(table.names)}
    if target:
        columns["y"] = table.targets
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    uri = f"s3://modelwright/raw/{name}.parquet"
    store.write(uri, buffer.getvalue())
    return uri


CASES: dict[str, tuple[Table, dict[str, Any], str, dict[str, str], dict[str, Any]]] = {
    "regression": (
        real("diabetes"), {"target": "y", "task": "Regression"}, "mlp",
        {"hiddenSizes": "32", "epochs": "30", "learningRate": "0.003"}, {"metric": "r2", "min": 0.2},
    ),
    "anomalies": (
        real("wine"), {"task": "AnomalyDetection"}, "autoencoder",
        {"hiddenSizes": "16", "codeSize": "3", "epochs": "40", "batchSize": "8", "learningRate": "0.01"},
        {"metric": "reconstruction_error", "max": 0.9},
    ),
    "images": (
        real("digits"), {"target": "y", "task": "Classification"}, "cnn",
        {"imageShape": "1,8,8", "channels": "8,16", "epochs": "8", "learningRate": "0.005", "rotate": "5"},
        {"metric": "accuracy", "min": 0.93},
    ),
    "language": (
        TEXT, {"task": "LanguageModelling"}, "transformer",
        {"vocabulary": str(LETTERS), "layers": "1", "epochs": "2", "learningRate": "0.01"},
        {"metric": "perplexity", "max": 25.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_task_is_trained_and_published(name: str, access: StoreAccess, store: Store, tmp_path: Path) -> None:
    table, stated, recipe, hyperparameters, gate = CASES[name]
    data = {"uri": stored(store, table, name, target="target" in stated), **stated}
    run = job(
        access, name, data=data, trainer={"recipe": recipe, "hyperparameters": hyperparameters},
        evaluation={"gates": [gate]}, earlyStopping={"patience": 20},
    )  # fmt: skip
    summary, pod = train(run, tmp_path / "pod")
    assert summary.artifact, pod.log()
    manifest = versions.fetch(store, summary.artifact.uri, summary.artifact.digest, tmp_path / "version")
    assert (manifest.task, manifest.lineage.world_size) == (stated["task"], 2)
    assert manifest.metrics["test"] == pytest.approx(dict(summary.metrics))
    samples = load_file(tmp_path / "version" / "golden.safetensors")
    given = Session(tmp_path / "version").run(samples[manifest.inputs[0].name])
    assert set(given) == {one.name for one in manifest.outputs} == set(samples) - {manifest.inputs[0].name}
    for output, value in given.items():
        np.testing.assert_allclose(value, samples[output], rtol=1e-4, atol=1e-5)
    evaluation = json.loads((tmp_path / "version" / "evaluation.json").read_text())
    assert evaluation["test"]["metrics"] == pytest.approx(manifest.metrics["test"])
    assert ("confusion" in evaluation["test"]) == (name == "images")
    baseline = json.loads((tmp_path / "version" / "baseline.json").read_text())
    assert ("tokens" in baseline) == (name == "language")
    assert ("target" in baseline) == (name == "regression")


def test_a_dataset_s_target_is_passed_over_where_the_task_has_none(
    access: StoreAccess, store: Store, tmp_path: Path
) -> None:
    uri = stored(store, real("wine"), "labelled", target=True)
    asked = DatasetRun(
        namespace="team-a", name="wine", source_uri=uri, store=access, target="y", task="Classification", split=Split()
    )
    prepared = command.prepare(asked, store, tmp_path, 128 * 1024**2).manifest
    assert prepared is not None
    data = Data(uri=prepared.uri, digest=prepared.digest, task="AnomalyDetection")
    trainer = {"recipe": "autoencoder", "hyperparameters": {"epochs": "3"}}
    summary, pod = train(job(access, "passed-over", processes=1, data=data, trainer=trainer), tmp_path / "pod")
    assert summary.artifact, pod.log()
    manifest = versions.fetch(store, summary.artifact.uri, summary.artifact.digest, tmp_path / "version")
    assert (manifest.task, manifest.classes, manifest.lineage.data.target) == ("AnomalyDetection", (), None)
    assert manifest.inputs[0].names == real("wine").names


def test_a_dataset_without_a_target_is_refused_by_a_recipe_that_needs_one(
    access: StoreAccess, store: Store, tmp_path: Path
) -> None:
    uri = stored(store, real("wine"), "bare", target=False)
    asked = DatasetRun(namespace="team-a", name="bare", source_uri=uri, store=access, split=Split(stratify=False))
    prepared = command.prepare(asked, store, tmp_path, 128 * 1024**2).manifest
    assert prepared is not None
    summary, _ = train(
        job(access, "bare", processes=1, data=Data(uri=prepared.uri, digest=prepared.digest)), tmp_path / "pod"
    )
    assert summary.exit_code == Outcome.DATA_ERROR.code
    assert summary.failure is not None
    assert "data.task: Dataset bare has no target, and so no task: write AnomalyDetection" in summary.failure.message
