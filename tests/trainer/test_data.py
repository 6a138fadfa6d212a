"""What is wrong with a data set, in words that name column and remedy."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from modelwright.contract import Data
from modelwright_trainer import data
from modelwright_trainer.failures import DataFailed

GOOD: dict[str, Any] = {"width": [1.0, 2.0, 3.0], "height": [1, 2, 3], "kind": ["a", "b", "a"]}


def read(columns: dict[str, Any] | bytes, kind: data.Kind = np.float32, **more: Any) -> data.Table:
    buffer = io.BytesIO()
    if isinstance(columns, bytes):
        buffer.write(columns)
    else:
        pq.write_table(pa.table(columns), buffer)
    return data.table_of(buffer.getvalue(), Data(uri="s3://b/d.parquet", **{"target": "kind", **more}), kind)


def test_numbers_become_features_and_values_become_sorted_classes() -> None:
    table = read({**GOOD, "flag": [True, False, True]})
    assert table.names == ("width", "height", "flag")
    assert table.features.tolist() == [[1, 1, 1], [2, 2, 0], [3, 3, 1]]
    assert (table.classes, table.targets.tolist()) == (("a", "b"), [0, 1, 0])


def test_integers_are_classes_in_the_order_of_numbers() -> None:
    assert read({**GOOD, "kind": [10, 9, 10]}).classes == ("9", "10")
    assert read({**GOOD, "kind": [1.0, 0.0, 1.0]}).classes == ("0", "1")
    assert read({**GOOD, "kind": pa.array(["x", "y", "x"]).dictionary_encode()}).classes == ("x", "y")


@pytest.mark.parametrize(
    ("columns", "more", "words"),
    [
        (b"", {}, "d.parquet is empty (0 bytes): upload it again"),
        (b"a,b\n1,2\n", {}, "is no parquet file that can be read"),
        ({"width": pa.array([], pa.float32()), "kind": pa.array([], pa.string())}, {}, "has no rows"),
        ({"width": [1.0], "knd": ["a"]}, {}, "data.target: there is no column kind; did you mean knd? (the"),
        (GOOD, {"features": ("widht",)}, "data.features: there is no column widht; did you mean width?"),
        (GOOD, {"features": ("kind",)}, "kind is the target, and cannot be a feature too"),
        ({**GOOD, "name": ["x", "y", "z"]}, {}, "column name of s3://b/d.parquet is string, and a feature must"),
        ({**GOOD, "height": [1, None, 3]}, {}, "column height of s3://b/d.parquet has no value in 1 of 3"),
        ({**GOOD, "width": [1.0, float("nan"), float("nan")]}, {}, "has no value in 2 of 3 rows"),
        ({**GOOD, "width": [1.0, 1e300, 2.0]}, {}, "1 values that are infinite or beyond float32"),
        ({**GOOD, "kind": ["a", None, "b"]}, {}, "target kind has no value in 1 of 3 rows"),
        ({**GOOD, "kind": ["a", "a", "a"]}, {}, "target kind is a in all rows"),
        ({**GOOD, "kind": [0.5, 1.5, 2.5]}, {}, "with fractions, which are no classes"),
        ({**GOOD, "kind": [[1], [2], [3]]}, {}, "classes are integers, booleans or strings"),
        ({"kind": ["a", "b"]}, {}, "has no column but the target kind"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_remedy(columns: dict[str, Any] | bytes, more: dict[str, Any], words: str) -> None:
    with pytest.raises(DataFailed) as told:
        read(columns, **more)
    assert words in str(told.value)
    assert "\n" not in str(told.value)


def test_a_number_to_predict_is_no_class() -> None:
    table = read({**GOOD, "kind": [1, 2, 3]}, task="Regression")
    assert table.targets is not None
    assert (table.classes, table.targets.dtype, table.targets.tolist()) == ((), np.float32, [1, 2, 3])


def test_without_a_target_all_columns_are_features() -> None:
    table = read({"width": [1.0, 2.0], "height": [1, 2]}, target=None, task="AnomalyDetection")
    assert (table.names, table.targets, table.classes) == (("width", "height"), None, ())


def test_token_ids_stay_whole_numbers() -> None:
    large = 2**24 + 1  # no float32 is that
    table = read(
        {"t0": [1, large], "t1": pa.array([2, -1], pa.int8())}, np.int64, target=None, task="LanguageModelling"
    )
    assert (table.features.dtype, table.features.tolist()) == (np.int64, [[1, 2], [large, -1]])


@pytest.mark.parametrize(
    ("columns", "kind", "more", "words"),
    [
        (
            GOOD,
            np.float32,
            {"task": "Regression"},
            "target kind is string, and a regression predicts a number: convert",
        ),
        ({**GOOD, "kind": [1.0, None, 2.0]}, np.float32, {"task": "Regression"}, "target kind has no value in 1 of 3"),
        ({**GOOD, "kind": [4, 4, 4]}, np.float32, {"task": "Regression"}, "target kind is 4 in all rows: there is"),
        (GOOD, np.float32, {"task": "Regression", "target": None}, "data.target: required with the task Regression"),
        (
            {"t0": [0.5, 1.5], "kind": [0, 1]},
            np.int64,
            {},
            "column t0 of s3://b/d.parquet is double, and a token id is",
        ),
        ({"t0": [1, None], "kind": [0, 1]}, np.int64, {}, "column t0 of s3://b/d.parquet has no token in 1 of 2 rows:"),
    ],
)
def test_what_is_no_number_and_no_token_is_named(
    columns: dict[str, Any], kind: data.Kind, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataFailed) as told:
        read(columns, kind, **more)
    assert words in str(told.value)
