"""The command: from published members to a published combination of them, through a scratch folder."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from modelwright import artifact, versions
from modelwright.artifact import Ancestor, Derived, Lineage, Manifest
from modelwright.contract import TERMINATION_PATH, Outcome, Published
from modelwright.derivation import CombineRun, DerivationSummary, DerivedGate, Size
from modelwright.store import Store

from modelwright_trainer import derivation, evaluated, export, paired
from modelwright_trainer.combine import graph, members, stack
from modelwright_trainer.combine.members import Opened
from modelwright_trainer.evaluated import Material
from modelwright_trainer.failures import UserFailed
from modelwright_trainer.metrics import Measured
from modelwright_trainer.onnxgraph import Session
from modelwright_trainer.paired import Reference

# Those whose difference to the best member is told with an interval, beside the ones of gates.
_COMPARED: Mapping[str, tuple[str, ...]] = {
    "Classification": ("accuracy", "f1_macro", "log_loss"),
    "Regression": ("mae", "rmse", "r2"),
}


def main(*, termination: Path = Path(TERMINATION_PATH), environment: Mapping[str, str] = os.environ) -> int:
    """The exit code; see `contract.Outcome`."""
    return derivation.ended(CombineRun, combine, termination=termination, environment=environment)


def combine(run: CombineRun, store: Store, scratch: Path) -> DerivationSummary:
    """Combines, evaluates, lets the gates decide, and publishes. Raises MembersDiffer, UserFailed, DataFailed,
    TrainingFailed (GateFailed), Conflict, Damaged, StoreError."""
    began = time.monotonic()
    uri = run.manifest_uri
    standing = versions.standing(store, uri)
    if standing is not None:
        return _before(run, uri, standing)
    if run.method == "Stack" and run.evaluation.split == "validation":
        raise UserFailed(
            "spec.evaluation.split: Stack learns from the validation rows, and is not judged by them: take test"
        )
    opened = members.opened(run, store, scratch)
    if run.evaluation.data is None:
        members.trained_alike(opened)
    material = evaluated.material(store, run.evaluation.data, opened[0].manifest, scratch / "rows")
    folder = scratch / "artifact"
    folder.mkdir()
    made = _written(run, opened, material, folder)
    judged = _judged(run, opened, made, material)
    paired.check_gates(
        run.evaluation.gates, judged.ours, lambda gate: _against(gate, judged, material, store, scratch),
        run.evaluation.split,
    )  # fmt: skip
    manifest = _manifest(run, opened, made, judged, material, folder)
    published = Published(uri=uri, digest=versions.publish(store, uri, manifest, folder))
    return DerivationSummary(
        outcome=Outcome.SUCCEEDED.reason,
        before=judged.best_size,
        after=evaluated.size(folder, made.onnx, made.session, material, judged.ours.figures),
        notes=judged.notes(),
        seconds=round(time.monotonic() - began, 3),
        artifact=published,
        metrics=judged.ours.figures,
    )


def _before(run: CombineRun, uri: str, standing: bytes) -> DerivationSummary:
    """What an earlier attempt has published, whose end nobody heard of. Raises Conflict, Damaged."""
    digest = versions.agreed(uri, standing, run.fingerprint())
    manifest = Manifest.from_bytes(standing)
    return DerivationSummary(
        outcome=Outcome.SUCCEEDED.reason,
        notes=("it was published before",),
        artifact=Published(uri=uri, digest=digest),
        metrics=manifest.metrics.get(run.evaluation.split, {}),
    )


@dataclasses.dataclass(frozen=True)
class _Made:
    """The graph in the artifact's folder. `fitted` is of Stack."""

    onnx: artifact.Onnx
    outputs: tuple[artifact.Tensor, ...]
    session: Session
    fitted: stack.Stack | None


def _written(run: CombineRun, opened: Sequence[Opened], material: Material, folder: Path) -> _Made:
    first = opened[0].manifest
    classes = len(first.classes) if first.task == "Classification" else 0
    combination, fitted = graph.Combination(opened), None
    if run.method == "Stack":
        fitted = _fitted(run, opened, material)
        graph.stacked(combination, {"weight": fitted.weight, "bias": fitted.bias}, classes=classes)
    else:
        weights = [one.member.weight for one in opened]
        graph.averaged(combination, weights, vote=run.method == "Vote", classes=classes)
    outputs = graph.outputs_of(opened[0])
    stated = combination.write(folder, outputs)
    return _Made(stated, outputs, Session(folder, stated), fitted)


def _fitted(run: CombineRun, opened: Sequence[Opened], material: Material) -> stack.Stack:
    rows, table = material.parts["validation"], material.table
    if not len(rows):
        raise UserFailed(
            f"spec.source.combine.method: Stack learns from the validation rows, and {material.lineage.uri} has none:"
            " take the method Mean or Weighted, or a Dataset with a validation split"
        )
    given = []
    for one in opened:
        if one.manifest.task == "Classification":
            given.append(evaluated.probabilities(one.session, one.manifest, table, rows))
        else:
            given.append(evaluated.outputs(one.session, table, rows, one.output)[0].reshape(len(rows), 1))
    classes = opened[0].manifest.classes if opened[0].manifest.task == "Classification" else ()
    return stack.fit(np.stack(given, axis=1), np.asarray(table.targets)[rows], classes, run.seed)


