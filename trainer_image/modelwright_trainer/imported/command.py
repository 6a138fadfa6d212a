"""The command: from what lies in a store to a published version, looked at before anything of it is loaded."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path

from modelwright import __version__, artifact, versions
from modelwright.artifact import Derived, Lineage, Manifest, RecipeRebuild
from modelwright.contract import TERMINATION_PATH, Outcome, Published
from modelwright.derivation import DerivationSummary, ImportRun
from modelwright.store import Store

from modelwright_trainer import derivation, evaluated, paired
from modelwright_trainer.failures import UserFailed
from modelwright_trainer.imported import huggingface, onnxfile
from modelwright_trainer.imported.source import FIELD, Refused, brought, not_pickled
from modelwright_trainer.metrics import Measured
from modelwright_trainer.onnxgraph import IR_VERSION, OPSET, Session
from modelwright_trainer.owncode.graph import Graph, read_samples
from modelwright_trainer.paired import Reference

_FRAMEWORKS = ("numpy", "onnx", "onnxruntime", "safetensors")
_MOST_SAMPLE_BYTES = 64 * 1024 * 1024


def main(*, termination: Path = Path(TERMINATION_PATH), environment: Mapping[str, str] = os.environ) -> int:
    """The exit code; see `contract.Outcome`."""
    return derivation.ended(ImportRun, import_, termination=termination, environment=environment)


def import_(run: ImportRun, store: Store, scratch: Path) -> DerivationSummary:
    """Looks at it, makes a version of it, measures it where that is asked for, and publishes. Raises Refused,
    UserFailed, DataFailed, TrainingFailed (GateFailed), Conflict, Damaged, StoreError."""
    began = time.monotonic()
    folder, source = scratch / "artifact", scratch / "source"
    folder.mkdir()
    source.mkdir()
    not_pickled(run.uri)
    if run.format == "HuggingFace":
        found = _directory(run, store, folder)
    elif run.format == "Safetensors":
        found = _recipe(run, store, source, folder)
    else:
        found = _graph(run, store, source, folder)
    manifest = found.manifest
    measured = _measured(run, store, manifest, folder, scratch)
    if measured:
        path = folder / artifact.EVALUATION_FILE
        told = {run.evaluation.split: {"rows": measured.rows, "metrics": measured.figures, **measured.details}}
        path.write_text(json.dumps(told, sort_keys=True))
        manifest = manifest.model_copy(
            update={
                "metrics": {run.evaluation.split: measured.figures},
                "files": (*manifest.files, versions.file_entry(path, path.name)),
            }
        )
    uri = run.manifest_uri
    published = Published(uri=uri, digest=versions.publish(store, uri, manifest, folder))
    return DerivationSummary(
        outcome=Outcome.SUCCEEDED.reason,
        notes=(f"{run.uri} is {found.digest}",),
        seconds=round(time.monotonic() - began, 3),
        artifact=published,
        metrics=measured.figures if measured else {},
    )


@dataclasses.dataclass(frozen=True)
class _Found:
    """`digest` is of what lies at the run's URI."""

    manifest: Manifest
    digest: str


def _directory(run: ImportRun, store: Store, folder: Path) -> _Found:
    stated = artifact.HuggingFace()
    names = huggingface.fetched(store, run.uri, folder / stated.path)
    files = tuple(versions.file_entry(folder / stated.path / name, f"{stated.path}/{name}") for name in names)
    whole = hashlib.sha256("".join(f"{file.digest} {file.path}\n" for file in files).encode())
    digest = f"sha256:{whole.hexdigest()}"
    return _Found(_manifest(run, digest, files=files, formats=artifact.Formats(hf=stated)), digest)


def _graph(run: ImportRun, store: Store, source: Path, folder: Path) -> _Found:
    model, digest = onnxfile.read(store, run.uri, run.digest, source)
    onnxfile.renamed(run.uri, model, run.names)
    onnxfile.written(model, folder)
    return _with_graph(run, store, source, folder, digest, None)


def _recipe(run: ImportRun, store: Store, source: Path, folder: Path) -> _Found:
    from modelwright_trainer.imported import tensorfile

    learner, digest = tensorfile.rebuilt(run, store, source, folder)
    rebuild = RecipeRebuild(
        recipe=str(run.recipe),
        hyperparameters=learner.hyperparameters.to_strings(),
        inputs=learner.inputs[0].shape[-1] or 1,
        outputs=learner.outputs[0].shape[-1] or 1,
    )
    return _with_graph(run, store, source, folder, digest, rebuild, (learner.inputs, learner.outputs))


