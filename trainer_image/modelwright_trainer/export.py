"""From trained weights to a published version: the files, what they give on the test split, the gates, the manifest."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from modelwright import __version__, artifact, versions
from modelwright.contract import Gate, Outcome, Published, TrainingRun
from modelwright.hardware import instruction_set
from modelwright.store import Store
from safetensors.numpy import save_file

from modelwright_trainer import onnxgraph
from modelwright_trainer.data import Table
from modelwright_trainer.failures import TrainingFailed
from modelwright_trainer.goldenrows import expected
from modelwright_trainer.learner import Learner, Publisher
from modelwright_trainer.metrics import Measured
from modelwright_trainer.onnxgraph import Session, Weights
from modelwright_trainer.split import Rows

_MOST_TOKENS = 1000
# Of float32 sums in another order, relative to the largest logit.
_EXPORT_TOLERANCE = 1e-4
_FRAMEWORKS = ("torch", "numpy", "onnx", "onnxruntime", "safetensors")


def agree(learner: Publisher, weights: Weights, session: Session, table: Table, rows: Rows) -> None:
    """Checks that the file gives for `rows` what was trained with these weights does. Raises TrainingFailed
    (ExportMismatch)."""
    reference, name = learner.reference(weights), learner.compared
    apart, largest = 0.0, 1.0
    for piece in learner.pieces(rows):
        features = table.features[piece]
        expected = reference(features)
        given = session.run(features, only=[name])[name]
        apart = max(apart, float(np.abs(given - expected).max(initial=0.0)))
        largest = max(largest, float(np.abs(expected).max(initial=0.0)))
    _near(name, apart / largest)


def same(name: str, given: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    """As `agree`, of outputs that were computed already."""
    largest = max(1.0, float(np.abs(expected).max(initial=0.0)))
    _near(name, float(np.abs(given - expected).max(initial=0.0)) / largest)


def _near(name: str, apart: float) -> None:
    if not apart <= _EXPORT_TOLERANCE:
        raise TrainingFailed(
            Outcome.EXPORT_MISMATCH,
            f"the exported file's {name} are {apart:.2g} (relative) off those of what was trained;"
            f" {_EXPORT_TOLERANCE:g} is the most: please report it",
        )


def check_gates(gates: Sequence[Gate], figures: Mapping[str, float], measured: Measured | None = None) -> None:
    """Raises TrainingFailed (GateFailed) naming each gate that does not pass, its figure and its threshold; where
    `measured` is given and of few rows, also between what the figure lies."""
    breaches = {gate.metric: breach for gate in gates if (breach := gate.breach(figures))}
    if not breaches:
        return
    sure = []
    for name in breaches if measured else ():
        interval = measured.interval(name)
        if interval:
            sure.append(f"{name} {interval[0]:.4g} to {interval[1]:.4g}")
    said = f". On {measured.rows} test rows the 95 % interval is (bootstrap): {'; '.join(sure)}" if sure else ""
    raise TrainingFailed(Outcome.GATE_FAILED, f"not published: {'; '.join(breaches.values())}{said}")


def golden(session: Session, learner: Publisher, table: Table, rows: Rows, folder: Path) -> artifact.Golden:
    """Writes the golden samples: some of the test rows, evenly over them, with the file's outputs."""
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, learner.golden_rows).astype(np.int64))]
    return golden_of(session, learner.inputs[0].name, table.features[chosen], folder)


def golden_of(session: Session, name: str, inputs: npt.NDArray[Any], folder: Path) -> artifact.Golden:
    """Writes the golden samples: `inputs`, of the input `name`, with the file's outputs."""
    made = artifact.Golden(
        rows=len(inputs),
        provider=onnxgraph.PROVIDER,
        instruction_set=instruction_set(),
        runtime=f"onnxruntime {importlib.metadata.version('onnxruntime')}",
    )
    given, made = expected(lambda rows: session.run(rows[name]), {name: inputs}, session.run(inputs), made)
    save_file({name: inputs, **given}, folder / artifact.GOLDEN_FILE)
    return made


def baseline(table: Table, rows: Rows) -> dict[str, Any]:
    """Statistics of the training rows for drift: of each feature, or of the most frequent tokens their shares; shares
    of the classes, or what is said of a feature of the target that is a number."""
    found: dict[str, Any] = {"rows": len(rows), "features": {}, "classes": {}}
    if table.features.dtype == np.int64:
        tokens, counts = np.unique(table.features[rows], return_counts=True)
        most = np.argsort(-counts, kind="stable")[:_MOST_TOKENS]
        found["tokens"] = {str(tokens[one]): float(counts[one] / counts.sum()) for one in most}
    else:
        found["features"] = {name: _column(table.features[rows, index]) for index, name in enumerate(table.names)}
    if table.classes:
        shares = np.bincount(table.targets[rows], minlength=len(table.classes)) / len(rows)
        found["classes"] = dict(zip(table.classes, shares.tolist(), strict=True))
    elif table.targets is not None:
        found["target"] = _column(table.targets[rows])
    return found


