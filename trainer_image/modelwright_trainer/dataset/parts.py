"""Which row is in which part: a function of the rows' content and the seed, and of nothing else.

Each row has a key, a hash of its content, of the seed, and of how many equal rows came before it; the rows with the
smallest keys of each class are for training, the next for validation, the rest for test. So however the source is
divided into files, the same rows are in the same parts, and, ordered by key, in the same order. MD5 stands for a random
function that no version of a library changes; it defends nothing here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import duckdb
from modelwright.contract import Split
from modelwright.datasets import Given

from modelwright_trainer.dataset import checks
from modelwright_trainer.dataset.source import TABLE, Column, Source, literal
from modelwright_trainer.failures import DataFailed
from modelwright_trainer.split import PARTS, owing

PLACED = "placed"
"""The table of (rid, class, part, key), where `rid` is the row's number in the source's table, `class` and `part`
indices into the classes and into PARTS. Where there are no classes all rows are of one."""
SPELLINGS: Mapping[str, Sequence[str]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval"),
}
"""How a column may name the parts."""


@dataclasses.dataclass(frozen=True)
class Division:
    """How rows come into their parts: by `fractions`, or as `given` says, an expression of SQL over the source's table,
    of which the value is an index into PARTS. `field` is the user's, for messages."""

    seed: int
    fractions: Split | None = None
    given: str = ""
    field: str = "split"


@dataclasses.dataclass(frozen=True)
class Parts:
    """`by_class` are the rows of each class in each part, classes in their order; of all rows where there are none."""

    by_class: tuple[Mapping[str, int], ...]

    @property
    def rows(self) -> dict[str, int]:
        return {part: sum(counts[part] for counts in self.by_class) for part in PARTS}


def division(con: duckdb.DuckDBPyConnection, source: Source, split: Split | Given) -> tuple[Division, Source]:
    """How the rows are divided, and the source without the column that says so. Raises DataFailed."""
    if isinstance(split, Split):
        return Division(split.seed, split), source
    if split.column is None:
        begin, whens = 0, []
        for file in source.files:
            begin += file.rows
            whens.append(f"WHEN rowid < {begin} THEN {PARTS.index(str(file.part))}")
        return Division(split.seed, given=f"CASE {' '.join(whens)} END", field="source"), source
    column = checks.required(source, split.column, "split.column")
    absent = checks.missing(con, source, column)
    if absent:
        raise DataFailed(f"split.column: {absent}: say of each row which part it is in")
    said = f"lower(trim({column.sql}::VARCHAR))"
    whens = [
        f"WHEN {said} IN ({', '.join(map(literal, SPELLINGS[part]))}) THEN {index}" for index, part in enumerate(PARTS)
    ]
    given = f"CASE {' '.join(whens)} END"
    count, other = con.execute(
        f"SELECT count(*), min({column.sql}::VARCHAR) FROM {TABLE} WHERE {given} IS NULL"  # noqa: S608
    ).fetchone() or (0, None)
    if count:
        where = checks.examples(con, source, f"{given} IS NULL")
        raise DataFailed(
            f"split.column: column {column.name} names no part in {count} of {source.rows} rows, such as {where}"
            f" ({str(other)[:40]}): write train, validation or test"
        )
    return Division(split.seed, given=given, field="split.column"), source.without(column)


