"""The last Job of a compression: the final file is compared with what was trained, measured, judged and published."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from modelwright import artifact, versions
from modelwright.artifact import Ancestor, Derived, Manifest
from modelwright.contract import Failure, Outcome, Published
from modelwright.derivation import CompressRun, DerivationSummary, DerivedGate, Size, Step
from modelwright.store import Store

from modelwright_trainer import evaluated, export, paired
from modelwright_trainer.compress import files, stage, state
from modelwright_trainer.compress.modules import built
from modelwright_trainer.compress.state import Saved, State
from modelwright_trainer.compress.work import Work
from modelwright_trainer.evaluated import Material
from modelwright_trainer.failures import TrainingFailed, failure_of
from modelwright_trainer.learner import Fitted
from modelwright_trainer.metrics import Measured
from modelwright_trainer.onnxgraph import Session
from modelwright_trainer.paired import Difference, Reference

COMPRESSION_FILE = "compression.json"
"""What each step did, in the artifact: its summary, as the Job said it."""
_COMPARED_ROWS = 4096
_LEAST_GOLDEN, _MOST_GOLDEN = 4, 32


@dataclasses.dataclass(frozen=True)
class _Judged:
    """What was measured of the final file and of the parent on the evaluation's rows. `told` are the metrics that gates
    are on; `failure` says which of these does not pass."""

    measured: Measured
    parent: Measured
    differences: dict[str, Difference]
    told: frozenset[str]
    failure: Failure | None
    rows: Material


def run(asked: CompressRun, store: Store, scratch: Path) -> DerivationSummary:
    """Publishes, or says again what stands published. Raises GateFailed, ExportMismatch, Conflict, Damaged, StoreError,
    DataFailed."""
    began = time.monotonic()
    uri = asked.manifest_uri
    standing = versions.standing(store, uri)
    work = stage.prepared(asked, store, scratch)
    folder = scratch / "artifact"
    folder.mkdir()
    if standing is not None:
        digest = versions.agreed(uri, standing, asked.fingerprint())
        made = versions.fetch(store, uri, digest, folder)
        found = None
        onnx = made.formats.onnx
    else:
        found, _ = state.load(store, asked, asked.stage - 1, scratch)
        onnx = files.write(work, found, folder)
    session = Session(folder, onnx)
    if found is not None:
        _agree(work, found, session, work.rows)
    judged = _judged(asked, work, store, session, scratch)
    sizes = (
        evaluated.size(work.parent.folder, work.parent.onnx, work.parent_session, work.rows, judged.parent.figures),
        evaluated.size(folder, onnx, session, work.rows, judged.measured.figures),
    )
    if judged.failure is not None:
        return _summary(asked, judged, sizes, began)
    if found is not None:
        made = _completed(asked, work, store, found, session, onnx, judged, folder)
        digest = versions.publish(store, uri, made, folder)
    state.clear(store, asked)
    published = Published(uri=uri, digest=digest)
    return _summary(asked, judged, sizes, began).model_copy(update={"artifact": published})


def _summary(asked: CompressRun, judged: _Judged, sizes: tuple[Size, Size], began: float) -> DerivationSummary:
    """`sizes` are the parent's and the version's."""
    before, after = sizes
    return DerivationSummary(
        outcome=(Outcome.GATE_FAILED if judged.failure else Outcome.SUCCEEDED).reason,
        stage=asked.stage,
        before=before,
        after=after,
        notes=tuple(_told(one) for one in judged.differences.values() if one.metric in judged.told),
        seconds=round(time.monotonic() - began, 3),
        metrics=judged.measured.figures,
        failure=judged.failure,
    )


def _told(found: Difference) -> str:
    sure = f", 95 % interval {found.interval[0]:+.4g} to {found.interval[1]:+.4g}" if found.interval else ""
    return f"{found.metric} {found.figure:.6g} against the parent's {found.reference:.6g}: {found.value:+.4g}{sure}"


def _agree(work: Work, found: State, session: Session, rows: Material) -> None:
    """Checks that the file gives what was fine-tuned does. Raises TrainingFailed (ExportMismatch). What is quantized is
    no other than its graph."""
    if found.rebuild is None or isinstance(publisher := work.publisher(found.rebuild), Fitted):
        return
    module, name = built(publisher, found.weights), publisher.compared
    features = rows.table.features[rows.parts["train"][:_COMPARED_ROWS]]
    with torch.no_grad():
        expected = module(torch.from_numpy(features)).numpy()
    export.same(name, session.run(features, only=[name])[name], expected)


def _judged(asked: CompressRun, work: Work, store: Store, session: Session, scratch: Path) -> _Judged:
    """Measures the file, and the parent on the same rows, and lets the gates decide."""
    evaluation, manifest = asked.evaluation, work.parent.manifest
    named = evaluation.data
    rows = evaluated.material(store, named, manifest, scratch / "evaluation") if named else work.rows
    ours = evaluated.measured(session, manifest, rows, evaluation.split)
    theirs = evaluated.measured(work.parent_session, manifest, rows, evaluation.split)

    def against(gate: DerivedGate) -> Reference:
        if gate.against is None or gate.against.digest == work.parent.digest:
            return Reference(work.parent.name, theirs)
        return evaluated.reference(store, gate.against, rows, named, evaluation.split, scratch)

    failure = None
    try:
        paired.check_gates(evaluation.gates, ours, against, evaluation.split)
    except TrainingFailed as error:
        failure = failure_of(error)
    told = frozenset(gate.metric for gate in evaluation.gates) or frozenset(list(ours.figures)[:1])
    differences = {name: paired.difference(name, ours, theirs) for name in sorted(ours.figures)
                   if name in theirs.figures and name in told}  # fmt: skip
    return _Judged(ours, theirs, differences, told, failure, rows)


def _completed(
    asked: CompressRun,
    work: Work,
    store: Store,
    found: State,
    session: Session,
    onnx: artifact.Onnx,
    judged: _Judged,
    folder: Path,
) -> Manifest:
    """Writes what goes with the graph, and gives the manifest."""
    parent = work.parent.manifest
    split = asked.evaluation.split
    rows = judged.rows.table.features
    chosen = evaluated.golden_rows(judged.rows.table, judged.rows.parts[split], _golden_rows(folder, onnx, rows))
    golden = export.golden_of(session, parent.inputs[0].name, chosen, folder)
    kept = [name for name in (parent.baseline, artifact.HISTORY_FILE) if (work.parent.folder / name).is_file()]
    for name in kept:
        shutil.copyfile(work.parent.folder / name, folder / name)
    metrics = {split: judged.measured.figures}
    if split != "validation" and len(judged.rows.parts["validation"]):
        metrics["validation"] = evaluated.measured(session, parent, judged.rows, "validation").figures
    _write(
        folder / artifact.EVALUATION_FILE,
        {split: {"rows": judged.measured.rows, "metrics": judged.measured.figures, **judged.measured.details,
                 "parent": {name: one.to_dict() for name, one in judged.differences.items()}}},
    )  # fmt: skip
    told = [state.saved(store, asked, number) for number in range(asked.stage)]
    _write(folder / COMPRESSION_FILE, {"steps": [json.loads(one.summary.to_json()) for one in told if one]})
    named = [
        name
        for name in (onnx.path, onnx.weights, onnx.packed, artifact.GOLDEN_FILE, *kept, artifact.EVALUATION_FILE,
                     COMPRESSION_FILE)
        if name
    ]  # fmt: skip
    return Manifest(
        model=asked.publish.model,
        version=asked.publish.version,
        variant=asked.publish.variant,
        task=parent.task,
        classes=parent.classes,
        formats=artifact.Formats(onnx=onnx),
        files=tuple(versions.file_entry(folder / name, name) for name in named),
        inputs=parent.inputs,
        outputs=parent.outputs,
        golden=golden,
        baseline=parent.baseline,
        metrics=metrics,
        lineage=parent.lineage.model_copy(
            update={
                "derived": Derived(
                    kind="compression",
                    parents=(Ancestor(name=work.parent.name, digest=work.parent.digest),),
                    steps=tuple(step.to_json() for step in _steps(asked, told)),
                ),
                "fingerprint": asked.fingerprint(),
                "seed": asked.seed,
            }
        ),
        frameworks=export.frameworks(),
        rebuild=_rebuild(work, found),
    )


def _steps(asked: CompressRun, told: list[Saved | None]) -> tuple[Step, ...]:
    """Those that were asked for, or that a search has chosen."""
    found = told[0].summary.search if asked.target is not None and told[0] is not None else None
    return found.chosen if found else asked.steps


def _rebuild(work: Work, found: State) -> artifact.RecipeRebuild | None:
    """The recipe, where what it builds has these very tensors."""
    if found.rebuild is None:
        return None
    publisher = work.publisher(found.rebuild)
    if isinstance(publisher, Fitted):
        return found.rebuild
    shapes = {name: tuple(value.shape) for name, value in publisher.module().state_dict().items()}
    return found.rebuild if shapes == {name: value.shape for name, value in found.weights.items()} else None


def _golden_rows(folder: Path, onnx: artifact.Onnx, rows: Any) -> int:
    """As many as take no more room than the model itself: it was made small."""
    model = sum((folder / name).stat().st_size for name in (onnx.path, onnx.weights, onnx.packed) if name)
    return int(np.clip(model // max(1, rows[:1].nbytes), _LEAST_GOLDEN, _MOST_GOLDEN))


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, sort_keys=True))
