"""What the columns are like, and what is suspicious about the rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import duckdb
from modelwright.datasets import ColumnProfile, Leakage

from modelwright_trainer.dataset.parts import PLACED, Parts
from modelwright_trainer.dataset.source import NUMBERS, TABLE, Column, Source, pieces
from modelwright_trainer.split import PARTS

SAMPLE_ROWS = 100_000
BINS = 20
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
WARNINGS = 12
_TEXT = 64
# At 385 rows, half of a 95 % interval around an accuracy of one half: the widest there is.
_TEST_WIDTH = 0.05
_IMBALANCE = 10


def approximate(rows: int) -> dict[str, str]:
    """The figures of a profile of `rows` rows that are no exact ones, and why."""
    told = {"distinct": "HyperLogLog: usually within a few percent"}
    if rows > SAMPLE_ROWS:
        told["quantiles"] = f"of {SAMPLE_ROWS} rows, drawn by the split's keys"
    return told


def profiles(con: duckdb.DuckDBPyConnection, columns: Sequence[Column], rows: int) -> tuple[ColumnProfile, ...]:
    """Of each column, in their order. The sample that quantiles are taken of is a function of content and seed."""
    sampled = ""
    if rows > SAMPLE_ROWS:
        con.execute(
            f"CREATE OR REPLACE TABLE sampled AS SELECT rid FROM {PLACED} ORDER BY key LIMIT {SAMPLE_ROWS}"  # noqa: S608
        )
        sampled = f"SEMI JOIN sampled ON {TABLE}.rowid = sampled.rid"
    made: list[ColumnProfile] = []
    for some in pieces(columns):
        answer = con.execute(f"SELECT {', '.join(_basics(column) for column in some)} FROM {TABLE}").fetchone() or ()  # noqa: S608
        numeric = [column for column in some if column.type in NUMBERS]
        quantiles: Sequence[Sequence[float] | None] = ()
        if numeric:
            asked = ", ".join(f"quantile_cont({column.sql}, {list(QUANTILES)}) {_finite(column)}" for column in numeric)
            quantiles = con.execute(f"SELECT {asked} FROM {TABLE} {sampled}").fetchone() or ()  # noqa: S608
        by_column = dict(zip((column.sql for column in numeric), quantiles, strict=True))
        for index, column in enumerate(some):
            missing, distinct, low, high, mean, infinite = answer[6 * index : 6 * index + 6]
            figures: dict[str, object] = {"minimum": _said(low), "maximum": _said(high)}
            if column.type in NUMBERS:
                at = by_column[column.sql]
                figures |= {
                    "mean": _rounded(mean),
                    "infinite": infinite,
                    "quantiles": {f"{q:g}": _rounded(v) for q, v in zip(QUANTILES, at, strict=True)} if at else None,
                    "histogram": _histogram(con, column, low, high),
                }
            made.append(
                ColumnProfile.model_validate(
                    {"name": column.name, "type": column.type, "missing": missing, "distinct": distinct, **figures}
                )
            )
    return tuple(made)


def _finite(column: Column) -> str:
    return f"FILTER (isfinite({column.sql}))" if column.type in ("DOUBLE", "FLOAT") else ""


def _basics(column: Column) -> str:
    sql, finite = column.sql, _finite(column)
    number = column.type in NUMBERS
    return (
        f"count(*) - count({sql}), approx_count_distinct({sql}), min({sql}) {finite}, max({sql}) {finite},"
        f" {f'avg({sql}) {finite}' if number else 'NULL'},"
        f" {f'count({sql}) - count({sql}) {finite}' if number else 'NULL'}"
    )


def _said(value: object) -> object:
    if isinstance(value, str):
        return value[:_TEXT]
    return str(value).lower() if isinstance(value, bool) else value


def _rounded(value: float | None) -> float | None:
    """Sums of floats depend on the order in which threads add; nine digits do not."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.9g}")


