"""The source: parquet, csv or jsonl files, read into one table on disk whose content does not depend on how the rows
were laid out in files, nor on their format.

Types are inferred over all files: a column whose first file has whole numbers and whose second has text is text in
both. csv is RFC 4180 with a header; an empty field is a missing value. NaN is a missing value. Dates and times are kept
as text. Column names stay outside of SQL: the table's columns are c0, c1, ….
"""

from __future__ import annotations

import bisect
import csv
import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import duckdb
from modelwright.datasets import SUFFIXES, PartName, SourceFile

from modelwright_trainer.failures import DataFailed

T = TypeVar("T")
TABLE = "source"
NUMBERS = frozenset({"BIGINT", "UBIGINT", "DOUBLE", "FLOAT"})
_WHOLE = frozenset(
    {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}
)  # each fits into BIGINT
# One query over all columns of a wide table would take more memory than the rows do.
COLUMNS_AT_ONCE = 64
# Nothing is guessed: a guess would differ between the files that the same rows are divided into.
_CSV = "auto_detect=false, header=true, delim=',', quote='\"', escape='\"', nullstr=''"


@dataclasses.dataclass(frozen=True)
class LocalFile:
    """A file of the source, where it can be read from. `part` is the one that all its rows are in, where the user says
    so; `ours` is a copy, which goes once it was read."""

    uri: str
    path: Path
    part: PartName | None = None
    ours: bool = False


@dataclasses.dataclass(frozen=True)
class Column:
    """`sql` is its name in the table, `name` the user's; `type` is DuckDB's."""

    sql: str
    name: str
    type: str


@dataclasses.dataclass(frozen=True)
class Source:
    """The table's columns and the files that its rows came from, in their order."""

    columns: tuple[Column, ...]
    files: tuple[SourceFile, ...]

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    def without(self, column: Column) -> Source:
        """The same rows, of which that column is no part."""
        return dataclasses.replace(self, columns=tuple(one for one in self.columns if one != column))

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)

    def position(self, rid: int) -> str:
        """Where row `rid` of the table was, rows of a file counted from 1: "row 17 of part-0.csv"."""
        ends = list(itertools.accumulate(file.rows for file in self.files))
        index = bisect.bisect_right(ends, rid)
        name = self.files[index].uri.rsplit("/", 1)[-1]
        return f"row {rid - (ends[index] - self.files[index].rows) + 1} of {name}"


def format_of(names: Sequence[str], uri: str) -> str:
    """The one format of these files. Raises DataFailed."""
    if not names:
        known = ", ".join(SUFFIXES)
        raise DataFailed(f"source: below {uri} there is no file that ends with one of {known}: upload the rows")
    formats = {name: SUFFIXES["." + name.rsplit(".", 1)[-1].lower()] for name in names}
    found = sorted(set(formats.values()))
    if len(found) > 1:
        raise DataFailed(
            f"source: below {uri} there are files of several formats ({', '.join(found)}): give each a prefix of"
            " its own"
        )
    return found[0]


def ingest(con: duckdb.DuckDBPyConnection, files: Sequence[LocalFile], format_: str) -> Source:
    """Reads the files into `TABLE`, whose rowid follows their order.

    Raises DataFailed naming the file and what is wrong with it.
    """
    for file in files:
        if file.path.stat().st_size == 0:
            raise DataFailed(f"{file.uri} is empty (0 bytes): upload it again")
    columns = _columns(con, files, format_)
    con.execute(f"CREATE TABLE {TABLE} ({', '.join(f'{column.sql} {column.type}' for column in columns)})")
    read = []
    for file in files:
        size = file.path.stat().st_size
        select = f"SELECT {', '.join(_cast(column) for column in columns)} FROM {_reader(file, format_, columns)}"  # noqa: S608
        count = _execute(con, file, format_, f"INSERT INTO {TABLE} {select}").fetchone()
        read.append(SourceFile(uri=file.uri, bytes=size, rows=int(count[0]) if count else 0, part=file.part))
        if file.ours:
            file.path.unlink()
    return Source(columns, tuple(read))


