"""The data set: one parquet file, as a matrix of features and a vector of targets; and what is wrong with it."""

from __future__ import annotations

import dataclasses
import difflib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from modelwright import artifact
from modelwright.contract import WITHOUT_TARGET, Data, Split
from modelwright.store import Store, StoreError, Trouble

from modelwright_trainer.failures import DataFailed
from modelwright_trainer.split import PARTS, Rows, split

MOST_CLASSES = 10_000
Kind = type[np.float32] | type[np.int64]
"""What features are: numbers, or token ids."""


@dataclasses.dataclass(frozen=True)
class Table:
    """`features` are [rows, columns] float32, or token ids [rows, length] int64. `targets` [rows] are indices into
    `classes` as int64, or numbers as float32, or None where there is nothing to predict. Both may be memory-mapped:
    index them by the rows that are needed. `names` are the columns'; `digest` is of the file."""

    features: npt.NDArray[np.float32] | npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64] | npt.NDArray[np.float32] | None
    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    classes: tuple[str, ...]
    digest: str

    @property
    def rows(self) -> int:
        return len(self.features)


def load(store: Store, data: Data, kind: Kind = np.float32) -> Table:
    """Reads the data set; `kind` is what its features are. Raises DataFailed naming the column and the remedy,
    StoreError."""
    try:
        content = store.read(data.uri)
    except StoreError as error:
        if error.trouble in (Trouble.NO_OBJECT, Trouble.NO_BUCKET, Trouble.BAD_URI):
            raise DataFailed(f"data.uri: {error}") from error
        raise
    return table_of(content, data, kind)


def table_of(content: bytes, data: Data, kind: Kind = np.float32) -> Table:
    """The table in the bytes of a parquet file. Raises DataFailed."""
    read = _parquet(content, data.uri)
    names = _feature_names(read, data)
    features = features_of(read, names, data.uri, kind)
    targets: npt.NDArray[np.int64] | npt.NDArray[np.float32] | None = None
    classes: tuple[str, ...] = ()
    if data.task == "Classification":
        targets, classes = _classes(read, data)
    elif data.task not in WITHOUT_TARGET:
        targets = _quantities(read, data)
    return Table(
        features, targets, names, tuple(str(read.schema.field(name).type) for name in names), classes,
        artifact.digest_of(content),
    )  # fmt: skip


def divided(table: Table, wanted: Split) -> dict[str, Rows]:
    """The rows of each part. Raises DataFailed where a part that is asked for gets no row."""
    fractions = {part: float(getattr(wanted, part)) for part in PARTS}
    parts = split(table.rows, fractions, wanted.seed, table.targets if wanted.stratify and table.classes else None)
    for part, rows in parts.items():
        if fractions[part] and not len(rows):
            raise DataFailed(
                f"data.split.{part}: {fractions[part]:g} of {table.rows} rows is none: give more rows, or a larger part"
            )
    return parts


def features_of(read: pa.Table, names: Sequence[str], where: str, kind: Kind) -> npt.NDArray[Any]:
    """The columns, shape [rows, columns]: numbers, or token ids. Raises DataFailed."""
    column = tokens if kind is np.int64 else numbers
    return np.stack([column(read, name, where) for name in names], axis=1)


