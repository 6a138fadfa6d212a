"""The rows of a prepared Dataset: shards in the store, as memory-mapped arrays in the pod's scratch folder.

The manifest names each shard by its digest, and every digest is checked. The arrays hold the parts one after the other,
each in the order of its shards; what is trained on when is `order.py`'s alone. All ranks of a pod read the same arrays:
the first of them writes them, and the kernel keeps in memory as much of them as there is room for, so that rows may be
many times larger than it.
"""

from __future__ import annotations

import dataclasses
import errno
import mmap
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from modelwright.contract import WITHOUT_TARGET, Data, Outcome, Split, TrainingRun
from modelwright.datasets import DatasetManifest, Shard, digest_of, folder_of
from modelwright.store import Store, StoreError, Trouble
from modelwright.versions import Damaged
from pydantic import ValidationError

from modelwright_trainer.data import Kind, Table, features_of, no_column, numbers
from modelwright_trainer.failures import DataFailed, TrainingFailed
from modelwright_trainer.progressfile import replace
from modelwright_trainer.split import PARTS, Rows

_ALTERED = "it was altered in the store: remove it, then delete the Dataset and create it anew"
_POLL_SECONDS = 0.1
# By the types of a profile; a truth value is a number, too.
_NUMBERS = frozenset({"BIGINT", "UBIGINT", "DOUBLE", "FLOAT", "BOOLEAN"})


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A data set as its Dataset's Job has left it. `data` is what the run was told of it."""

    data: Data
    manifest: DatasetManifest

    @property
    def digest(self) -> str:
        return str(self.data.digest)

    @property
    def named(self) -> str:
        return f"Dataset {self.manifest.name}"

    @property
    def names(self) -> tuple[str, ...]:
        """The columns to learn from. Raises DataFailed."""
        there = [column.name for column in self.manifest.columns]
        names = self.data.features
        if names is None:
            names = tuple(name for name in there if name != self.manifest.target)
        for name in names:
            if name not in there:
                raise DataFailed(no_column("data.features", name, there))
        if not names:
            raise DataFailed(
                f"{self.named} has no column but the target {self.manifest.target}: there is nothing to learn from"
            )
        return names

    @property
    def parts(self) -> dict[str, Rows]:
        """The rows of each part in the table."""
        parts, begin = {}, 0
        for part in PARTS:
            rows = self.manifest.splits[part].rows
            parts[part] = np.arange(begin, begin + rows, dtype=np.int64)
            begin += rows
        return parts

    @property
    def shards(self) -> tuple[Shard, ...]:
        """In the order of the table's rows."""
        return tuple(shard for part in PARTS for shard in self.manifest.splits[part].shards)

    def resolved(self, run: TrainingRun) -> TrainingRun:
        """The run with what the manifest says of its data. Raises DataFailed."""
        manifest = self.manifest
        split = manifest.split if isinstance(manifest.split, Split) else None
        told: dict[str, Any] = {"target": manifest.target, "split": split}
        if run.data.task in WITHOUT_TARGET:
            told["target"] = None
        elif manifest.task is None:
            raise DataFailed(
                f"data.task: {self.named} has no target, and so no task: write {' or '.join(WITHOUT_TARGET)}"
            )
        else:
            told["task"] = manifest.task
        return run.model_copy(update={"data": run.data.model_copy(update=told)})


def read(store: Store, data: Data) -> Prepared:
    """The data set whose manifest is at `data.uri`, of `data.digest`. Raises DataFailed, Damaged, StoreError."""
    content = _stored(lambda: store.read(data.uri))
    if digest_of(content) != data.digest:
        raise Damaged(f"{data.uri}: the manifest is {digest_of(content)}, and {data.digest} was asked for: {_ALTERED}")
    try:
        return Prepared(data, DatasetManifest.model_validate_json(content))
    except ValidationError as error:
        first = error.errors()[0]
        raise DataFailed(
            f"{data.uri}: {'.'.join(map(str, first['loc']))}: {first['msg']}: delete the Dataset and create it anew"
        ) from error