def _column(values: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Moments, extremes, and deciles with the fraction of rows in each of the bins between them (equal neighbours
    merged; bins are [a, b), the last closed)."""
    column = values.astype(np.float64)
    edges = np.unique(np.quantile(column, np.linspace(0, 1, 11)))
    counts = np.histogram(column, edges)[0] if len(edges) > 1 else np.array([len(column)])
    return {
        "mean": float(column.mean()), "deviation": float(column.std()), "min": float(column.min()),
        "max": float(column.max()), "edges": edges.tolist(), "fractions": (counts / len(column)).tolist(),
    }  # fmt: skip


def frameworks() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in _FRAMEWORKS}
    return {"python": platform.python_version(), "modelwright": __version__, **found}


def uri_of(run: TrainingRun) -> str:
    return artifact.manifest_uri(run.store.uri, run.namespace, run.publish.model, run.publish.version)


def write_documents(
    folder: Path, table: Table, parts: Mapping[str, Rows], history: Sequence[Any], measured: Mapping[str, Measured]
) -> None:
    """Writes the baseline, the history, which is the losses per epoch, and what was measured on each part."""
    evaluation = {part: {"rows": one.rows, "metrics": one.figures, **one.details} for part, one in measured.items()}
    for name, document in (
        (artifact.EVALUATION_FILE, evaluation),
        (artifact.BASELINE_FILE, baseline(table, parts["train"])),
        (artifact.HISTORY_FILE, {"epochs": list(history)}),
    ):
        (folder / name).write_text(json.dumps(document, sort_keys=True))


def manifest(
    run: TrainingRun,
    learner: Publisher,
    table: Table,
    parts: Mapping[str, Rows],
    folder: Path,
    *,
    golden_samples: artifact.Golden,
    figures: Mapping[str, Mapping[str, float]],
    epochs: int,
    steps: int,
) -> artifact.Manifest:
    """The manifest of the files in `folder`."""
    named = (
        artifact.ONNX_FILE, artifact.WEIGHTS_FILE, artifact.GOLDEN_FILE, artifact.BASELINE_FILE, artifact.HISTORY_FILE,
        artifact.EVALUATION_FILE,
    )  # fmt: skip
    hyperparameters = learner.hyperparameters.to_strings()
    return artifact.Manifest(
        model=run.publish.model,
        version=run.publish.version,
        task=run.data.task,
        classes=table.classes,
        formats=artifact.Formats(onnx=artifact.Onnx(opset=onnxgraph.OPSET, ir_version=onnxgraph.IR_VERSION)),
        files=tuple(versions.file_entry(folder / name, name) for name in named),
        inputs=learner.inputs,
        outputs=learner.outputs,
        golden=golden_samples,
        metrics=figures,
        lineage=artifact.Lineage(
            training_job=run.name,
            data=artifact.DataLineage(
                uri=run.data.uri,
                digest=table.digest,
                target=run.data.target,
                rows=table.rows,
                split=run.data.fractions,
                split_rows={part: len(rows) for part, rows in parts.items()},
            ),
            fingerprint=run.fingerprint(table.digest, hyperparameters),
            initial=run.init_from.digest if run.init_from else None,
            seed=learner.hyperparameters.seed,
            epochs=epochs,
            steps=steps,
            world_size=run.workers.world_size,
        ),
        frameworks=frameworks(),
        rebuild=artifact.RecipeRebuild(
            recipe=run.trainer.recipe,
            hyperparameters=hyperparameters,
            inputs=_width(learner.inputs[0]),
            outputs=_width(learner.outputs[0]),
        )
        if isinstance(learner, Learner)
        else None,
    )


def _width(tensor: artifact.Tensor) -> int:
    return tensor.shape[-1] or 1


def publish(store: Store, run: TrainingRun, made: artifact.Manifest, folder: Path) -> Published:
    """Raises Conflict, Damaged, StoreError."""
    uri = uri_of(run)
    return Published(uri=uri, digest=versions.publish(store, uri, made, folder))


def published_before(store: Store, run: TrainingRun, fingerprint: str) -> tuple[Published, artifact.Manifest] | None:
    """The version, where one stands already that was asked for in the same words: an earlier attempt's, whose end
    nobody heard of. Raises Conflict where it is another, before anything is trained in vain."""
    uri = uri_of(run)
    there = versions.standing(store, uri)
    if there is None:
        return None
    digest = versions.agreed(uri, there, fingerprint)
    return Published(uri=uri, digest=digest), artifact.Manifest.from_bytes(there)
