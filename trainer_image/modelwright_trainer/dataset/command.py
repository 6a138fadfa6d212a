"""The command: from the source in the store to shards and a manifest in the store, through a scratch folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

import duckdb
from modelwright.contract import TERMINATION_PATH, Outcome, Published
from modelwright.datasets import (
    DATASET_VARIABLE,
    SUFFIXES,
    ClassCount,
    DatasetManifest,
    DatasetRun,
    DatasetSummary,
    PartName,
    Shard,
    SplitShards,
    digest_of,
    folder_uri,
    manifest_path,
    shard_path,
)
from modelwright.store import Store, StoreError, Trouble
from pydantic import ValidationError

from modelwright_trainer import limits
from modelwright_trainer.dataset import checks, parts, profile, shards, source
from modelwright_trainer.dataset.source import LocalFile, Source
from modelwright_trainer.failures import DataFailed, TrainingFailed, UserFailed, failure_of, outcome_of
from modelwright_trainer.split import PARTS

# Python, pyarrow, a shard that is written and the libraries' pages beside DuckDB, in bytes: measured 280 MiB.
_OTHERS = 320 * 1024 * 1024
_LEAST = 64 * 1024 * 1024
_UNLIMITED = 1024 * 1024 * 1024
_PER_THREAD = 96 * 1024 * 1024
_CLASSES_TOLD = 32


def memory_bytes(limit: int | None) -> int:
    """What DuckDB may take of the container's memory limit."""
    if limit is None:
        return _UNLIMITED
    # A part of what DuckDB takes is not in its own count.
    return max(_LEAST, int((limit - _OTHERS) * 0.8))