def load(
    store: Store,
    prepared: Prepared,
    folder: Path,
    *,
    writes: bool,
    tell: Callable[[], None],
    kind: Kind = np.float32,
) -> Table:
    """The table, its arrays in files of `folder`, which the ranks of a pod share: the one that `writes` brings them,
    the others wait for it. `tell` is called at each step forward; `kind` is what the features are.

    Raises DataFailed naming the column and the remedy, Damaged, StoreError, TrainingFailed where the disk is full.
    """
    names, manifest = prepared.names, prepared.manifest
    folder.mkdir(parents=True, exist_ok=True)
    ready = folder / f"{prepared.digest.removeprefix('sha256:')}.ready"
    if writes and not ready.exists():
        _fit(prepared, names)
        _written(store, prepared, names, folder, tell, kind)
        replace(ready, "")
    while not ready.exists():
        time.sleep(_POLL_SECONDS)
    targets: Mapping[str, type[Any]] = {"Classification": np.int64, "Regression": np.float32}
    predicts = manifest.target is not None and prepared.data.task not in WITHOUT_TARGET
    types = {column.name: column.type for column in manifest.columns}
    return Table(
        _mapped(folder / "features", kind, (manifest.rows, len(names))),
        _mapped(folder / "targets", targets[manifest.task], (manifest.rows,)) if predicts else None,
        names,
        tuple(str(_ARROW[types[name]]) for name in names),
        tuple(one.name for one in manifest.classes) if predicts else (),
        prepared.digest,
    )


_ARROW: Mapping[str, pa.DataType] = {
    "BIGINT": pa.int64(), "UBIGINT": pa.uint64(), "DOUBLE": pa.float64(), "FLOAT": pa.float32(), "BOOLEAN": pa.bool_(),
}  # fmt: skip


def _mapped(path: Path, dtype: type[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    # Writable, as torch asks of what it takes without a copy, and shared, so that it counts as no memory of ours.
    with path.open("r+b") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0), dtype).reshape(shape)


def _fit(prepared: Prepared, names: tuple[str, ...]) -> None:
    """What the profile says of columns that are no features, before a byte of them is read."""
    rows = prepared.manifest.rows
    for column in prepared.manifest.columns:
        if column.name not in names:
            continue
        where = f"column {column.name} of {prepared.named}"
        if column.type not in _NUMBERS:
            raise DataFailed(
                f"{where} is text, and a feature must be a number: encode it as numbers, or leave it out of the source"
            )
        if column.missing:
            raise DataFailed(
                f"{where} has no value in {column.missing} of {rows} rows: fill them, or drop the rows or the column;"
                " checks.noMissing of the Dataset finds such rows"
            )
        if column.infinite:
            raise DataFailed(f"{where} has {column.infinite} values that are infinite: clip or scale them")


def _written(
    store: Store, prepared: Prepared, names: tuple[str, ...], folder: Path, tell: Callable[[], None], kind: Kind
) -> None:
    manifest = prepared.manifest
    needed = manifest.rows * (np.dtype(kind).itemsize * len(names) + 8) + max(shard.bytes for shard in prepared.shards)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise _full(f"{needed / 1e9:.1f} GB are needed, and {free / 1e9:.1f} GB are free")
    classes = {one.name: index for index, one in enumerate(manifest.classes)}
    path = folder / "shard.parquet"
    try:
        with (folder / "features").open("wb") as features, (folder / "targets").open("wb") as targets:
            for shard in prepared.shards:
                _fetched(store, f"{folder_of(prepared.data.uri)}/{shard.path}", shard, path)
                file = pq.ParquetFile(path)
                for group in range(file.num_row_groups):
                    rows = file.read_row_group(group)
                    for name in names:
                        if name not in rows.column_names:
                            raise Damaged(f"{prepared.data.uri}: {shard.path} has no column {name}: {_ALTERED}")
                    features_of(rows, names, prepared.named, kind).tofile(features)
                    if manifest.target and classes:
                        _indices(rows.column(manifest.target), classes).tofile(targets)
                    elif manifest.target:
                        numbers(rows, manifest.target, prepared.named).tofile(targets)
                path.unlink()
                tell()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _full(str(error)) from error
        raise


def _full(words: str) -> TrainingFailed:
    return TrainingFailed(
        Outcome.INFRASTRUCTURE,
        f"the scratch volume does not take the rows ({words}): give the nodes more room, or mount a larger volume at"
        " /tmp by workers.podTemplate",
    )


def _fetched(store: Store, uri: str, shard: Shard, path: Path) -> None:
    digest, size = _stored(lambda: store.download(uri, path))
    if (digest, size) != (shard.digest, shard.bytes):
        raise Damaged(f"{uri}: its content is {digest} of {size} bytes: {_ALTERED}")


def _stored(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except StoreError as error:
        if error.trouble in (Trouble.NO_OBJECT, Trouble.NO_BUCKET, Trouble.BAD_URI):
            raise DataFailed(f"{error}: what a Dataset has written is gone: delete it and create it anew") from error
        raise


def _indices(column: pa.ChunkedArray, classes: Mapping[str, int]) -> npt.NDArray[np.int64]:
    """Class indices by the values' names, as the manifest has them."""
    encoded = pc.dictionary_encode(column).combine_chunks()
    encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
    by_code = np.array([classes[str(value)] for value in encoded.dictionary.to_pylist()], dtype=np.int64)
    return by_code[encoded.indices.to_numpy()]
