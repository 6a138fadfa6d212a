"""The rows of each part as parquet files of bounded size, in the order of their keys: the same rows give the same
bytes, and a reader from the front sees them shuffled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from modelwright_trainer.dataset.parts import PLACED
from modelwright_trainer.dataset.source import TABLE, Column, pieces

SHARD_BYTES = 64 * 1024 * 1024
"""Of a shard's values in memory; the file is smaller."""
# A writer holds one row group.
_GROUPS = 8
_WIDTHS = {"BIGINT": 8, "UBIGINT": 8, "DOUBLE": 8, "FLOAT": 4, "BOOLEAN": 1}
_ARROW = {
    "BIGINT": pa.int64(), "UBIGINT": pa.uint64(), "DOUBLE": pa.float64(), "FLOAT": pa.float32(), "BOOLEAN": pa.bool_(),
    "VARCHAR": pa.string(),
}  # fmt: skip


def rows_per_group(con: duckdb.DuckDBPyConnection, columns: Sequence[Column], shard_bytes: int = SHARD_BYTES) -> int:
    """How many rows a row group holds, from the mean width of a row; a shard has `_GROUPS` of them."""
    width = sum(_WIDTHS.get(column.type, 4) for column in columns)
    for some in pieces([column for column in columns if column.type == "VARCHAR"]):
        asked = " + ".join(f"coalesce(sum(strlen({column.sql})), 0)" for column in some)
        answer = con.execute(f"SELECT ({asked}) // greatest(count(*), 1) FROM {TABLE}").fetchone()  # noqa: S608
        width += int(answer[0]) if answer else 0
    return max(1, shard_bytes // _GROUPS // max(1, width))


def written(
    con: duckdb.DuckDBPyConnection, columns: Sequence[Column], part: int, group: int, folder: Path
) -> Iterator[tuple[Path, int]]:
    """Writes the shards of a part one after the other into `folder`, and gives each with its rows once it is whole."""
    schema = pa.schema([(column.name, _ARROW[column.type]) for column in columns])
    chosen = ", ".join(f"{TABLE}.{column.sql}" for column in columns)
    reader = (
        con.cursor()
        .sql(
            f"SELECT {chosen} FROM {TABLE} JOIN {PLACED} ON {TABLE}.rowid = {PLACED}.rid"  # noqa: S608
            f" WHERE {PLACED}.part = {part} ORDER BY {PLACED}.key"
        )
        .to_arrow_reader(min(group, 65536))
    )
    writer: pq.ParquetWriter | None = None
    path, rows, groups = folder / "shard.parquet", 0, 0
    for table in _groups(reader, schema, group):
        if writer is None:
            writer = pq.ParquetWriter(path, schema, compression="zstd", compression_level=1)
        writer.write_table(table, row_group_size=group)
        rows, groups = rows + table.num_rows, groups + 1
        if groups == _GROUPS:
            writer.close()
            yield path, rows
            writer, rows, groups = None, 0, 0
    if writer is not None:
        writer.close()
        yield path, rows


def _groups(reader: pa.RecordBatchReader, schema: pa.Schema, group: int) -> Iterator[pa.Table]:
    """The batches as tables of exactly `group` rows, but for the last."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in reader:
        held.append(batch)
        count += batch.num_rows
        while count >= group:
            whole = pa.Table.from_batches(held)
            yield whole.slice(0, group).rename_columns(schema.names).cast(schema)
            rest = whole.slice(group)
            held, count = (rest.to_batches() if rest.num_rows else []), rest.num_rows
    if count:
        yield pa.Table.from_batches(held).rename_columns(schema.names).cast(schema)