def _histogram(con: duckdb.DuckDBPyConnection, column: Column, low: float, high: float) -> tuple[int, ...] | None:
    if low is None:
        return None
    width = float(high) - float(low)
    if not width or not math.isfinite(width):
        return None
    bin_ = f"least({BINS - 1}, floor(({column.sql}::DOUBLE - ?) / ? * {BINS})::INT)"
    where = f"isfinite({column.sql})" if column.type in ("DOUBLE", "FLOAT") else f"{column.sql} IS NOT NULL"
    rows = con.execute(
        f"SELECT {bin_} AS bin, count(*) FROM {TABLE} WHERE {where} GROUP BY bin",  # noqa: S608
        [float(low), width],
    ).fetchall()
    counts = dict(rows)
    return tuple(int(counts.get(index, 0)) for index in range(BINS))


def leakage(con: duckdb.DuckDBPyConnection, source: Source) -> Leakage:
    """Equal rows in different parts; needs `repeated` and `placed`."""
    con.execute(
        f"CREATE OR REPLACE TABLE leaked AS SELECT h, count(*) AS rows, min(rid) AS first FROM repeated JOIN {PLACED}"  # noqa: S608
        " USING (rid) GROUP BY h HAVING count(DISTINCT part) > 1"
    )
    contents, rows = con.execute("SELECT count(*), coalesce(sum(rows), 0) FROM leaked").fetchone() or (0, 0)
    examples = []
    for (h,) in con.execute("SELECT h FROM leaked ORDER BY first LIMIT 3").fetchall():
        equal = con.execute(
            f"SELECT rid, part FROM repeated JOIN {PLACED} USING (rid) WHERE h = ? ORDER BY rid LIMIT 3",  # noqa: S608
            [h],
        ).fetchall()
        examples.append(tuple(f"{source.position(rid)} ({PARTS[part]})" for rid, part in equal))
    return Leakage(contents=int(contents), rows=int(rows), examples=tuple(examples))


def warnings(
    columns: Sequence[ColumnProfile], classes: Sequence[tuple[str, int]], parts: Parts, leaked: Leakage
) -> tuple[str, ...]:
    """What a person should look at, the gravest first; at most `WARNINGS`. `classes` are none where nothing is to be
    classified."""
    found = []
    if leaked.contents:
        such = " and ".join(leaked.examples[0]) if leaked.examples else ""
        found.append(
            f"leakage: {leaked.rows} rows have an equal one in another split, such as {such}: remove duplicates, or"
            " metrics of the test split tell too much"
        )
    constant = [column.name for column in columns if column.minimum == column.maximum and not column.infinite]
    found += _of_classes(classes, parts) if classes else ()
    if constant:
        found.append(f"constant: {_listed('column', constant)}: nothing can be learned from the same value in all rows")
    return tuple(found[:WARNINGS])


def _of_classes(classes: Sequence[tuple[str, int]], parts: Parts) -> list[str]:
    found = []
    total = sum(rows for _, rows in classes)
    smallest, fewest = min(classes, key=lambda one: one[1])
    largest, most = max(classes, key=lambda one: one[1])
    if most >= _IMBALANCE * fewest:
        found.append(
            f"class imbalance: class {smallest} has {fewest} of {total} rows, class {largest} has {most}: accuracy says"
            " little of the smaller ones"
        )
    test = parts.rows["test"]
    width = 1.96 * 0.5 / math.sqrt(test) if test else 0.0
    if width > _TEST_WIDTH:
        found.append(
            f"small test split: an accuracy measured on {test} rows is uncertain by up to ±{100 * width:.1f} percentage"
            " points (95 %): a gate cannot tell models apart that are closer"
        )
    for part in PARTS:
        absent = [name for (name, _), counts in zip(classes, parts.by_class, strict=True) if not counts[part]]
        if absent and parts.rows[part]:
            found.append(f"{part} split without {_listed('class', absent)}")
    return found


def _listed(what: str, names: Sequence[str]) -> str:
    several = what if len(names) == 1 else f"{len(names)} {what}{'es' if what.endswith('s') else 's'}"
    return f"{several} {', '.join(name[:40] for name in names[:5])}{', …' if len(names) > 5 else ''}"
