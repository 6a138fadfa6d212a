"""Published versions on the rows of a prepared data set: what they were trained on, or another that is named."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from modelwright import versions
from modelwright.artifact import (
    CLUSTER,
    LOGITS,
    PREDICTION,
    PROBABILITIES,
    RECONSTRUCTION,
    SCORE,
    DataLineage,
    Manifest,
    Onnx,
)
from modelwright.contract import WITHOUT_TARGET, Data, Split, Task
from modelwright.datasets import DatasetManifest, manifest_path
from modelwright.derivation import NamedData, Origin, Size
from modelwright.store import Store
from modelwright.versions import Damaged

from modelwright_trainer import data, metrics, onnxgraph, shards
from modelwright_trainer.data import Table
from modelwright_trainer.failures import DataFailed
from modelwright_trainer.metrics import Measured
from modelwright_trainer.onnxgraph import Session
from modelwright_trainer.paired import Reference
from modelwright_trainer.preprocessing import moments, scales
from modelwright_trainer.split import Rows

_AT_ONCE = 4096
_LONG_AT_ONCE = 256
_TIMED = 200


@dataclasses.dataclass(frozen=True)
class Material:
    """Rows that a version is measured on, with the version's own columns and classes in their order. `lineage` is what
    a manifest says of them."""

    table: Table
    parts: dict[str, Rows]
    lineage: DataLineage


def material(
    store: Store, named: NamedData | None, version: Manifest, folder: Path, known: DataLineage | None = None
) -> Material:
    """The data set `named`, or where None is named `known`, or what `version` was trained on; its rows are put in
    `folder`. Raises DataFailed naming the column, or class, that is not the version's; Damaged, StoreError."""
    known = known or version.lineage.data
    if named is None and known is None:
        raise DataFailed(
            f"spec.evaluation.datasetRef: {version.model} {version.version} does not say what it was trained on: name"
            " a Dataset"
        )
    uri, digest = (named.uri, named.digest) if named else (known.uri, known.digest)
    reach = Store(named.store) if named and named.store else store
    kind: data.Kind = np.int64 if version.inputs[0].dtype == "int64" else np.float32
    task: Task = version.task or "Classification"
    if uri.endswith(f"/{manifest_path(digest)}"):
        asked = Data(uri=uri, digest=digest, features=version.inputs[0].names or None, task=task)
        prepared = shards.read(reach, asked)
        _same_task(prepared.manifest, task)
        table = shards.load(reach, prepared, folder, writes=True, tell=lambda: None, kind=kind)
        parts = prepared.parts
        target, split = prepared.manifest.target, prepared.manifest.split
    else:
        assert known is not None  # noqa: S101 - what is named is always prepared
        target, split = known.target, known.split
        asked = Data(uri=uri, target=target, features=version.inputs[0].names or None, task=task, split=split)
        table = data.load(reach, asked, kind)
        if table.digest != digest:
            raise Damaged(
                f"{uri} is {table.digest}, and {version.model} {version.version} was trained on {digest}: it was"
                " altered since: name a Dataset in spec.evaluation.datasetRef"
            )
        parts = data.divided(table, split or Split())
    lineage = DataLineage(
        uri=uri,
        digest=digest,
        target=None if task in WITHOUT_TARGET else target,
        rows=table.rows,
        split=split if isinstance(split, Split) else None,
        split_rows={part: len(rows) for part, rows in parts.items()},
    )
    return Material(_by_classes(table, version, uri), parts, lineage)


def _same_task(prepared: DatasetManifest, task: Task) -> None:
    if task not in WITHOUT_TARGET and prepared.task != task:
        raise DataFailed(
            f"spec.evaluation.datasetRef: Dataset {prepared.name} is for {prepared.task or 'no task'}, and the version"
            f" does {task}: name another one"
        )


def _by_classes(table: Table, version: Manifest, uri: str) -> Table:
    """The table with its targets as indices into the version's classes."""
    if not table.classes or not version.classes or table.classes == version.classes:
        return table
    unknown = [name for name in table.classes if name not in version.classes]
    if unknown:
        raise DataFailed(
            f"{uri}: class {unknown[0]} is none of the {len(version.classes)} classes of {version.model}"
            f" {version.version}: name a Dataset with its classes"
        )
    place = np.array([version.classes.index(name) for name in table.classes], np.int64)
    return dataclasses.replace(table, targets=place[np.asarray(table.targets)], classes=version.classes)


def outputs(session: Session, table: Table, rows: Rows, *names: str) -> list[npt.NDArray[Any]]:
    """The named outputs for the rows, of which a piece at a time is read."""
    given = [session.run(table.features[rows[at : at + _AT_ONCE]], only=names) for at in range(0, len(rows), _AT_ONCE)]
    return [np.concatenate([one[name] for one in given]) for name in names]


