"""After the user's code has ended with 0: what it left in `output` is checked, and published as a version.

Nothing is evaluated: the figures are the code's own, and the gates decide on them.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
from pathlib import Path
from typing import Any

from modelwright import __version__, artifact, owncode, versions
from modelwright.artifact import FactoryRebuild
from modelwright.contract import Outcome, Published, Summary
from modelwright.owncode import Factory, OwnRun, Told
from modelwright.store import Store
from pydantic import ValidationError

from modelwright_trainer.failures import TrainingFailed, UserFailed
from modelwright_trainer.owncode.files import Fetched, Folder

_RESERVED = frozenset({artifact.MANIFEST, artifact.GOLDEN_FILE})
_FRAMEWORKS = ("numpy", "onnx", "onnxruntime", "safetensors")
_MOST_FILES = 10_000


def publish(run: OwnRun, store: Store, folder: Folder, index: int) -> Summary:
    """Publishes from the pod of index 0; the others only say that their code succeeded, too. Raises UserFailed,
    TrainingFailed (GateFailed), Conflict, Damaged, StoreError."""
    folder.publishing.touch()
    told = _told(folder.progress)
    summary = Summary(
        outcome=Outcome.SUCCEEDED.reason, exit_code=Outcome.SUCCEEDED.code, attempt=run.attempt, index=index,
        epoch=told.epoch, step=told.step,
    )  # fmt: skip
    if index != 0:
        return summary
    figures = _metrics(folder.output / owncode.METRICS_FILE)
    breaches = [breach for gate in run.gates if (breach := gate.breach(figures))]
    if breaches:
        raise TrainingFailed(Outcome.GATE_FAILED, f"not published: {'; '.join(breaches)}")
    manifest = describe(run, folder.read_fetched(), folder.output, figures, told)
    uri = artifact.manifest_uri(run.store.uri, run.namespace, run.publish.model, run.publish.version)
    published = Published(uri=uri, digest=versions.publish(store, uri, manifest, folder.output))
    print(f"published: {published.uri} {published.digest}", flush=True)
    return summary.model_copy(update={"artifact": published, "metrics": figures})


def describe(run: OwnRun, fetched: Fetched, output: Path, figures: dict[str, float], told: Told) -> artifact.Manifest:
    """The manifest of what is in `output`; golden samples of a graph are put beside it. Raises UserFailed."""
    names = _names(output)
    classes = _classes(output / owncode.CLASSES_FILE)
    graph = None
    if artifact.ONNX_FILE in names:
        from modelwright_trainer.owncode.graph import Graph, read_samples

        graph = Graph(output / artifact.ONNX_FILE)
        samples = read_samples([output / name for name in owncode.SAMPLES_FILES])
        golden = graph.golden(samples, output / artifact.GOLDEN_FILE)
        names.append(artifact.GOLDEN_FILE)
    native = any(name.startswith(f"{owncode.NATIVE}/") for name in names)
    if graph is None and not native:
        raise UserFailed(
            f"the code ended, and left neither {artifact.ONNX_FILE} nor files in {owncode.NATIVE}/ in the folder"
            " $MODELWRIGHT_OUTPUT: there is nothing to publish"
        )
    return artifact.Manifest(
        model=run.publish.model,
        version=run.publish.version,
        task=run.data.task,
        classes=classes,
        formats=artifact.Formats(onnx=graph.format if graph else None, native=artifact.Native() if native else None),
        files=tuple(versions.file_entry(output / name, name) for name in sorted(names)),
        inputs=tuple(one.stated() for one in graph.inputs) if graph else (),
        outputs=tuple(one.stated(classes) for one in graph.outputs) if graph else (),
        golden=golden if graph else None,
        baseline="",
        metrics={"test": figures},
        lineage=artifact.Lineage(
            training_job=run.name,
            data=artifact.DataLineage(uri=run.data.uri, digest=fetched.data_digest, target=run.data.target),
            fingerprint=fetched.fingerprint,
            epochs=told.epoch,
            steps=told.step,
            world_size=run.workers.world_size,
        ),
        frameworks={
            "python": platform.python_version(),
            "modelwright": __version__,
            **{name: importlib.metadata.version(name) for name in _FRAMEWORKS},
        },
        rebuild=_rebuild(run, output / owncode.FACTORY_FILE),
    )


def _names(output: Path) -> list[str]:
    """Of all files that are to be published: all but those that only tell us something. A link is refused: what it
    leads to may be anywhere."""
    told = {owncode.METRICS_FILE, owncode.CLASSES_FILE, owncode.FACTORY_FILE, *owncode.SAMPLES_FILES}
    names = []
    for path in sorted(output.rglob("*")):
        name = path.relative_to(output).as_posix()
        if path.is_symlink():
            raise UserFailed(f"output/{name} is a link: copy what it leads to")
        if not path.is_file() or name in told:
            continue
        if name in _RESERVED:
            raise UserFailed(f"output/{name} has a name of a version's own files: rename it")
        names.append(name)
    if len(names) > _MOST_FILES:
        raise UserFailed(f"output has {len(names)} files, and a version has at most {_MOST_FILES}: pack them")
    return names


def _read(path: Path) -> Any:
    """The JSON in a file that the code may leave; None where it left none."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserFailed(f"output/{path.name} cannot be read as JSON: {error}") from error


def _metrics(path: Path) -> dict[str, float]:
    found = _read(path)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UserFailed(f'output/{path.name}: write an object of numbers by name, such as {{"accuracy": 0.97}}')
    for name, figure in found.items():
        if isinstance(figure, bool) or not isinstance(figure, int | float) or not math.isfinite(figure):
            raise UserFailed(
                f"output/{path.name}: {name} is {json.dumps(figure)[:80]}, and a metric is a finite number"
            )
    return {name: float(figure) for name, figure in found.items()}


def _classes(path: Path) -> tuple[str, ...]:
    found = _read(path)
    if found is None:
        return ()
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found) or len(set(found)) < len(found):
        raise UserFailed(
            f'output/{path.name}: write a list of texts, each once, in the order of the outputs: ["cat", "dog"]'
        )
    return tuple(found)


def _rebuild(run: OwnRun, path: Path) -> FactoryRebuild | None:
    found = _read(path)
    if found is None:
        return None
    try:
        factory = Factory.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserFailed(f"output/{path.name}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if "@sha256:" not in run.code.image:
        raise UserFailed(
            f"output/{path.name}: a factory is in an image that never changes, and spec.trainer.image {run.code.image}"
            " is a tag, which may: name the image by its digest (…@sha256:…)"
        )
    return FactoryRebuild(image=run.code.image, entrypoint=factory.entrypoint, kwargs=factory.kwargs)


def _told(path: Path) -> Told:
    try:
        return Told.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return Told()
