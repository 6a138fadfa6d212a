"""What must hold of the rows: that the target is one of classes, and what the user asked for. What does not hold is
named with its rule, column, count, and positions in the source."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import duckdb
from modelwright.datasets import Checks, DatasetTask

from modelwright_trainer.data import MOST_CLASSES, no_column
from modelwright_trainer.dataset.source import NUMBERS, TABLE, Column, Source
from modelwright_trainer.failures import DataFailed

EXAMPLES = 3


class ChecksFailed(DataFailed):
    """Rows that are not as the user's own checks ask."""

    def __init__(self, found: Sequence[str]) -> None:
        super().__init__("; ".join(found))
        self.reason = "ChecksFailed"


def required(source: Source, name: str, field: str) -> Column:
    """Raises DataFailed with the nearest right name."""
    column = source.column(name)
    if column is None:
        raise DataFailed(no_column(field, name, [column.name for column in source.columns]))
    return column


def missing(con: duckdb.DuckDBPyConnection, source: Source, column: Column) -> str:
    """ "column label has no value in 12 of 1797 rows, such as …"; empty where each row has one."""
    count, *_ = con.execute(f"SELECT count(*) FROM {TABLE} WHERE {column.sql} IS NULL").fetchone() or (0,)  # noqa: S608
    if not count:
        return ""
    where = f"{column.sql} IS NULL"
    return f"column {column.name} has no value in {count} of {source.rows} rows, such as {examples(con, source, where)}"


def target(
    con: duckdb.DuckDBPyConnection, source: Source, name: str | None, task: DatasetTask | None
) -> tuple[Source, Column | None, list[tuple[str, int]]]:
    """The column to predict, where there is one, and its classes with their rows, where it has any. The source may be
    another then, see `classes`. Raises DataFailed."""
    if name is None:
        return source, None, []
    column = required(source, name, "schema.target")
    absent = missing(con, source, column)
    if absent:
        raise DataFailed(f"schema.target: {absent}: drop these rows, or label them")
    if task == "Classification":
        source, found = classes(con, source, column)
        return source, source.column(name), found
    _number(con, source, column)
    return source, column, []


def _number(con: duckdb.DuckDBPyConnection, source: Source, column: Column) -> None:
    """Raises DataFailed where the column is nothing to predict as a number."""
    if column.type not in NUMBERS:
        raise DataFailed(
            f"schema.target: column {column.name} is {column.type}, and a Regression predicts a number: name another"
            " target, or make it a Classification"
        )
    if column.type in ("DOUBLE", "FLOAT"):
        where = f"NOT isfinite({column.sql})"
        count, *_ = con.execute(f"SELECT count(*) FROM {TABLE} WHERE {where}").fetchone() or (0,)  # noqa: S608
        if count:
            raise DataFailed(
                f"schema.target: column {column.name} is infinite in {count} of {source.rows} rows, such as"
                f" {examples(con, source, where)}: drop these rows, or clip the values"
            )
    low, high = con.execute(f"SELECT min({column.sql}), max({column.sql}) FROM {TABLE}").fetchone() or (0, 0)  # noqa: S608
    if low == high:
        raise DataFailed(f"schema.target: column {column.name} is {low} in all rows: there is nothing to predict")


