"""What the Job of a Dataset does with rows: the same parts however they are laid out, and what it finds in them."""

from __future__ import annotations

import io
import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from modelwright.contract import Failure, Outcome, Split, StoreAccess
from modelwright.datasets import Checks, DatasetManifest, DatasetRun, DatasetSummary, Given, digest_of, folder_of
from modelwright.store import Store
from modelwright_trainer import limits
from modelwright_trainer.dataset import command
from modelwright_trainer.dataset.checks import ChecksFailed
from modelwright_trainer.failures import DataFailed

MEMORY = 128 * 1024 * 1024
# The fields of one pytest function may share a folder with another's, and nothing is lost by it.
SHARED = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def rows(count: int, classes: int = 3, seed: int = 1) -> pa.Table:
    generator = np.random.default_rng(seed)
    return pa.table(
        {
            "height": generator.normal(size=count).round(6),
            "age": generator.integers(0, 90, count),
            "town": [f"town {number}" for number in generator.integers(0, 5, count)],
            "label": np.arange(count) % classes,
        }
    )


def prepared(folder: Path, source: str | dict[str, str], **stated: Any) -> tuple[DatasetSummary, DatasetManifest]:
    """`source` is the name of a file or prefix, or of one for each part."""
    named = {"": source} if isinstance(source, str) else source
    uris = {part: f"file://{folder}/{name}" for part, name in named.items()}
    split = stated.pop("split", {"seed": 7})
    task = stated.pop("task", "Classification")
    run = DatasetRun(
        namespace="team", name="rows", source_uri=uris.pop("", None), part_uris=uris,
        store=StoreAccess(uri=f"file://{folder}/store"), task=task, target=stated.pop("target", task and "label"),
        split=split if isinstance(split, Given) else Split(**split), checks=Checks(**stated.pop("checks", {})),
    )  # fmt: skip
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    for left in scratch.iterdir():
        left.unlink() if left.is_file() else None
    summary = command.prepare(run, Store(run.store), scratch, MEMORY, **stated)
    assert summary.manifest is not None
    content = Path(summary.manifest.uri.removeprefix("file://")).read_bytes()
    assert digest_of(content) == summary.manifest.digest
    return summary, DatasetManifest.model_validate_json(content)


def part(summary: DatasetSummary, manifest: DatasetManifest, name: Any) -> pa.Table:
    """The rows of a part, each shard's digest checked."""
    assert summary.manifest is not None
    folder = Path(folder_of(summary.manifest.uri).removeprefix("file://"))
    tables = []
    for shard in manifest.splits[name].shards:
        content = (folder / shard.path).read_bytes()
        assert (digest_of(content), len(content)) == (shard.digest, shard.bytes)
        tables.append(pq.read_table(io.BytesIO(content)))
        assert tables[-1].num_rows == shard.rows
    return pa.concat_tables(tables)


def shards(manifest: DatasetManifest) -> list[str]:
    return [shard.digest for one in manifest.splits.values() for shard in one.shards]


