"""What is wrong with a data set, in words that name column and remedy; and the metrics against scikit-learn's."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelwright.contract import Data
from modelwright_trainer import data, metrics
from modelwright_trainer.failures import DataFailed
from sklearn.metrics import accuracy_score, f1_score, log_loss

GOOD: dict[str, Any] = {"width": [1.0, 2.0, 3.0], "height": [1, 2, 3], "kind": ["a", "b", "a"]}


def read(columns: dict[str, Any] | bytes, **more: Any) -> data.Table:
    buffer = io.BytesIO()
    if isinstance(columns, bytes):
        buffer.write(columns)
    else:
        pq.write_table(pa.table(columns), buffer)
    return data.table_of(buffer.getvalue(), Data(uri="s3://b/d.parquet", target="kind", **more))


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


@given(st.integers(2, 6), st.integers(1, 80), st.integers(0, 1000))
def test_metrics_are_those_of_scikit_learn(classes: int, rows: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.full(classes, 0.3), rows)
    labels = generator.integers(0, classes, rows)
    found = metrics.classification(probabilities, labels)
    predicted = probabilities.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert found["f1_macro"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert found["log_loss"] == pytest.approx(log_loss(labels, probabilities, labels=range(classes)))


def test_no_rows_have_no_metrics() -> None:
    with pytest.raises(ValueError, match="no rows"):
        metrics.classification(np.empty((0, 2)), np.empty(0, dtype=np.int64))