def quoted(name: str) -> str:
    """As an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: object) -> str:
    """As a string of SQL."""
    return "'" + str(text).replace("'", "''") + "'"


def _reader(file: LocalFile, format_: str, columns: Sequence[Column] = ()) -> str:
    path = literal(file.path)
    if format_ == "parquet":
        return f"read_parquet({path})"
    if format_ == "csv":
        stated = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in _header(file))
        return f"read_csv({path}, {_CSV}, columns={{{stated}}})"
    # A key that a line lacks is a missing value: only said columns are read so.
    stated = ", ".join(f"{literal(column.name)}: {literal(column.type)}" for column in columns)
    return f"read_json({path}, format='newline_delimited', columns={{{stated}}})"


def _header(file: LocalFile) -> list[str]:
    """The names in the first record of a csv file. Raises DataFailed."""
    try:
        with file.path.open(encoding="utf-8-sig", newline="") as lines:
            names = next(csv.reader(lines))
    except (UnicodeDecodeError, csv.Error, StopIteration) as error:
        raise DataFailed(
            f"{file.uri} has no header that can be read: write it as UTF-8, names in the first line"
        ) from error
    wrong = [name for name in names if not name.strip() or names.count(name) > 1]
    if wrong or not names:
        said = f"column {wrong[0]} twice" if wrong and wrong[0].strip() else "a column without a name"
        raise DataFailed(f"{file.uri} has {said} in its header: name each column once")
    return names


def _cast(column: Column) -> str:
    read = f"CAST({quoted(column.name)} AS {column.type})"
    if column.type in ("DOUBLE", "FLOAT"):
        return f"CASE WHEN isnan({read}) THEN NULL ELSE {read} END"
    return read


def _execute(con: duckdb.DuckDBPyConnection, file: LocalFile, format_: str, sql: str) -> duckdb.DuckDBPyConnection:
    try:
        return con.execute(sql)
    except (duckdb.OutOfMemoryException, duckdb.IOException):
        raise
    except duckdb.Error as error:
        said = " ".join(line.strip() for line in str(error).splitlines()[:4]).replace(str(file.path), file.uri)
        raise DataFailed(
            f"{file.uri} cannot be read as {format_} ({said[:600]}): mend it, and upload it again"
        ) from error


def _columns(con: duckdb.DuckDBPyConnection, files: Sequence[LocalFile], format_: str) -> tuple[Column, ...]:
    if format_ == "jsonl":
        told = _described_json(con, files)
    else:
        told = _described(con, files, format_)
        if format_ == "csv":
            told = _inferred(con, files, list(told))
    return tuple(Column(f"c{index}", name, type_) for index, (name, type_) in enumerate(told.items()))


def _described(con: duckdb.DuckDBPyConnection, files: Sequence[LocalFile], format_: str) -> dict[str, str]:
    """The columns of all files, which must have the same."""
    told: dict[str, str] = {}
    for file in files:
        rows = _execute(con, file, format_, f"DESCRIBE SELECT * FROM {_reader(file, format_)}").fetchall()  # noqa: S608
        there = {name: _kept(name, type_, file) for name, type_, *_ in rows}
        if not told:
            told, first = there, file
        for name in sorted(set(told) ^ set(there)):
            with_, without = (first, file) if name in told else (file, first)
            raise DataFailed(
                f"column {name} is in {with_.uri} and not in {without.uri}: give all files the same columns"
            )
        told = {name: _common(type_, there[name]) for name, type_ in told.items()}
    return told


def _described_json(con: duckdb.DuckDBPyConnection, files: Sequence[LocalFile]) -> dict[str, str]:
    paths = ", ".join(literal(file.path) for file in files)
    options = f"format='newline_delimited', union_by_name=true, sample_size=-1, maximum_sample_files={len(files)}"
    described = f"DESCRIBE SELECT * FROM read_json([{paths}], {options})"  # noqa: S608
    rows = _execute(con, files[0], "jsonl", described).fetchall()
    return {name: _kept(name, type_, files[0]) for name, type_, *_ in rows}


def _kept(name: str, type_: str, file: LocalFile) -> str:
    """The type that a column is kept as."""
    if type_ in _WHOLE:
        return "BIGINT"
    if type_ in ("UBIGINT", "FLOAT", "DOUBLE", "BOOLEAN"):
        return type_
    if type_.startswith("DECIMAL") or type_ in ("HUGEINT", "UHUGEINT"):
        return "DOUBLE"
    if type_.endswith("]") or type_.startswith(("STRUCT", "MAP", "UNION")) or type_ == "BLOB":
        raise DataFailed(
            f"column {name} of {file.uri} is {type_[:60]}, and a column holds one number, truth value or text: flatten"
            " it, or leave it out"
        )
    return "VARCHAR"


def _common(one: str, other: str) -> str:
    if one == other:
        return one
    return "DOUBLE" if {one, other} <= NUMBERS else "VARCHAR"


def _inferred(con: duckdb.DuckDBPyConnection, files: Sequence[LocalFile], names: Sequence[str]) -> dict[str, str]:
    """Types of text columns by all their values; a column without any value is text."""
    seen = {name: {"BIGINT": True, "DOUBLE": True, "BOOLEAN": True, "values": False} for name in names}
    for file in files:
        for some in pieces(names):
            asked = ", ".join(_questions(quoted(name)) for name in some)
            answer = _execute(con, file, "csv", f"SELECT {asked} FROM {_reader(file, 'csv')}").fetchone() or ()  # noqa: S608
            for index, name in enumerate(some):
                whole, number, truth, values = answer[4 * index : 4 * index + 4]
                if values:
                    so_far = seen[name]
                    so_far["BIGINT"] &= bool(whole)
                    so_far["DOUBLE"] &= bool(number)
                    so_far["BOOLEAN"] &= bool(truth)
                    so_far["values"] = True
    return {
        name: next((type_ for type_ in ("BIGINT", "DOUBLE", "BOOLEAN") if told["values"] and told[type_]), "VARCHAR")
        for name, told in seen.items()
    }


def _questions(column: str) -> str:
    return (
        # A cast alone would round 1.5 to a whole number.
        f"bool_and(regexp_full_match({column}, '[+-]?[0-9]+') AND TRY_CAST({column} AS BIGINT) IS NOT NULL),"
        f" bool_and(TRY_CAST({column} AS DOUBLE) IS NOT NULL) FILTER ({column} IS NOT NULL),"
        f" bool_and(lower({column}) IN ('true', 'false')), count({column}) > 0"
    )


def pieces(names: Sequence[T]) -> list[Sequence[T]]:
    """In groups for one query each."""
    return [names[at : at + COLUMNS_AT_ONCE] for at in range(0, len(names), COLUMNS_AT_ONCE)]
