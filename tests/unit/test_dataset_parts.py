"""Data sets that are no classification, and rows that came divided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelwright.contract import Split
from modelwright.datasets import Given
from modelwright_trainer.dataset.checks import ChecksFailed
from modelwright_trainer.failures import DataFailed
from modelwright_trainer.split import PARTS

from tests.unit.test_dataset import SHARED, part, prepared, rows, shards

NUMBER: dict[str, Any] = {"task": "Regression", "target": "height", "split": {"seed": 7, "stratify": False}}
NOTHING: dict[str, Any] = {"task": None, "split": {"seed": 7, "stratify": False}}


def ids(tmp_path: Path, source: str | dict[str, str], **stated: Any) -> dict[str, list[int]]:
    summary, manifest = prepared(tmp_path, source, **stated)
    return {
        name: sorted(part(summary, manifest, name).column("id").to_pylist()) if manifest.splits[name].rows else []
        for name in PARTS
    }


@pytest.mark.parametrize("stated", [NUMBER, NOTHING])
def test_without_classes_rows_are_divided_and_profiled_all_the_same(tmp_path: Path, stated: dict[str, Any]) -> None:
    pq.write_table(rows(400), tmp_path / "a.parquet")
    summary, manifest = prepared(tmp_path, "a.parquet", **dict(stated))
    assert summary.splits == {"train": 320, "validation": 40, "test": 40}
    assert (summary.class_count, manifest.classes, manifest.warnings) == (0, (), ())
    assert manifest.task == stated["task"]
    height = manifest.columns[0]
    assert (height.type, height.missing) == ("DOUBLE", 0)
    assert height.histogram is not None
    assert sum(height.histogram) == 400


def test_leakage_is_found_without_classes_too(tmp_path: Path) -> None:
    table = rows(200)
    pq.write_table(pa.concat_tables([table] + [table.slice(3, 1)] * 12), tmp_path / "a.parquet")
    assert prepared(tmp_path, "a.parquet", **dict(NUMBER))[1].leakage.rows == 13


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (["x", "y"], "column height is VARCHAR, and a Regression predicts a number: name another target, or make it a"),
        ([1.0, float("inf")], "column height is infinite in 50 of 100 rows, such as row 2 of a.parquet, row 4 of"),
        ([1.0, None], "column height has no value in 50 of 100 rows, such as row 2 of a.parquet"),
        ([2.5, 2.5], "column height is 2.5 in all rows: there is nothing to predict"),
    ],
)
def test_what_is_no_number_to_predict_is_said_with_its_rows(tmp_path: Path, target: list[Any], words: str) -> None:
    pq.write_table(pa.table({"id": range(100), "height": target * 50}), tmp_path / "a.parquet")
    with pytest.raises(DataFailed) as told:
        prepared(tmp_path, "a.parquet", **dict(NUMBER))
    assert words in str(told.value)


@SHARED
@given(st.lists(st.sampled_from(["train", "Training ", "val", "dev", "validation", "TEST", "eval"]), min_size=1))
def test_each_row_is_in_the_part_that_its_column_says(tmp_path: Path, said: list[str]) -> None:
    words = ["train", "test", *said]
    labels = [index % 2 for index in range(2 * len(words))]
    table = pa.table({"id": range(2 * len(words)), "part": words * 2, "label": labels})
    pq.write_table(table, tmp_path / "a.parquet")
    found = ids(tmp_path, "a.parquet", split=Given(column="part"))
    for name, spellings in (("train", "training"), ("validation", "val dev validation"), ("test", "test eval")):
        expected = [index for index, word in enumerate(words * 2) if word.strip().lower() in (name, *spellings.split())]
        assert found[name] == expected


def test_the_column_that_says_the_part_is_no_feature_and_hides_no_leakage(tmp_path: Path) -> None:
    table = pa.table({"id": [0, 1, 2, 3, 0, 1], "label": [0, 1, 0, 1, 0, 1], "part": ["train"] * 4 + ["test"] * 2})
    pyarrow.csv.write_csv(table, tmp_path / "a.csv")
    summary, manifest = prepared(tmp_path, "a.csv", split=Given(column="part"))
    assert [column.name for column in manifest.columns] == ["id", "label"]
    assert part(summary, manifest, "test").column_names == ["id", "label"]
    assert (manifest.leakage.contents, manifest.leakage.rows) == (2, 4)
    assert manifest.warnings[0].startswith(
        "leakage: 4 rows have an equal one in another split, such as row 1 of a.csv (train) and row 5 of a.csv (test)"
    )
    assert [column.missing for column in manifest.columns] == [0, 0]


def test_each_row_is_in_the_part_that_its_file_is_of(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for name, begin, end in (("train/a", 0, 30), ("train/b", 30, 50), ("valid", 50, 60), ("test", 60, 80)):
        labels = [index % 2 for index in range(begin, end)]
        pq.write_table(pa.table({"id": range(begin, end), "label": labels}), tmp_path / f"{name}.parquet")
    source = {"train": "train/", "validation": "valid.parquet", "test": "test.parquet"}
    found = ids(tmp_path, source, split=Given())
    assert found == {"train": list(range(50)), "validation": list(range(50, 60)), "test": list(range(60, 80))}
    _, manifest = prepared(tmp_path, source, split=Given())
    assert [(file.part, file.rows) for file in manifest.sources] == [
        ("train", 30), ("train", 20), ("validation", 10), ("test", 20),
    ]  # fmt: skip
    without = ids(tmp_path, {"train": "train/", "test": "test.parquet"}, split=Given())
    assert without["validation"] == []


def test_types_are_those_of_all_parts_together(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("x,label\n1,0\n2,1\n")
    (tmp_path / "test.csv").write_text("x,label\n2.5,0\n3,1\n")
    _, manifest = prepared(tmp_path, {"train": "train.csv", "test": "test.csv"}, split=Given())
    assert manifest.columns[0].type == "DOUBLE"


def test_the_seed_is_of_the_order_within_given_parts(tmp_path: Path) -> None:
    table = rows(300).append_column("part", [["train", "test", "train"] * 100])
    pq.write_table(table, tmp_path / "a.parquet")
    of = [prepared(tmp_path, "a.parquet", split=Given(column="part", seed=seed)) for seed in (1, 1, 2)]
    assert shards(of[0][1]) == shards(of[1][1]) != shards(of[2][1])
    orders = [part(*one, "test").to_pylist() for one in of]
    assert orders[0] != orders[2]
    assert sorted(map(json.dumps, orders[0])) == sorted(map(json.dumps, orders[2]))


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (["train", "tset"], "split.column: column part names no part in 1 of 2 rows, such as row 2 of a.csv (tset):"),
        (["train", None], "split.column: column part has no value in 1 of 2 rows, such as row 2 of a.csv: say of each"),
        (["train", "dev"], "split.column: no row is for test: name some, or give fractions in split"),
    ],
)
def test_a_column_that_does_not_say_all_parts_is_told(tmp_path: Path, column: list[str | None], words: str) -> None:
    pyarrow.csv.write_csv(pa.table({"id": [0, 1], "label": [0, 1], "part": column}), tmp_path / "a.csv")
    with pytest.raises(DataFailed) as told:
        prepared(tmp_path, "a.csv", split=Given(column="part"))
    assert words in str(told.value)


def test_a_part_without_files_is_told(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("x,label\n1,0\n2,1\n")
    (tmp_path / "test").mkdir()
    with pytest.raises(DataFailed, match="test/ there is no file that ends with one of"):
        prepared(tmp_path, {"train": "train.csv", "test": "test/"}, split=Given())


def test_checks_hold_over_all_given_parts(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("x,label\n1,0\n2,1\n")
    (tmp_path / "test.csv").write_text("x,label\n2,0\n3,1\n")
    with pytest.raises(ChecksFailed, match=r"such as row 2 of train\.csv, row 1 of test\.csv"):
        prepared(tmp_path, {"train": "train.csv", "test": "test.csv"}, split=Given(), checks={"unique": ["x"]})


def test_a_run_goes_over_the_wire_with_either_kind_of_split() -> None:
    from modelwright.contract import StoreAccess
    from modelwright.datasets import DatasetRun

    for split in (Split(seed=3), Given(seed=3), Given(column="part")):
        run = DatasetRun(
            namespace="team", name="rows", source_uri="s3://b/a.csv", store=StoreAccess(uri="s3://b"), split=split
        )
        assert DatasetRun.model_validate_json(run.to_json()) == run