@dataclasses.dataclass(frozen=True)
class _Judged:
    """`ours` and `theirs`, the members', are measured on the same rows of `split`."""

    run: CombineRun
    names: tuple[str, ...]
    ours: Measured
    theirs: tuple[Measured, ...]
    compared: Mapping[str, tuple[str, paired.Difference]]
    best_size: Size

    def notes(self) -> tuple[str, ...]:
        """For the user: against the best member of each metric, with the interval."""
        return tuple(
            f"{metric} {found.figure:.6g}, best member {name} {found.reference:.6g}: {found.value:+.4g}"
            + (f" (95 % interval {found.interval[0]:+.4g} to {found.interval[1]:+.4g})" if found.interval else "")
            for metric, (name, found) in self.compared.items()
        )

    def document(self, fitted: stack.Stack | None) -> dict[str, Any]:
        """For `evaluation.json`."""
        found: dict[str, Any] = {
            "method": self.run.method,
            "members": {name: one.figures for name, one in zip(self.names, self.theirs, strict=True)},
            "againstBest": {
                metric: {"member": name, **difference.to_dict()} for metric, (name, difference) in self.compared.items()
            },
        }
        if fitted:
            found["stack"] = {
                "strength": fitted.strength, "folds": fitted.folds, "outOfFold": fitted.out_of_fold.figures
            }  # fmt: skip
        return found


def _judged(run: CombineRun, opened: Sequence[Opened], made: _Made, material: Material) -> _Judged:
    split, first = run.evaluation.split, opened[0].manifest
    like = first.model_copy(update={"outputs": made.outputs})
    ours = evaluated.measured(made.session, like, material, split)
    theirs = tuple(evaluated.measured(one.session, one.manifest, material, split) for one in opened)
    names = tuple(one.name for one in opened)
    asked = (*_COMPARED[str(first.task)], *(gate.metric for gate in run.evaluation.gates))
    compared = {
        metric: (best.name, paired.difference(metric, ours, best.measured))
        for metric in dict.fromkeys(asked)
        if metric in ours.figures and (best := _best(metric, names, theirs)) is not None
    }
    at = names.index(next(iter(compared.values()))[0])
    best = opened[at]
    size = evaluated.size(best.folder, best.onnx, best.session, material, theirs[at].figures)
    judged = _Judged(run, names, ours, theirs, compared, size)
    for note in judged.notes():
        print(note, flush=True)
    return judged


def _best(metric: str, names: Sequence[str], theirs: Sequence[Measured]) -> Reference | None:
    known = [Reference(name, one) for name, one in zip(names, theirs, strict=True) if metric in one.figures]
    sign = -1 if metric in paired.LOWER_IS_BETTER else 1
    return max(known, key=lambda one: sign * one.measured.figures[metric], default=None)


def _against(
    gate: DerivedGate, judged: _Judged, material: Material, store: Store, scratch: Path
) -> Reference:  # fmt: skip
    if gate.against is not None:
        run = judged.run
        return evaluated.reference(store, gate.against, material, run.evaluation.data, run.evaluation.split, scratch)
    best = _best(gate.metric, judged.names, judged.theirs)
    if best is None:
        raise UserFailed(f"spec.evaluation.gates: no member has the metric {gate.metric} to compare with")
    return Reference(f"{best.name}, the best member", best.measured)


def _manifest(
    run: CombineRun, opened: Sequence[Opened], made: _Made, judged: _Judged, material: Material, folder: Path
) -> Manifest:
    """Writes the documents and golden samples beside the graph, and gives the manifest of all."""
    first, split = opened[0].manifest, run.evaluation.split
    measured = judged.ours
    documents: dict[str, dict[str, Any]] = {
        artifact.EVALUATION_FILE: {
            split: {"rows": measured.rows, "metrics": measured.figures, **measured.details},
            "combination": judged.document(made.fitted),
        },
        artifact.BASELINE_FILE: export.baseline(material.table, material.parts["train"]),
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, sort_keys=True))
    rows = evaluated.golden_rows(material.table, material.parts[split])
    golden = export.golden_of(made.session, opened[0].rows.name, rows, folder)
    named = (artifact.ONNX_FILE, artifact.WEIGHTS_FILE, artifact.GOLDEN_FILE, *documents)
    return Manifest(
        model=run.publish.model,
        version=run.publish.version,
        variant=run.publish.variant,
        task=first.task,
        classes=first.classes,
        formats=artifact.Formats(onnx=made.onnx),
        files=tuple(versions.file_entry(folder / name, name) for name in named),
        inputs=first.inputs,
        outputs=made.outputs,
        golden=golden,
        metrics={split: measured.figures},
        lineage=Lineage(
            data=material.lineage,
            derived=Derived(
                kind="combination",
                parents=tuple(Ancestor(name=one.name, digest=one.member.digest) for one in opened),
                method=run.method,
            ),
            fingerprint=run.fingerprint(),
            seed=run.seed,
        ),
        frameworks=export.frameworks(),
    )
