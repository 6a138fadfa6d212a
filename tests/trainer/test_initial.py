"""What a fine-tuning begins with: a published version's weights where they fit, and words where they do not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from modelwright import artifact, versions
from modelwright.contract import Data, InitFrom, StoreAccess, Trainer, TrainingRun
from modelwright.store import Store
from modelwright.versions import Damaged
from modelwright_trainer import export, initial
from modelwright_trainer.data import Table
from modelwright_trainer.failures import UserFailed
from modelwright_trainer.learner import Learner, whole
from modelwright_trainer.onnxgraph import Session, Weights

from tests.trainer.tables import classified, learner

MLP = Trainer(recipe="mlp")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(StoreAccess(uri=f"file://{tmp_path}/store"))


@pytest.fixture
def publish(store: Store, tmp_path: Path) -> Callable[[Table, Learner], tuple[InitFrom, Weights]]:
    """Publishes an untrained module of a learner, as version 1.0.0 of m."""

    def published(table: Table, one: Learner) -> tuple[InitFrom, Weights]:
        folder = tmp_path / "made"
        folder.mkdir()
        torch.manual_seed(5)
        weights = whole(one.module())
        one.write(weights, folder)
        rows = np.arange(table.rows)
        parts = {"train": rows, "validation": rows[:0], "test": rows}
        samples = export.golden(Session(folder), one, table, rows, folder)
        export.write_documents(folder, table, parts, [], {})
        run = TrainingRun.model_validate(
            {
                "namespace": "team", "name": "j", "uid": "u", "publish": {"model": "m", "version": "1.0.0"},
                "store": store.access, "data": Data(uri="file:///d.parquet", target="kind"), "trainer": MLP,
            }
        )  # fmt: skip
        made = export.manifest(
            run, one, table, parts, folder, golden_samples=samples, figures={"test": {}}, epochs=1, steps=1
        )
        uri = export.uri_of(run)
        return InitFrom(uri=uri, digest=versions.publish(store, uri, made, folder)), weights

    return published


def refusal(store: Store, stated: InitFrom, one: Learner, folder: Path) -> str:
    with pytest.raises(UserFailed) as error:
        initial.weights(store, stated, MLP, one, folder)
    return str(error.value)


def test_it_begins_with_the_version_s_weights_and_preprocessing(
    store: Store, publish: Callable[..., tuple[InitFrom, Weights]], tmp_path: Path
) -> None:
    stated, weights = publish(classified(), learner(classified(), hiddenSizes="4"))
    # Other rows, and so other statistics.
    read = initial.weights(store, stated, MLP, learner(classified(seed=9), hiddenSizes="4"), tmp_path / "read")
    assert read.keys() == weights.keys()
    assert all(np.array_equal(read[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    ("table", "sizes", "words"),
    [
        (classified(), "8", "linears.0.weight has shape [4, 3] in m 1.0.0 and [8, 3] in the module"),
        (classified(columns=5), "4", "standardize.mean has shape [3] in m 1.0.0 and [5] in the module"),
        (classified(), "4,4", "linears.1.weight has shape [3, 4] in m 1.0.0 and [4, 4] in the module"),
        (
            dataclasses.replace(classified(), names=("x0", "y", "x2")), "4",
            "number 2 of the features is y in the data and x1 in m 1.0.0: train on the same ones in the same order",
        ),
        (
            dataclasses.replace(classified(), classes=("b", "a", "c")), "4",
            "number 1 of the outputs is b in the data and a in m 1.0.0: train on the same ones in the same order",
        ),
    ],
    ids=["a wider layer", "more columns", "a layer more", "another column", "classes in another order"],
)  # fmt: skip
def test_what_does_not_fit_is_told_by_name_and_both_shapes(
    store: Store,
    publish: Callable[..., tuple[InitFrom, Weights]],
    tmp_path: Path,
    table: Table,
    sizes: str,
    words: str,
) -> None:
    stated, _ = publish(classified(), learner(classified(), hiddenSizes="4"))
    said = refusal(store, stated, learner(table, hiddenSizes=sizes), tmp_path / "read")
    assert said.startswith("trainer.initFrom: ")
    assert words in said


def test_a_tensor_too_many_is_told(store: Store, publish: Callable[..., tuple[InitFrom, Weights]]) -> None:
    given = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float32)}
    with pytest.raises(UserFailed, match=r"m 1\.0\.0 has a tensor b of shape \[4\], which the module has not"):
        initial.check("m 1.0.0", given, {"a": given["a"]})
    with pytest.raises(UserFailed, match=r"m 1\.0\.0 has no tensor b, which the module has with shape \[4\]"):
        initial.check("m 1.0.0", {"a": given["a"]}, given)


def test_altered_weights_and_another_manifest_are_refused(
    store: Store, publish: Callable[..., tuple[InitFrom, Weights]], tmp_path: Path
) -> None:
    one = learner(classified(), hiddenSizes="4")
    stated, _ = publish(classified(), one)
    with pytest.raises(Damaged, match="was asked for"):
        initial.weights(store, InitFrom(uri=stated.uri, digest=f"sha256:{'0' * 64}"), MLP, one, tmp_path / "read")
    files = versions.read(store, stated.uri, None).files
    blob = artifact.blob_uri(stated.uri, next(file for file in files if file.path == artifact.WEIGHTS_FILE).digest)
    store.write(blob, store.read(blob)[:-1] + b"x")
    with pytest.raises(Damaged, match=r"model\.safetensors is sha256:.*; the manifest says"):
        initial.weights(store, stated, MLP, one, tmp_path / "read")