def classes(con: duckdb.DuckDBPyConnection, source: Source, target: Column) -> tuple[Source, list[tuple[str, int]]]:
    """The classes with their rows, in the order of their values; makes the table `classes` (id, value, rows). Whole
    numbers that were written as 1.0 become whole, as the trainer reads them, so the source may be another then. Raises
    DataFailed."""
    if target.type in ("DOUBLE", "FLOAT"):
        fractions = f"NOT isfinite({target.sql}) OR {target.sql} != trunc({target.sql})"
        count, *_ = con.execute(f"SELECT count(*) FROM {TABLE} WHERE {fractions}").fetchone() or (0,)  # noqa: S608
        if count:
            raise DataFailed(
                f"schema.target: column {target.name} is {target.type} with fractions in {count} rows, such as"
                f" {examples(con, source, fractions)}, which are no classes: name another target, or cut it into"
                " classes"
            )
        con.execute(f"ALTER TABLE {TABLE} ALTER {target.sql} TYPE BIGINT")
        whole = dataclasses.replace(target, type="BIGINT")
        source = dataclasses.replace(
            source, columns=tuple(whole if column == target else column for column in source.columns)
        )
    distinct, *_ = con.execute(
        f"SELECT count(*) FROM (SELECT DISTINCT {target.sql} FROM {TABLE} LIMIT {MOST_CLASSES + 1})"  # noqa: S608
    ).fetchone() or (0,)
    if distinct > MOST_CLASSES:
        raise DataFailed(
            f"schema.target: column {target.name} has more than {MOST_CLASSES} classes: is it an identifier?"
        )
    con.execute(
        f"CREATE TABLE classes AS SELECT row_number() OVER (ORDER BY value) - 1 AS id, value, rows FROM"  # noqa: S608
        f" (SELECT {target.sql} AS value, count(*) AS rows FROM {TABLE} GROUP BY value)"
    )
    found = con.execute("SELECT value, rows FROM classes ORDER BY id").fetchall()
    if len(found) < 2:
        raise DataFailed(
            f"schema.target: column {target.name} is {found[0][0]} in all rows: a classification needs two"
            " classes or more"
        )
    return source, [(str(value), int(rows)) for value, rows in found]


def check(
    con: duckdb.DuckDBPyConnection,
    source: Source,
    target: Column | None,
    found: Sequence[tuple[str, int]],
    asked: Checks,
) -> None:
    """`found` are the classes of the target, where it has any. Raises ChecksFailed with all that does not hold,
    DataFailed where a column does not exist."""
    wrong = []
    if asked.min_rows is not None and source.rows < asked.min_rows:
        wrong.append(f"checks.minRows: the source has {source.rows} rows, and {asked.min_rows} are asked for")
    for name in asked.no_missing:
        absent = missing(con, source, required(source, name, "checks.noMissing"))
        if absent:
            wrong.append(f"checks.noMissing: {absent}")
    for name in asked.unique:
        wrong += _repeated(con, source, required(source, name, "checks.unique"))
    for index, (name, rows) in enumerate(found if target else ()):
        if asked.min_class_fraction is not None and rows < asked.min_class_fraction * source.rows:
            where = f"{target.sql} = (SELECT value FROM classes WHERE id = {index})"  # noqa: S608
            wrong.append(
                f"checks.minClassFraction: column {target.name}: class {name} has {rows} of {source.rows} rows"
                f" ({rows / source.rows:.4g}), and {asked.min_class_fraction:g} is asked for, such as"
                f" {examples(con, source, where)}"
            )
    if wrong:
        raise ChecksFailed(wrong)


def _repeated(con: duckdb.DuckDBPyConnection, source: Source, column: Column) -> list[str]:
    twice = f"SELECT {column.sql} AS value FROM {TABLE} GROUP BY value HAVING count(*) > 1 AND value IS NOT NULL"  # noqa: S608
    con.execute(f"CREATE OR REPLACE TABLE twice AS {twice}")
    count, *_ = con.execute(
        f"SELECT count(*) FROM {TABLE} SEMI JOIN twice ON {column.sql} = value"  # noqa: S608
    ).fetchone() or (0,)
    if not count:
        return []
    where = f"{column.sql} = (SELECT min(value) FROM twice)"  # noqa: S608
    return [
        f"checks.unique: column {column.name} has in {count} of {source.rows} rows a value that another row has too,"
        f" such as {examples(con, source, where)}"
    ]


def examples(con: duckdb.DuckDBPyConnection, source: Source, where: str) -> str:
    rows = con.execute(f"SELECT rowid FROM {TABLE} WHERE {where} ORDER BY rowid LIMIT {EXAMPLES}").fetchall()  # noqa: S608
    return ", ".join(source.position(rid) for (rid,) in rows)