def laid_out(table: pa.Table, folder: Path, cuts: Sequence[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.iterdir():
        left.unlink()
    bounds = [0, *sorted(cuts), table.num_rows]
    for index, (begin, end) in enumerate(itertools.pairwise(bounds)):
        if end > begin:
            pq.write_table(table.slice(begin, end - begin), folder / f"{index:03}.parquet")


@SHARED
@given(cuts=st.lists(st.integers(1, 199), max_size=5, unique=True), seed=st.integers(0, 3))
def test_the_same_rows_are_in_the_same_parts_however_the_source_is_sharded(
    tmp_path: Path, cuts: list[int], seed: int
) -> None:
    table = rows(200)
    pq.write_table(table, tmp_path / "whole.parquet")
    laid_out(table, tmp_path / "pieces", cuts)
    _, whole = prepared(tmp_path, "whole.parquet", split={"seed": seed})
    _, pieces = prepared(tmp_path, "pieces/", split={"seed": seed})
    assert shards(whole) == shards(pieces)
    assert whole.columns == pieces.columns


def test_another_order_of_the_rows_changes_no_part(tmp_path: Path) -> None:
    table = rows(300)
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table.take(np.random.default_rng(3).permutation(300)), tmp_path / "b.parquet")
    assert shards(prepared(tmp_path, "a.parquet")[1]) == shards(prepared(tmp_path, "b.parquet")[1])


def test_another_seed_draws_other_parts(tmp_path: Path) -> None:
    pq.write_table(rows(300), tmp_path / "a.parquet")
    one = prepared(tmp_path, "a.parquet", split={"seed": 1})[1]
    assert shards(one) != shards(prepared(tmp_path, "a.parquet", split={"seed": 2})[1])


def test_csv_jsonl_and_parquet_agree(tmp_path: Path) -> None:
    table = rows(150)
    pq.write_table(table, tmp_path / "a.parquet")
    pyarrow.csv.write_csv(table, tmp_path / "a.csv")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    of = [prepared(tmp_path, f"a.{suffix}")[1] for suffix in ("parquet", "csv", "jsonl")]
    assert shards(of[0]) == shards(of[1]) == shards(of[2])
    assert of[0].columns == of[1].columns == of[2].columns


def test_whole_numbers_that_csv_wrote_without_a_point_are_in_the_same_parts(tmp_path: Path) -> None:
    table = rows(150).set_column(1, "age", pa.array([float(number) for number in range(150)]))
    pq.write_table(table, tmp_path / "a.parquet")
    pyarrow.csv.write_csv(table, tmp_path / "a.csv")
    ages = [
        part(*prepared(tmp_path, name), "train").column("age").cast(pa.int64()).to_pylist()
        for name in ("a.parquet", "a.csv")
    ]
    assert ages[0] == ages[1]


@SHARED
@given(
    sizes=st.lists(st.integers(1, 60), min_size=2, max_size=5),
    fractions=st.sampled_from([(0.8, 0.1, 0.1), (0.6, 0.2, 0.2), (0.9, 0.0, 0.1), (0.5, 0.25, 0.25)]),
    stratify=st.booleans(),
)
def test_each_row_is_in_one_part_and_each_part_has_its_share(
    tmp_path: Path, sizes: list[int], fractions: tuple[float, float, float], stratify: bool
) -> None:
    labels = [index for index, size in enumerate(sizes) for _ in range(size)] * 2
    total = len(labels)
    pq.write_table(pa.table({"id": range(total), "label": labels}), tmp_path / "a.parquet")
    train, validation, test = fractions
    stated = {"train": train, "validation": validation, "test": test, "stratify": stratify, "seed": 5}
    if min(fraction for fraction in fractions if fraction) * total < 2:
        return  # a part may have no row: the next test
    summary, manifest = prepared(tmp_path, "a.parquet", split=stated)
    seen = [
        number
        for name in ("train", "validation", "test")
        if manifest.splits[name].rows  # type: ignore[index]
        for number in part(summary, manifest, name).column("id").to_pylist()
    ]
    assert sorted(seen) == list(range(total))
    for name, fraction in zip(("train", "validation", "test"), fractions, strict=True):
        assert abs(summary.splits[name] - fraction * total) < 3  # type: ignore[index]
        for one in manifest.classes:
            # Hamilton's method: each class is less than a row off its share.
            assert not stratify or abs(one.splits[name] - fraction * one.rows) < 1 + 1e-6  # type: ignore[index]


def test_a_part_that_gets_no_row_is_an_error(tmp_path: Path) -> None:
    pq.write_table(rows(4, classes=2), tmp_path / "a.parquet")
    with pytest.raises(DataFailed, match=r"^split\.(validation|test): 0\.1 of 4 rows is none: give more rows"):
        prepared(tmp_path, "a.parquet")


def test_the_same_row_in_two_splits_is_found(tmp_path: Path) -> None:
    table = rows(200)
    pq.write_table(pa.concat_tables([table] + [table.slice(3, 1)] * 12), tmp_path / "a.parquet")
    _, manifest = prepared(tmp_path, "a.parquet")
    assert (manifest.leakage.contents, manifest.leakage.rows) == (1, 13)
    assert manifest.leakage.examples[0][0].startswith("row 4 of a.parquet (")
    assert manifest.warnings[0].startswith(
        "leakage: 13 rows have an equal one in another split, such as row 4 of a.parquet ("
    )


def test_rows_without_an_equal_one_are_no_leakage(tmp_path: Path) -> None:
    pq.write_table(rows(200), tmp_path / "a.parquet")
    _, manifest = prepared(tmp_path, "a.parquet")
    assert manifest.leakage.rows == 0
    assert not [one for one in manifest.warnings if one.startswith("leakage")]


def test_constant_columns_imbalance_and_a_small_test_split_are_told(tmp_path: Path) -> None:
    labels = ["rare"] * 10 + ["usual"] * 190
    pq.write_table(pa.table({"id": range(200), "always": [1.5] * 200, "label": labels}), tmp_path / "a.parquet")
    _, manifest = prepared(tmp_path, "a.parquet")
    assert [one.split(":")[0] for one in manifest.warnings] == ["class imbalance", "small test split", "constant"]
    assert "class rare has 10 of 200 rows, class usual has 190" in manifest.warnings[0]
    assert "column always" in manifest.warnings[2]


def test_all_failed_checks_are_named_with_column_count_and_positions(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,height,label\n1,,a\n2,1.5,a\n2,2.5,b\n3,,a\n")
    with pytest.raises(ChecksFailed) as failed:
        prepared(
            tmp_path, "a.csv",
            checks={"min_rows": 10, "no_missing": ["height"], "unique": ["id"], "min_class_fraction": 0.3},
        )  # fmt: skip
    assert str(failed.value).split("; ") == [
        "checks.minRows: the source has 4 rows, and 10 are asked for",
        "checks.noMissing: column height has no value in 2 of 4 rows, such as row 1 of a.csv, row 4 of a.csv",
        "checks.unique: column id has in 2 of 4 rows a value that another row has too, such as row 2 of a.csv, row 3 of"
        " a.csv",
        "checks.minClassFraction: column label: class b has 1 of 4 rows (0.25), and 0.3 is asked for, such as row 3 of"
        " a.csv",
    ]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.csv": "x,label\n1,a\n2,b,c\n"}, "a.csv cannot be read as csv (Invalid Input Error: CSV Error on Line: 3"),
        ({"a.jsonl": '{"x": [1], "label": 0}\n'}, "column x of file://"),
        ({"a.parquet": "no parquet"}, "a.parquet cannot be read as parquet"),
        ({"a.csv": "x,x,label\n1,2,0\n"}, "a.csv has column x twice in its header"),
        ({"a.csv": ""}, "a.csv is empty (0 bytes)"),
        ({"a.csv": "x,label\n1,0\n2,0\n"}, "column label is 0 in all rows"),
        ({"a.csv": "x,label\n1,0.5\n2,1\n"}, "fractions in 1 rows, such as row 1 of a.csv"),
        ({"a.csv": "x,label\n1,0\n2,\n"}, "column label has no value in 1 of 2 rows, such as row 2 of a.csv"),
        ({"a.csv": "x,lable\n1,0\n"}, "schema.target: there is no column label; did you mean lable?"),
        ({"a.csv": "x,label\n1,0\n", "b.csv": "y,label\n1,0\n"}, "column x is in file://"),
        ({"a.csv": "x,label\n1,0\n", "b.jsonl": "{}"}, "files of several formats (csv, jsonl)"),
        ({"a.txt": "x"}, "there is no file that ends with one of .parquet, .csv, .jsonl, .ndjson"),
    ],
)
def test_what_is_wrong_with_a_source_is_said_with_the_file(tmp_path: Path, files: dict[str, str], words: str) -> None:
    (tmp_path / "in").mkdir()
    for name, content in files.items():
        (tmp_path / "in" / name).write_text(content)
    with pytest.raises(DataFailed) as failed:
        prepared(tmp_path, "in/")
    assert words in str(failed.value)
    assert not (tmp_path / "store").exists()


def test_types_are_those_of_all_files_together(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("x,code,flag,label\n1,007,true,0\n,12,false,1\n")
    (tmp_path / "in" / "b.csv").write_text("flag,x,label,code\nTRUE,2.5,0,A1\nfalse,,1,\n")
    split = {"train": 0.5, "validation": 0, "test": 0.5}
    summary, manifest = prepared(tmp_path, "in/", split=split)
    assert {one.name: (one.type, one.missing) for one in manifest.columns} == {
        "x": ("DOUBLE", 2), "code": ("VARCHAR", 1), "flag": ("BOOLEAN", 0), "label": ("BIGINT", 0),
    }  # fmt: skip
    codes = {code for name in ("train", "test") for code in part(summary, manifest, name).column("code").to_pylist()}
    assert codes == {"007", "12", "A1", None}


def test_a_profile_has_the_figures_of_the_column(tmp_path: Path) -> None:
    values = [float(number) for number in range(100)] + [None, float("nan"), float("inf")]
    labels = [index % 2 for index in range(103)]
    pq.write_table(pa.table({"x": values, "label": labels}), tmp_path / "a.parquet")
    _, manifest = prepared(tmp_path, "a.parquet")
    x = manifest.columns[0]
    assert (x.missing, x.infinite, x.minimum, x.maximum, x.mean) == (2, 1, 0.0, 99.0, 49.5)
    assert x.quantiles == {"0.05": 4.95, "0.25": 24.75, "0.5": 49.5, "0.75": 74.25, "0.95": 94.05}
    assert x.histogram == (5,) * 20
    assert set(manifest.approximate) == {"distinct"}


def test_shards_are_of_bounded_size_and_the_same_at_any_memory_and_threads(tmp_path: Path) -> None:
    pq.write_table(rows(20_000), tmp_path / "a.parquet")
    _, one = prepared(tmp_path, "a.parquet", shard_bytes=65536)
    _, two = prepared(tmp_path, "a.parquet", shard_bytes=65536, workers=4)
    assert len(one.splits["train"].shards) > 5
    assert shards(one) == shards(two)


@given(
    warnings=st.lists(st.text(max_size=400), max_size=12),
    message=st.text(max_size=5000),
    classes=st.dictionaries(st.text(max_size=64), st.integers(0, 10**9), max_size=32),
)
def test_a_summary_fits_the_termination_message(warnings: list[str], message: str, classes: dict[str, int]) -> None:
    summary = DatasetSummary(
        outcome="DataError", exit_code=11, warnings=tuple(warnings), classes=classes,
        failure=Failure(type="DataError", message=message),
    )  # fmt: skip
    text = summary.to_message()
    assert len(text.encode()) <= 3072
    assert DatasetSummary.from_message(text) is not None


def test_the_memory_is_the_containers_less_what_others_need() -> None:
    assert command.memory_bytes(None) == 1024**3
    assert command.memory_bytes(512 * 1024**2) == int(192 * 1024**2 * 0.8)
    assert command.memory_bytes(128 * 1024**2) == 64 * 1024**2


@pytest.mark.parametrize(
    ("file", "content", "limit"),
    [
        ("memory.max", "536870912\n", 512 * 1024**2),
        ("memory.max", "max\n", None),
        ("memory/memory.limit_in_bytes", "536870912\n", 512 * 1024**2),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n", None),
        ("elsewhere", "1", None),
    ],
)
def test_the_limit_is_read_of_either_version_of_control_groups(
    tmp_path: Path, file: str, content: str, limit: int | None
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(content)
    assert limits.memory(tmp_path) == limit


@pytest.mark.parametrize("file", ["memory.peak", "memory/memory.max_usage_in_bytes"])
def test_the_peak_is_read_of_either_version_of_control_groups(tmp_path: Path, file: str) -> None:
    assert limits.memory_peak(tmp_path) is None
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("536608768\n")
    assert limits.binary(limits.memory_peak(tmp_path) or 0) == "511.8Mi"
    assert limits.binary(2 * 1024**3) == "2Gi"


def test_the_command_ends_with_the_outcome_and_its_words(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,label\n1,0\n2,1\n")
    run = DatasetRun(
        namespace="team", name="rows", source_uri=f"file://{tmp_path}/a.csv",
        store=StoreAccess(uri=f"file://{tmp_path}/store"), target="label", task="Classification",
        checks=Checks(min_rows=5),
    )  # fmt: skip
    (tmp_path / "message").touch()
    code = command.main(termination=tmp_path / "message", environment={"MODELWRIGHT_DATASET": run.to_json()})
    said = DatasetSummary.from_message((tmp_path / "message").read_text())
    assert code == Outcome.DATA_ERROR.code
    assert said is not None
    assert said.failure is not None
    assert (said.failed_checks, said.failure.type) == (True, "ChecksFailed")
    assert said.failure.message == "checks.minRows: the source has 2 rows, and 5 are asked for"


_LIMITED = """
import json, sys, time
from pathlib import Path
from modelwright.contract import StoreAccess
from modelwright.datasets import DatasetRun
from modelwright.store import Store
from modelwright_trainer import limits
from modelwright_trainer.dataset import command
folder, limit = Path(sys.argv[1]), int(sys.argv[2])
run = DatasetRun(namespace="team", name="rows", source_uri=f"file://{folder}/in/",
                 store=StoreAccess(uri=f"file://{folder}/store"), target="label", task="Classification")
(folder / "scratch").mkdir()
began = time.time()
summary = command.prepare(run, Store(run.store), folder / "scratch", command.memory_bytes(limit), 2)
print(json.dumps({"rows": summary.rows, "seconds": time.time() - began, "peak": limits.peak()}))
"""


@pytest.mark.long
def test_rows_of_several_times_the_memory_of_the_database_are_prepared_within_it(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """MODELWRIGHT_DATASET_BYTES and MODELWRIGHT_DATASET_LIMIT set the sizes: 5 GB under 512 MiB is the issue's bar."""
    import os

    size = int(os.environ.get("MODELWRIGHT_DATASET_BYTES", 400_000_000))
    limit = int(os.environ.get("MODELWRIGHT_DATASET_LIMIT", 416 * 1024**2))
    width, piece = 32, 100_000
    (tmp_path / "in").mkdir()
    count = 0
    while count * 8 * (width + 1) < size:
        generator = np.random.default_rng(count)
        columns = {f"x{index}": generator.normal(size=piece) for index in range(width)}
        labels = generator.integers(0, 10, piece)
        pq.write_table(pa.table({**columns, "label": labels}), tmp_path / "in" / f"{count:012}.parquet")
        count += piece
    ran = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(tmp_path), str(limit)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    print(f"{size / 1e9:g} GB under {limit / 2**20:g} MiB: {told}")
    assert told["rows"] == count
    assert told["peak"] <= limit