def _parquet(content: bytes, uri: str) -> pa.Table:
    if not content:
        raise DataFailed(f"data.uri: {uri} is empty (0 bytes): upload it again")
    try:
        read = pq.read_table(io.BytesIO(content))
    except (pa.ArrowException, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise DataFailed(
            f"data.uri: {uri} is no parquet file that can be read ({first}): write it as parquet"
        ) from error
    if read.num_rows == 0:
        raise DataFailed(f"data.uri: {uri} has no rows: there is nothing to train on")
    return read


def _feature_names(read: pa.Table, data: Data) -> tuple[str, ...]:
    there = list(read.column_names)
    twice = sorted({name for name in there if there.count(name) > 1})
    if twice:
        raise DataFailed(f"data.uri: column {twice[0]} occurs twice in {data.uri}: rename one")
    if data.target is None and data.task not in WITHOUT_TARGET:
        raise DataFailed(f"data.target: required with the task {data.task}; the columns are {', '.join(there[:10])}")
    if data.target is not None and data.target not in there:
        raise DataFailed(no_column("data.target", data.target, there))
    if data.features is None:
        names = tuple(name for name in there if name != data.target)
    else:
        names = data.features
        for name in names:
            if name not in there:
                raise DataFailed(no_column("data.features", name, there))
        if data.target in names:
            raise DataFailed(f"data.features: {data.target} is the target, and cannot be a feature too: remove it")
    if not names:
        if data.target is None:
            raise DataFailed(f"data.uri: {data.uri} has no column: there is nothing to learn from")
        raise DataFailed(
            f"data.uri: {data.uri} has no column but the target {data.target}: there is nothing to learn from"
        )
    return names


def no_column(field: str, name: str, there: list[str]) -> str:
    near = difflib.get_close_matches(name, there, n=1, cutoff=0.5)
    advice = f"; did you mean {near[0]}?" if near else ""
    listed = ", ".join(there[:10]) + (f", … ({len(there)} in all)" if len(there) > 10 else "")
    return f"{field}: there is no column {name}{advice} (the columns are {listed})"


def _missing(column: pa.ChunkedArray) -> int:
    count = int(column.null_count)
    return count + (int(pc.sum(pc.is_nan(column)).as_py() or 0) if pa.types.is_floating(column.type) else 0)


def numbers(read: pa.Table, name: str, uri: str) -> npt.NDArray[np.float32]:
    """A column as float32. Raises DataFailed."""
    column = read.column(name)
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DataFailed(
            f"column {name} of {uri} is {kind}, and a feature must be a number: encode it as numbers, or leave it out"
            " of data.features"
        )
    missing = _missing(column)
    if missing:
        raise DataFailed(
            f"column {name} of {uri} has no value in {missing} of {read.num_rows} rows: fill them, or drop the rows or"
            " the column"
        )
    numbers = column.cast(pa.float32(), safe=False).to_numpy() if not pa.types.is_boolean(kind) else None
    found = np.asarray(column.to_numpy() if numbers is None else numbers).astype(np.float32)
    if not np.isfinite(found).all():
        raise DataFailed(
            f"column {name} of {uri} has {int((~np.isfinite(found)).sum())} values that are infinite or beyond float32:"
            " clip or scale them"
        )
    return found


def tokens(read: pa.Table, name: str, uri: str) -> npt.NDArray[np.int64]:
    """A column of token ids. Raises DataFailed."""
    column = read.column(name)
    if not pa.types.is_integer(column.type):
        raise DataFailed(
            f"column {name} of {uri} is {column.type}, and a token id is a whole number: encode it, or leave it out"
        )
    missing = _missing(column)
    if missing:
        raise DataFailed(
            f"column {name} of {uri} has no token in {missing} of {read.num_rows} rows: write -1, which pads a row at"
            " its end"
        )
    return np.asarray(column.cast(pa.int64(), safe=False).to_numpy())


def _quantities(read: pa.Table, data: Data) -> npt.NDArray[np.float32]:
    """What is to be predicted, as numbers."""
    name = str(data.target)
    kind = read.column(name).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DataFailed(
            f"target {name} is {kind}, and a regression predicts a number: convert it, or take the task Classification"
        )
    missing = _missing(read.column(name))
    if missing:
        raise DataFailed(f"target {name} has no value in {missing} of {read.num_rows} rows: drop them, or fill them")
    found = numbers(read, name, data.uri)
    if (found == found[0]).all():
        raise DataFailed(f"target {name} is {found[0]:g} in all rows: there is nothing to predict")
    return found


def _classes(read: pa.Table, data: Data) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Class indices per row; the classes are all that occur, sorted by value."""
    name = str(data.target)
    column = read.column(name)
    kind = column.type
    missing = _missing(column)
    if missing:
        raise DataFailed(f"target {name} has no value in {missing} of {read.num_rows} rows: drop them, or label them")
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_floating(kind):
        whole = column.to_numpy()
        if not np.array_equal(whole, np.trunc(whole)):
            raise DataFailed(
                f"target {name} is {kind} with fractions, which are no classes: name another data.target, or cut it"
                " into classes"
            )
        column = column.cast(pa.int64())
    elif not (pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_string(kind)
              or pa.types.is_large_string(kind)):  # fmt: skip
        raise DataFailed(f"target {name} is {kind}, and classes are integers, booleans or strings: convert it")
    values, labels = np.unique(np.asarray(column.to_pylist()), return_inverse=True)
    if len(values) < 2:
        raise DataFailed(f"target {name} is {values[0]} in all rows: a classification needs two classes or more")
    if len(values) > MOST_CLASSES:
        raise DataFailed(
            f"target {name} has {len(values)} classes, and {MOST_CLASSES} is the most: is it an identifier?"
        )
    return labels.astype(np.int64), tuple(str(value) for value in values)