def place(
    con: duckdb.DuckDBPyConnection, source: Source, target: Column | None, classes: Sequence[int], division: Division
) -> Parts:
    """Makes `PLACED`, and `repeated` (h, rid, occurrence) of rows that have an equal one. `classes` are the rows of
    each class of the target, in the order of their values; without a target they are none. Raises DataFailed where a
    part that is asked for gets no row."""
    # An unlikely separator, and another word for "no value" than the empty text.
    content = ", chr(31), ".join(f"coalesce({_text(column)}, chr(30))" for column in source.columns)
    given = division.given or "NULL"
    value = target.sql if target else "0"
    rows = f"SELECT rowid AS rid, {value} AS value, {given} AS part, md5_number(concat({content})) AS h FROM {TABLE}"  # noqa: S608
    joined = "JOIN classes USING (value)" if target else ""
    con.execute(
        f"CREATE TABLE keyed AS SELECT rid, {'classes.id' if target else '0'} AS class, part, h FROM ({rows}) {joined}"  # noqa: S608
    )
    con.execute(
        "CREATE TABLE repeated AS SELECT h, rid, row_number() OVER (PARTITION BY h ORDER BY rid) - 1 AS occurrence"
        " FROM keyed SEMI JOIN (SELECT h FROM keyed GROUP BY h HAVING count(*) > 1) AS twice USING (h)"
    )
    # In halves: the text of a 128-bit number takes many times as long as those of two 64-bit ones.
    halves = "(keyed.h >> 64)::UBIGINT, '/', (keyed.h & 18446744073709551615::UHUGEINT)::UBIGINT"
    key = f"md5_number(concat('{division.seed}', '/', {halves}, '/', coalesce(repeated.occurrence, 0)))"
    with_keys = f"SELECT keyed.rid, class, part, {key} AS key FROM keyed LEFT JOIN repeated USING (rid)"  # noqa: S608
    counts = classes or [source.rows]
    if division.fractions is None:
        con.execute(f"CREATE TABLE {PLACED} AS SELECT rid, class, part::TINYINT AS part, key FROM ({with_keys})")  # noqa: S608
    else:
        _cut(con, with_keys, counts, division.fractions)
    con.execute("DROP TABLE keyed")
    return _counted(con, len(counts), source.rows, division)


def _cut(con: duckdb.DuckDBPyConnection, with_keys: str, classes: Sequence[int], split: Split) -> None:
    """The parts by fractions, of each class by itself where they are stratified."""
    # Ordered in an external sort and then counted in a stream: a window function would hold a whole class in memory.
    stratum = "class" if split.stratify else "0"
    con.execute(
        f"CREATE TABLE ordered AS SELECT *, row_number() OVER () - 1 AS nth"  # noqa: S608
        f" FROM (SELECT rid, class, {stratum} AS stratum, key FROM ({with_keys}) ORDER BY stratum, key)"
    )
    strata = tuple(classes) if split.stratify else (sum(classes),)
    con.execute("CREATE TABLE cuts (stratum BIGINT, validation BIGINT, test BIGINT)")
    fractions = {part: float(getattr(split, part)) for part in PARTS}
    owed, begin = dict.fromkeys(PARTS, 0.0), 0
    for stratum_, count in enumerate(strata):
        shares = owing(count, fractions, owed)
        validation = begin + shares["train"]
        con.execute("INSERT INTO cuts VALUES (?, ?, ?)", [stratum_, validation, validation + shares["validation"]])
        begin += count
    part_of = "(nth >= validation)::TINYINT + (nth >= test)::TINYINT"
    con.execute(
        f"CREATE TABLE {PLACED} AS SELECT rid, class, {part_of} AS part, key FROM ordered JOIN cuts USING (stratum)"  # noqa: S608
    )
    con.execute("DROP TABLE ordered")


def _counted(con: duckdb.DuckDBPyConnection, classes: int, rows: int, division: Division) -> Parts:
    counts: list[dict[str, int]] = [dict.fromkeys(PARTS, 0) for _ in range(classes)]
    for class_, part, count in con.execute(f"SELECT class, part, count(*) FROM {PLACED} GROUP BY ALL").fetchall():  # noqa: S608
        counts[class_][PARTS[part]] = count
    made = Parts(tuple(counts))
    for part in PARTS:
        if made.rows[part]:
            continue
        if division.fractions is None:
            # Without validation one can do.
            if part != "validation":
                raise DataFailed(f"{division.field}: no row is for {part}: name some, or give fractions in split")
        elif asked := float(getattr(division.fractions, part)):
            raise DataFailed(f"split.{part}: {asked:g} of {rows} rows is none: give more rows, or a larger part")
    return made


def _text(column: Column) -> str:
    """The value as text. csv has no types: a column of 1.0, 2.0 may have been written as 1, 2, and is the same rows."""
    text = f"{column.sql}::VARCHAR"
    if column.type not in ("DOUBLE", "FLOAT"):
        return text
    return f"CASE WHEN suffix({text}, '.0') THEN left({text}, -2) ELSE {text} END"