def probabilities(session: Session, version: Manifest, table: Table, rows: Rows) -> npt.NDArray[Any]:
    """Of the classes [rows, classes]; where the version gives none, the softmax of its logits. Raises DataFailed."""
    given = {one.name for one in version.outputs}
    if PROBABILITIES in given:
        return outputs(session, table, rows, PROBABILITIES)[0]
    if LOGITS not in given:
        raise DataFailed(
            f"{version.model} {version.version} gives {', '.join(sorted(given))}, and its task Classification is"
            f" measured by {PROBABILITIES} or {LOGITS}: name an output so"
        )
    (logits,) = outputs(session, table, rows, LOGITS)
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    found: npt.NDArray[Any] = shifted / shifted.sum(axis=-1, keepdims=True)
    return found


def measured(session: Session, version: Manifest, of: Material, part: str) -> Measured:
    """The task's metrics of the version on a part's rows. Raises DataFailed."""
    table, rows = of.table, of.parts[part]
    if not len(rows):
        raise DataFailed(f"spec.evaluation.split: {part} has no rows in {of.lineage.uri}: take another split")
    if version.task == "Classification":
        given = probabilities(session, version, table, rows)
        return metrics.classification(given, np.asarray(table.targets)[rows], version.classes)
    if version.task == "Regression":
        (predicted,) = outputs(session, table, rows, PREDICTION)
        return metrics.regression(predicted.reshape(len(rows)), np.asarray(table.targets)[rows])
    mean, scale = scales(moments(table.features, of.parts["train"]))
    if version.task == "AnomalyDetection":
        scores, given = outputs(session, table, rows, SCORE, RECONSTRUCTION)
        wanted = table.features[rows] / scale
        return metrics.anomalies(scores, given / scale - wanted, wanted)
    if version.task == "Clustering":
        (clusters,) = outputs(session, table, rows, CLUSTER)
        return metrics.clusters(lambda chosen: (table.features[rows[chosen]] - mean) / scale, clusters)
    if version.task == "LanguageModelling":
        found = [
            metrics.of_tokens(session.run(table.features[piece], only=[LOGITS])[LOGITS], table.features[piece])
            for piece in (rows[at : at + _LONG_AT_ONCE] for at in range(0, len(rows), _LONG_AT_ONCE))
        ]
        return metrics.language(*map(np.concatenate, zip(*found, strict=True)))
    raise DataFailed(f"{version.model} {version.version} says no task, so that there is nothing to measure")


def latency_p50_ms(session: Session, table: Table, rows: Rows) -> float:
    """Of one row, on one thread: the median over some calls, after as many that warm up."""
    row = table.features[rows[:1]]
    taken = []
    for _ in range(2 * _TIMED):
        began = time.perf_counter()
        session.run(row)
        taken.append(time.perf_counter() - began)
    return float(np.median(taken[_TIMED:]) * 1e3)


def size(folder: Path, onnx: Onnx, session: Session, of: Material, figures: Mapping[str, float]) -> Size:
    """Of a version whose files are in `folder`; `figures` are what was measured of it."""
    weights = sum((folder / name).stat().st_size for name in (onnx.weights, onnx.packed) if name)
    graph = (folder / onnx.path).stat().st_size
    tensors = onnxgraph.tensors(folder, onnx)
    return Size(
        bytes=graph + weights,
        weights_bytes=weights or graph,
        parameters=sum(one.size for one in tensors.values()),
        nonzero=sum(int(np.count_nonzero(one)) for one in tensors.values()),
        metrics=figures,
        latency_p50_ms=round(latency_p50_ms(session, of.table, of.parts["train"]), 4),
    )


def reference(
    store: Store, origin: Origin, of: Material, named: NamedData | None, part: str, scratch: Path
) -> Reference:
    """The version that a gate names, measured on the same rows. Raises DataFailed, Damaged, StoreError."""
    folder = scratch / f"against-{origin.digest.removeprefix('sha256:')[:16]}"
    version = versions.fetch(store, origin.uri, origin.digest, folder)
    if version.formats.onnx is None or len(version.inputs) != 1:
        raise DataFailed(
            f"spec.evaluation.gates: {origin.name} has no graph over rows, and cannot be measured: name another version"
        )
    own = material(store, named, version, folder / "rows", of.lineage)
    return Reference(origin.name, measured(Session(folder, version.formats.onnx), version, own, part))


def golden_rows(table: Table, rows: Rows, count: int = 32) -> npt.NDArray[Any]:
    """The features of some rows, evenly over them."""
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, count).astype(np.int64))]
    return np.ascontiguousarray(table.features[chosen])