def connect(scratch: Path, memory: int, workers: int = 1) -> duckdb.DuckDBPyConnection:
    """A database in `scratch` that spills there; nothing is fetched from anywhere."""
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{memory // 1024}KiB",
        "temp_directory": str(scratch / "spill"),
        "threads": max(1, min(workers, memory // _PER_THREAD)),
        "preserve_insertion_order": True,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    con = duckdb.connect(str(scratch / "rows.duckdb"), config=settings)
    # A row group would be read whole, and pandas writes a million rows in one; and nothing is read twice.
    con.execute("SET disable_parquet_prefetching = true")
    con.execute("SET enable_external_file_cache = false")
    con.execute("SET enable_progress_bar = false")
    return con


def main(*, termination: Path = Path(TERMINATION_PATH), environment: Mapping[str, str] = os.environ) -> int:
    """The exit code; see `contract.Outcome`."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        # Nothing is half done in the store: the manifest comes last, and the rest is named by content.
        os._exit(Outcome.PREEMPTED.code)

    signal.signal(signal.SIGTERM, stop)
    try:
        run = _read(environment)
        with tempfile.TemporaryDirectory(prefix="modelwright-", ignore_cleanup_errors=True) as folder:
            summary = prepare(
                run, Store(run.store, environment), Path(folder), memory_bytes(limits.memory()), limits.threads(1)
            )
    except Exception as error:
        outcome, told = _failed(error)
        summary = DatasetSummary(
            outcome=outcome.reason,
            exit_code=outcome.code,
            failed_checks=isinstance(error, checks.ChecksFailed),
            failure=failure_of(told),
        )
    said = summary.failure.message if summary.failure else f"{summary.rows} rows"
    print(f"modelwright_trainer: {summary.outcome}{_memory_told()}: {said}", file=sys.stderr, flush=True)
    if termination.exists():
        termination.write_text(summary.to_message())
    return summary.exit_code


def _memory_told() -> str:
    peak, limit = limits.peak(), limits.memory()
    if peak is None:
        return ""
    return f" with {peak // 2**20} MiB of memory at most" + (f" (limit {limit // 2**20} MiB)" if limit else "")


def _read(environment: Mapping[str, str]) -> DatasetRun:
    try:
        return DatasetRun.model_validate_json(environment.get(DATASET_VARIABLE, ""))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserFailed(f"{DATASET_VARIABLE}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _failed(error: Exception) -> tuple[Outcome, Exception]:
    """DuckDB's own troubles in words that say what to change."""
    if isinstance(error, duckdb.OutOfMemoryException):
        words = (
            f"DuckDB needs more memory ({str(error).splitlines()[0][:300]}): raise the memory limit in spec.resources"
        )
        return Outcome.OUT_OF_MEMORY, TrainingFailed(Outcome.OUT_OF_MEMORY, words)
    if isinstance(error, duckdb.IOException) or (isinstance(error, OSError) and "No space left" in str(error)):
        words = (
            f"the scratch volume does not take the rows ({str(error).splitlines()[0][:300]}): give the node more room"
        )
        return Outcome.INFRASTRUCTURE, TrainingFailed(Outcome.INFRASTRUCTURE, words)
    return outcome_of(error), error


def prepare(
    run: DatasetRun, store: Store, scratch: Path, memory: int, workers: int = 1, shard_bytes: int = shards.SHARD_BYTES
) -> DatasetSummary:
    """Reads, checks, splits, profiles and writes the data set; `memory` is DuckDB's, in bytes.

    Raises DataFailed, ChecksFailed among them, StoreError, and DuckDB's own errors.
    """
    con = connect(scratch, memory, workers)
    try:
        read = _ingest(run, store, con, scratch)
        if not read.rows:
            raise DataFailed("source: it has no rows: there is nothing to train on")
        division, read = parts.division(con, read, run.split)
        kept, target, classes = checks.target(con, read, run.target, run.task)
        checks.check(con, kept, target, classes, run.checks)
        placed = parts.place(con, kept, target if classes else None, [rows for _, rows in classes], division)
        leaked = profile.leakage(con, kept)
        profiles = profile.profiles(con, kept.columns, kept.rows)
        folder = folder_uri(run.store.uri, run.namespace, run.name)
        splits = _upload(con, kept, placed, store, folder, scratch, shard_bytes)
    finally:
        con.close()
    manifest = DatasetManifest(
        namespace=run.namespace,
        name=run.name,
        source_uri=run.source_uri,
        part_uris=run.part_uris,
        sources=kept.files,
        target=run.target,
        task=run.task,
        split=run.split,
        checks=run.checks,
        rows=kept.rows,
        bytes=sum(shard.bytes for part in splits.values() for shard in part.shards),
        columns=profiles,
        classes=tuple(
            ClassCount.model_validate({"name": name, "rows": rows, "splits": counts})
            for (name, rows), counts in zip(classes, placed.by_class if classes else (), strict=True)
        ),
        splits={part: splits[part] for part in ("train", "validation", "test")},
        leakage=leaked,
        warnings=profile.warnings(profiles, classes, placed, leaked),
        approximate=profile.approximate(kept.rows),
        frameworks={name: importlib.metadata.version(name) for name in ("duckdb", "pyarrow")},
    )
    return _published(manifest, store, folder)


def _published(manifest: DatasetManifest, store: Store, folder: str) -> DatasetSummary:
    content = manifest.to_json().encode()
    digest = digest_of(content)
    uri = f"{folder}/{manifest_path(digest)}"
    try:
        store.create(uri, content)
    except StoreError as error:
        # Its name is its content: what stands there is this.
        if error.trouble is not Trouble.EXISTS:
            raise
    most = sorted(manifest.classes, key=lambda one: -one.rows)[:_CLASSES_TOLD]
    return DatasetSummary(
        outcome=Outcome.SUCCEEDED.reason,
        exit_code=Outcome.SUCCEEDED.code,
        manifest=Published(uri=uri, digest=digest),
        rows=manifest.rows,
        bytes=manifest.bytes,
        columns=len(manifest.columns),
        splits={part: shards_.rows for part, shards_ in manifest.splits.items()},
        class_count=len(manifest.classes),
        classes={one.name[:64]: one.rows for one in most},
        warnings=manifest.warnings,
    )


def _ingest(run: DatasetRun, store: Store, con: duckdb.DuckDBPyConnection, scratch: Path) -> Source:
    places: list[tuple[PartName | None, str]] = (
        [(None, run.source_uri)]
        if run.source_uri is not None
        else [(part, run.part_uris[part]) for part in PARTS if part in run.part_uris]
    )
    named = [(part, file) for part, uri in places for file in _uris(store, uri)]
    where = " and ".join(uri for _, uri in places)
    format_ = source.format_of([file for _, file in named], where)
    absent = next((uri for part, uri in places if not any(one == part for one, _ in named)), None)
    if absent:
        source.format_of((), absent)
    folder = scratch / "source"
    folder.mkdir(exist_ok=True)
    files = []
    for index, (part, uri) in enumerate(named):
        if uri.startswith("file://"):
            file = LocalFile(uri, Path(uri.removeprefix("file://")), part)
            if not file.path.is_file():
                raise DataFailed(f"source: {uri}: there is no such file: mend the URI, or mount its volume")
        else:
            file = LocalFile(uri, folder / f"{index}.{format_}", part, ours=True)
            _download(store, file)
        files.append(file)
    return source.ingest(con, files, format_)


def _download(store: Store, file: LocalFile) -> None:
    try:
        store.download(file.uri, file.path)
    except StoreError as error:
        if error.trouble in (Trouble.NO_OBJECT, Trouble.NO_BUCKET, Trouble.BAD_URI):
            raise DataFailed(f"source: {error}") from error
        raise


def _uris(store: Store, uri: str) -> list[str]:
    """The files of the source, in the order of their names."""
    if not uri.endswith("/"):
        return [uri]
    known = tuple(SUFFIXES)
    return [f"{uri}{name}" for name in store.names(uri) if name.lower().endswith(known)]


def _upload(
    con: duckdb.DuckDBPyConnection, read: Source, placed: parts.Parts, store: Store, folder: str, scratch: Path,
    shard_bytes: int,
) -> dict[str, SplitShards]:  # fmt: skip
    per_shard = shards.rows_per_shard(con, read.columns, read.rows, shard_bytes)
    listed: dict[str, list[Shard]] = {part: [] for part in PARTS}
    for part, path, rows in shards.written(con, read.columns, placed.rows, per_shard, scratch):
        digest, size = _digest(path)
        uri = f"{folder}/{shard_path(digest)}"
        if store.size(uri) != size:
            store.write(uri, path)
        path.unlink()
        listed[part].append(Shard(path=shard_path(digest), digest=digest, bytes=size, rows=rows))
    return {part: SplitShards(rows=placed.rows[part], shards=tuple(found)) for part, found in listed.items()}


def _digest(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}", path.stat().st_size
