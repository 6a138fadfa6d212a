"""The rows of a prepared Dataset as the trainer reads them: the Dataset's own parts, every digest checked, and no more
of them in memory than there is room for."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from modelwright.contract import Data, Outcome, StoreAccess
from modelwright.datasets import DatasetManifest
from modelwright.store import Store
from modelwright.versions import Damaged
from modelwright_trainer import shards
from modelwright_trainer.data import Kind, Table
from modelwright_trainer.failures import DataFailed, TrainingFailed
from modelwright_trainer.split import PARTS

from tests.unit.test_dataset import part, prepared, rows

ANYWHERE = Store(StoreAccess(uri="file:///"))


def numbers(count: int, seed: int = 1) -> pa.Table:
    return rows(count, seed=seed).drop_columns(["town"])


def dataset(folder: Path, table: pa.Table, **stated: Any) -> tuple[Data, Any, DatasetManifest]:
    pq.write_table(table, folder / "a.parquet")
    summary, manifest = prepared(folder, "a.parquet", **stated)
    assert summary.manifest is not None
    return Data(uri=summary.manifest.uri, digest=summary.manifest.digest), summary, manifest


def loaded(folder: Path, data: Data, *, writes: bool = True, kind: Kind = np.float32) -> Table:
    prepared = shards.read(ANYWHERE, data)
    return shards.load(ANYWHERE, prepared, folder / "data", writes=writes, tell=lambda: None, kind=kind)


def test_the_parts_are_the_data_sets_own_row_by_row(tmp_path: Path) -> None:
    data, summary, manifest = dataset(tmp_path, numbers(5000), shard_bytes=16384)
    table, parts = loaded(tmp_path, data), shards.read(ANYWHERE, data).parts
    assert len(manifest.splits["train"].shards) > 2
    assert (table.names, table.classes, table.digest) == (("height", "age"), ("0", "1", "2"), data.digest)
    for name in PARTS:
        stored = part(summary, manifest, name)
        assert table.features[parts[name]][:, 0].tolist() == stored["height"].to_numpy().astype(np.float32).tolist()
        assert table.features[parts[name]][:, 1].tolist() == stored["age"].to_pylist()
        assert table.targets is not None
        assert table.targets[parts[name]].tolist() == stored["label"].to_pylist()


@pytest.mark.parametrize("labels", [["b", "a", "ä"], [True, False, True], [10, 9, 10], [2.0, 1.0, 2.0]])
def test_classes_are_indices_in_the_order_of_their_values(tmp_path: Path, labels: list[Any]) -> None:
    table = pa.table({"x": range(300), "label": labels * 100})
    data, _, _ = dataset(tmp_path, table)
    found = loaded(tmp_path, data)
    assert list(found.classes) == [str(int(one) if isinstance(one, float) else one) for one in sorted(set(labels))]
    assert found.targets is not None
    said = [found.classes[index] for index in found.targets]
    by_x = dict(zip(range(300), labels * 100, strict=True))
    assert [float(one) if isinstance(labels[0], float) else one for one in said] == [
        by_x[int(x)] if isinstance(labels[0], float) else str(by_x[int(x)]) for x in found.features[:, 0]
    ]


def test_a_number_to_predict_is_read_as_one(tmp_path: Path) -> None:
    data, _, _ = dataset(tmp_path, pa.table({"x": range(300), "label": [0.5 * one for one in range(300)]}),
                         task="Regression", split={"stratify": False})  # fmt: skip
    table = loaded(tmp_path, data)
    assert table.targets is not None
    assert (table.classes, table.targets.dtype) == ((), np.float32)
    assert table.targets.tolist() == [0.5 * x for x in table.features[:, 0]]


def test_token_ids_stay_whole_numbers_and_the_target_is_passed_over_where_nothing_is_predicted(tmp_path: Path) -> None:
    tokens = [2**24 + one for one in range(300)]  # half of them are no float32
    data, _, _ = dataset(tmp_path, pa.table({"t0": tokens, "t1": [-1] * 300, "label": [0, 1, 2] * 100}))
    table = loaded(tmp_path, data.model_copy(update={"task": "LanguageModelling"}), kind=np.int64)
    assert (table.names, table.targets, table.classes) == (("t0", "t1"), None, ())
    assert sorted(table.features[:, 0].tolist()) == tokens


def test_the_other_ranks_of_a_pod_wait_for_the_first_and_read_the_same(tmp_path: Path) -> None:
    data, _, _ = dataset(tmp_path, numbers(500))
    seen: list[Table] = []
    waiting = threading.Thread(target=lambda: seen.append(loaded(tmp_path, data, writes=False)), daemon=True)
    waiting.start()
    table = loaded(tmp_path, data)
    waiting.join(10)
    assert seen[0].features.tolist() == table.features.tolist()


def shard_of(data: Data, manifest: DatasetManifest) -> Path:
    folder = Path(data.uri.removeprefix("file://")).parents[1]
    return folder / manifest.splits["test"].shards[0].path


def test_a_shard_that_was_altered_is_never_trained_on(tmp_path: Path) -> None:
    data, _, manifest = dataset(tmp_path, numbers(500))
    path = shard_of(data, manifest)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(Damaged, match=r"\.parquet: its content is sha256:.*: it was altered in the store: remove it"):
        loaded(tmp_path, data)
    path.unlink()
    with pytest.raises(DataFailed, match="what a Dataset has written is gone: delete it and create it anew"):
        loaded(tmp_path, data)


def test_a_manifest_of_another_digest_is_refused(tmp_path: Path) -> None:
    data, _, _ = dataset(tmp_path, numbers(500))
    with pytest.raises(Damaged, match="was asked for"):
        shards.read(ANYWHERE, data.model_copy(update={"digest": "sha256:" + "0" * 64}))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"name": ["x"] * 100}, "column name of Dataset rows is text, and a feature must be a number: encode it"),
        ({"x": [1.0, None] * 50}, "column x of Dataset rows has no value in 50 of 100 rows: fill them, or drop"),
        ({"x": [1.0, float("inf")] * 50}, "column x of Dataset rows has 50 values that are infinite: clip or scale"),
        ({"x": [1.0, 1e300] * 50}, "values that are infinite or beyond float32: clip or scale them"),
        ({}, "Dataset rows has no column but the target label: there is nothing to learn from"),
    ],
)
def test_what_is_no_feature_is_named_with_its_remedy(tmp_path: Path, columns: dict[str, Any], words: str) -> None:
    data, _, _ = dataset(tmp_path, pa.table({**columns, "label": [0, 1] * 50}))
    with pytest.raises(DataFailed) as told:
        loaded(tmp_path, data)
    assert words in str(told.value)


def test_a_scratch_volume_that_is_too_small_is_told_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, _, _ = dataset(tmp_path, numbers(500))
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 1000}))
    with pytest.raises(TrainingFailed, match=r"the scratch volume does not take the rows .*mount a larger") as told:
        loaded(tmp_path, data)
    assert told.value.outcome is Outcome.INFRASTRUCTURE


def test_rows_take_disk_and_no_memory_of_ours(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    columns = {f"x{index}": generator.normal(size=400_000).astype(np.float32) for index in range(64)}
    data, _, _ = dataset(tmp_path, pa.table({**columns, "label": np.arange(400_000) % 2}))
    program = f"""
import numpy as np
from pathlib import Path
from modelwright.contract import Data
from tests.unit.test_shards import loaded

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

before = anonymous()
table = loaded(Path({str(tmp_path)!r}), Data.model_validate_json({data.to_json()!r}))
order = np.random.RandomState(0).permutation(table.rows)
total = sum(float(table.features[order[at : at + 4096]].sum()) for at in range(0, table.rows, 4096))
print((anonymous() - before) // 1024, table.features.nbytes // 1024**2)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    taken, size = map(int, done.stdout.split())
    assert size == 97
    assert taken < 64, f"{size} MiB of rows took {taken} MiB"