def _with_graph(
    run: ImportRun,
    store: Store,
    source: Path,
    folder: Path,
    digest: str,
    rebuild: RecipeRebuild | None,
    signature: tuple[tuple[artifact.Tensor, ...], tuple[artifact.Tensor, ...]] | None = None,
) -> _Found:
    """Of the graph in `folder`, which is now loaded for the first time: golden samples with what it gives."""
    try:
        graph = Graph(folder / artifact.ONNX_FILE, run.uri)
        golden = graph.golden(_samples(run, store, source), folder / artifact.GOLDEN_FILE)
    except UserFailed as error:
        raise Refused(str(error).replace("output/samples.npz", f"{FIELD}.samples")) from error
    inputs = tuple(one.stated(run.columns) for one in graph.inputs)
    outputs = tuple(one.stated(run.classes) for one in graph.outputs)
    if run.columns and not any(one.names for one in inputs):
        widths = ", ".join(f"{one.name} {list(one.shape)}" for one in graph.inputs)
        raise Refused(f"{FIELD}.columns: {len(run.columns)} are named, and the inputs are {widths}: name as many")
    if run.classes and not any(one.names for one in outputs):
        widths = ", ".join(f"{one.name} {list(one.shape)}" for one in graph.outputs)
        raise Refused(f"{FIELD}.classes: {len(run.classes)} are named, and the outputs are {widths}: name as many")
    stated = graph.format.model_copy(update={"weights": artifact.WEIGHTS_FILE})
    if rebuild is not None:
        stated = artifact.Onnx(opset=OPSET, ir_version=IR_VERSION)
    named = (artifact.ONNX_FILE, artifact.WEIGHTS_FILE, artifact.GOLDEN_FILE)
    manifest = _manifest(
        run,
        digest,
        files=tuple(versions.file_entry(folder / name, name) for name in named),
        formats=artifact.Formats(onnx=stated),
        inputs=signature[0] if signature else inputs,
        outputs=signature[1] if signature else outputs,
        golden=golden,
        rebuild=rebuild,
    )
    return _Found(manifest, digest)


def _samples(run: ImportRun, store: Store, source: Path) -> Mapping[str, object] | None:
    if run.samples is None:
        return None
    from modelwright_trainer.imported.tensorfile import tensors_of

    path = source / "samples.safetensors"
    brought(store, run.samples, path, most=_MOST_SAMPLE_BYTES)
    tensors_of(path, run.samples)
    return read_samples([path])


def _manifest(run: ImportRun, digest: str, **more: object) -> Manifest:
    fingerprint = hashlib.sha256(f"{run.fingerprint()} {digest}".encode()).hexdigest()
    return Manifest.model_validate(
        {
            "model": run.publish.model,
            "version": run.publish.version,
            "variant": run.publish.variant,
            "task": run.task,
            "classes": run.classes,
            "inputs": (),
            "outputs": (),
            "baseline": "",
            "metrics": {},
            "lineage": Lineage(
                derived=Derived(kind="import", method=run.format), fingerprint=f"sha256:{fingerprint}"
            ),
            "frameworks": {
                "python": platform.python_version(),
                "modelwright": __version__,
                **{name: importlib.metadata.version(name) for name in _FRAMEWORKS},
            },
            **more,
        }
    )  # fmt: skip


def _measured(run: ImportRun, store: Store, manifest: Manifest, folder: Path, scratch: Path) -> Measured | None:
    """On the data set that the run names; None where it names none. Raises TrainingFailed (GateFailed)."""
    asked = run.evaluation
    if asked.data is None:
        if asked.gates:
            raise UserFailed("spec.evaluation.datasetRef: required with gates: an import says no data to measure on")
        return None
    if manifest.formats.onnx is None or len(manifest.inputs) != 1 or manifest.task is None:
        raise UserFailed(
            "spec.evaluation: what is measured has the format Onnx or Safetensors, one input, and a task: leave it out"
        )
    of = evaluated.material(store, asked.data, manifest, scratch / "rows")
    session = Session(folder, manifest.formats.onnx)
    found = evaluated.measured(session, manifest, of, asked.split)

    def against(gate: paired.DerivedGate) -> Reference:
        if gate.against is None:
            raise UserFailed(f"spec.evaluation.gates: {gate.metric} has maxRegression: say against which version")
        return evaluated.reference(store, gate.against, of, asked.data, asked.split, scratch)

    paired.check_gates(asked.gates, found, against, asked.split)
    return found
