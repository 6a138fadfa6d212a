"""Metrics of parts of the test rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from modelwright import versions
from modelwright.contract import Slice, StoreAccess
from modelwright.store import Store
from modelwright_trainer import slices
from modelwright_trainer.data import Table
from modelwright_trainer.failures import DataFailed

from tests.trainer.pods import job, train

AGES = Table(
    np.array([[20, 0], [30, 1], [40, 0], [65, 1], [70, 1]], np.float32), None, ("age", "is_new"), ("float",) * 2, (),
    "sha256:" + "0" * 64,
)  # fmt: skip


def test_bounds_divide_all_rows_and_the_lower_one_belongs_to_its_slice() -> None:
    found = dict(slices.parts([Slice(column="age", bounds=(30, 65))], AGES, np.arange(5)))
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "age<30": [0], "30<=age<65": [1, 2], "age>=65": [3, 4],
    }  # fmt: skip


def test_values_are_slices_of_the_rows_that_are_looked_at() -> None:
    found = dict(slices.parts([Slice(column="is_new", values=(0, 1, 7))], AGES, np.array([1, 2, 4])))
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "is_new=0": [2], "is_new=1": [1, 4], "is_new=7": [],
    }  # fmt: skip


def test_a_column_that_is_not_there_is_told_with_the_nearest() -> None:
    with pytest.raises(DataFailed, match=r"evaluation.slices\[0\].column: there is no column ages; did you mean age\?"):
        slices.check([Slice(column="ages", values=(1,))], AGES)


@pytest.mark.usefixtures("keys")
def test_a_training_tells_of_its_slices_and_of_the_classes_that_are_told_worst(
    access: StoreAccess, store: Store, tmp_path: Path
) -> None:
    evaluation = {"slices": [{"column": "pixel_36", "bounds": [8]}, {"column": "pixel_0", "values": [0, 5]}]}
    summary, pod = train(job(access, "sliced", processes=1, evaluation=evaluation), tmp_path / "pod")
    assert summary.artifact is not None, pod.log()
    low, high, zero, five = summary.slices
    assert [one.name for one in summary.slices] == ["pixel_36<8", "pixel_36>=8", "pixel_0=0", "pixel_0=5"]
    assert low.rows + high.rows == zero.rows == 179
    assert (five.rows, five.metrics) == (0, {})
    whole = (low.rows * low.metrics["accuracy"] + high.rows * high.metrics["accuracy"]) / 179
    assert whole == pytest.approx(summary.metrics["accuracy"])
    assert zero.metrics["accuracy"] == pytest.approx(summary.metrics["accuracy"])
    figures = [one.metrics["f1"] for one in summary.classes]
    assert figures == sorted(figures)
    assert figures[0] == pytest.approx(summary.metrics["f1_min"])
    versions.fetch(store, summary.artifact.uri, summary.artifact.digest, tmp_path / "version")
    told = json.loads((tmp_path / "version" / "evaluation.json").read_text())["test"]["slices"]
    assert [one["name"] for one in told] == [one.name for one in summary.slices]
    assert "log_loss" in told[0]["metrics"]
