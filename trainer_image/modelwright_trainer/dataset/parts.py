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

from modelwright_trainer.dataset.source import TABLE, Column
from modelwright_trainer.failures import DataFailed
from modelwright_trainer.split import PARTS, owing

PLACED = "placed"
"""The table of (rid, class, part, key), where `rid` is the row's number in the source's table, `class` and `part`
indices into the classes and into PARTS."""


@dataclasses.dataclass(frozen=True)
class Parts:
    """`by_class` are the rows of each class in each part, classes in their order."""

    by_class: tuple[Mapping[str, int], ...]

    @property
    def rows(self) -> dict[str, int]:
        return {part: sum(counts[part] for counts in self.by_class) for part in PARTS}


def place(
    con: duckdb.DuckDBPyConnection, columns: Sequence[Column], target: Column, classes: Sequence[int], split: Split
) -> Parts:
    """Makes `PLACED`, and `repeated` (h, rid, occurrence) of rows that have an equal one. `classes` are the rows of
    each class, in the order of their values. Raises DataFailed where a part that is asked for gets no row."""
    # An unlikely separator, and another word for "no value" than the empty text.
    content = ", chr(31), ".join(f"coalesce({_text(column)}, chr(30))" for column in columns)
    con.execute(
        f"CREATE TABLE keyed AS SELECT source.rowid AS rid, classes.id AS class, md5_number(concat({content})) AS h"  # noqa: S608
        f" FROM {TABLE} AS source JOIN classes ON source.{target.sql} = classes.value"
    )
    con.execute(
        "CREATE TABLE repeated AS SELECT h, rid, row_number() OVER (PARTITION BY h ORDER BY rid) - 1 AS occurrence"
        " FROM keyed SEMI JOIN (SELECT h FROM keyed GROUP BY h HAVING count(*) > 1) AS twice USING (h)"
    )
    # Ordered in an external sort and then counted in a stream: a window function would hold a whole class in memory.
    stratum = "class" if split.stratify else "0"
    # In halves: the text of a 128-bit number takes many times as long as those of two 64-bit ones.
    halves = "(keyed.h >> 64)::UBIGINT, '/', (keyed.h & 18446744073709551615::UHUGEINT)::UBIGINT"
    key = f"md5_number(concat('{split.seed}', '/', {halves}, '/', coalesce(repeated.occurrence, 0)))"
    in_order = f"SELECT keyed.rid, class, {stratum} AS stratum, {key} AS key FROM keyed LEFT JOIN repeated USING (rid)"  # noqa: S608
    con.execute(
        f"CREATE TABLE ordered AS SELECT *, row_number() OVER () - 1 AS nth FROM ({in_order} ORDER BY stratum, key)"  # noqa: S608
    )
    con.execute("DROP TABLE keyed")
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
    counts: list[dict[str, int]] = [dict.fromkeys(PARTS, 0) for _ in classes]
    for class_, part, count in con.execute(f"SELECT class, part, count(*) FROM {PLACED} GROUP BY ALL").fetchall():  # noqa: S608
        counts[class_][PARTS[part]] = count
    made = Parts(tuple(counts))
    for part in PARTS:
        if fractions[part] and not made.rows[part]:
            raise DataFailed(
                f"split.{part}: {fractions[part]:g} of {sum(classes)} rows is none: give more rows, or a larger part"
            )
    return made


def _text(column: Column) -> str:
    """The value as text. csv has no types: a column of 1.0, 2.0 may have been written as 1, 2, and is the same rows."""
    text = f"{column.sql}::VARCHAR"
    if column.type not in ("DOUBLE", "FLOAT"):
        return text
    return f"CASE WHEN suffix({text}, '.0') THEN left({text}, -2) ELSE {text} END"
