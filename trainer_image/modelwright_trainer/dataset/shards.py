"""The rows of each part as parquet files of bounded size, in the order of their keys: the same rows give the same
bytes, and a reader from the front sees them shuffled.

Whole rows are never sorted by the database: an external sort of wide rows needs more memory than a small pod has
(measured: 300 MB of rows failed with 77 MiB). Only their positions are; the rows then go, in one pass, each to the file
of its shard, which fits in memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from modelwright_trainer.dataset.parts import PLACED
from modelwright_trainer.dataset.source import TABLE, Column, pieces
from modelwright_trainer.split import PARTS

SHARD_BYTES = 32 * 1024 * 1024
"""Of a shard's values in memory; the file is smaller."""
# Each is an open file while the rows are dealt out.
_MOST_SHARDS = 500
_GROUPS = 8
_BATCH_ROWS = 32768
_WIDTHS = {"BIGINT": 8, "UBIGINT": 8, "DOUBLE": 8, "FLOAT": 4, "BOOLEAN": 1}
_ARROW = {
    "BIGINT": pa.int64(), "UBIGINT": pa.uint64(), "DOUBLE": pa.float64(), "FLOAT": pa.float32(), "BOOLEAN": pa.bool_(),
    "VARCHAR": pa.string(),
}  # fmt: skip
_POSITION = "position"


def rows_per_shard(
    con: duckdb.DuckDBPyConnection, columns: Sequence[Column], rows: int, shard_bytes: int = SHARD_BYTES
) -> int:
    """How many rows a shard holds, from the mean width of a row; more where there would be too many shards."""
    width = sum(_WIDTHS.get(column.type, 4) for column in columns)
    for some in pieces([column for column in columns if column.type == "VARCHAR"]):
        asked = " + ".join(f"coalesce(sum(strlen({column.sql})), 0)" for column in some)
        answer = con.execute(f"SELECT ({asked}) // greatest(count(*), 1) FROM {TABLE}").fetchall()  # noqa: S608
        width += int(answer[0][0])
    return max(1, shard_bytes // max(1, width), -(-rows // _MOST_SHARDS))


def written(
    con: duckdb.DuckDBPyConnection, columns: Sequence[Column], rows: Mapping[str, int], per_shard: int, folder: Path
) -> Iterator[tuple[str, Path, int]]:
    """Writes the shards, part by part, into `folder`; gives part, file and rows of each once it is whole. `rows` are
    those of each part. The file may be removed then."""
    schema = pa.schema([(column.name, _ARROW[column.type]) for column in columns])
    # Of numbers a dictionary is another copy: 5 GB of random ones became 5.7 (measured).
    words = [column.name for column in columns if column.type == "VARCHAR"]
    dealt = _dealt(con, columns, rows, per_shard, folder)
    for part, path in dealt:
        with pa.memory_map(str(path)) as mapped:
            table = pa.ipc.open_stream(mapped).read_all()
            order = np.argsort(table.column(_POSITION).to_numpy())
            table = table.drop_columns([_POSITION]).take(pa.array(order)).rename_columns(schema.names).cast(schema)
        path.unlink()
        made = folder / "shard.parquet"
        pq.write_table(
            table, made, compression="zstd", compression_level=1, row_group_size=max(1, per_shard // _GROUPS),
            use_dictionary=words,
        )  # fmt: skip
        count = table.num_rows
        del table
        yield part, made, count


def _dealt(
    con: duckdb.DuckDBPyConnection, columns: Sequence[Column], rows: Mapping[str, int], per_shard: int, folder: Path
) -> list[tuple[str, Path]]:
    """Deals the rows out to a file for each shard, with their positions in their part; in order of part and shard."""
    con.execute(
        f"CREATE TABLE positions AS SELECT rid, part, row_number() OVER () - 1 AS nth"  # noqa: S608
        f" FROM (SELECT rid, part FROM {PLACED} ORDER BY part, key)"
    )
    begins = np.cumsum([0, *(rows[part] for part in PARTS)])
    counts = [-(-rows[part] // per_shard) for part in PARTS]
    firsts = np.cumsum([0, *counts])
    paths = [folder / f"dealt-{index}.arrow" for index in range(int(firsts[-1]))]
    chosen = ", ".join(column.sql for column in columns)
    # Both in the order of the source's rows, and so without a join.
    batches = con.cursor().sql(f"SELECT {chosen} FROM {TABLE}").to_arrow_reader(_BATCH_ROWS)  # noqa: S608
    places = _places(con, "SELECT part, nth FROM positions ORDER BY rid")
    schema = batches.schema.append(pa.field(_POSITION, pa.int64()))
    with contextlib.ExitStack() as files:
        writers = [files.enter_context(pa.ipc.new_stream(str(path), schema)) for path in paths]
        next(places)
        for batch in batches:
            part, nth = places.send(batch.num_rows)
            position = nth - begins[part]
            shard = firsts[part] + position // per_shard
            order = np.argsort(shard, kind="stable")
            whole = batch.append_column(_POSITION, pa.array(position)).take(pa.array(order))
            ordered = shard[order]
            edges = np.flatnonzero(np.diff(ordered, prepend=-1))
            for begin, end in zip(edges, [*edges[1:], len(ordered)], strict=True):
                writers[ordered[begin]].write_batch(whole.slice(begin, end - begin))
    con.execute("DROP TABLE positions")
    return [(part, paths[firsts[index] + at]) for index, part in enumerate(PARTS) for at in range(counts[index])]


_Places = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def _places(con: duckdb.DuckDBPyConnection, query: str) -> Generator[_Places, int, None]:
    """Part and place of as many rows as are asked for with `send`, one call after the other."""
    reader = con.cursor().sql(query).to_arrow_reader(_BATCH_ROWS)
    held = np.empty((2, 0), dtype=np.int64)
    wanted = yield (held[0], held[1])
    while True:
        while held.shape[1] < wanted:
            batch = reader.read_next_batch()
            held = np.concatenate([held, np.stack([column.to_numpy().astype(np.int64) for column in batch.columns])], 1)
        given, held = held[:, :wanted], held[:, wanted:]
        wanted = yield (given[0], given[1])
