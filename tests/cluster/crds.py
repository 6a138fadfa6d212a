"""Objects of our kinds for tests, and what a real API server says of them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from dev import examples
from devcluster.light import LightCluster
from devcluster.progress import StepFailed

ROOT = Path(__file__).parents[2]
CRDS = sorted((ROOT / "crds").glob("*.yaml"))
EXAMPLES = sorted((ROOT / "examples").rglob("*.yaml"))
API_VERSION = "modelwright.dev/v1alpha1"
NOT_ALL_CHECKED = (
    "some validation rules were not checked because the object was invalid; correct the existing errors to complete"
    " validation"
)

Manifest = dict[str, Any]


def install(cluster: LightCluster) -> str:
    """Applies the CRDs, waits until they are served, and returns what kubectl printed meanwhile."""
    words = [word for path in CRDS for word in ("--filename", str(path))]
    said = cluster.kubectl("apply", *words)
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", *words)
    return said


def training_job(name: str = "digits-v1-0-0", **at: Any) -> Manifest:
    """The example's TrainingJob. `at` sets fields of its spec, by path with `__` for a dot; None removes one."""
    made: Manifest = examples.training_job()
    made["metadata"]["name"] = name
    return edited(made, **at)


def own_code(**at: Any) -> Manifest:
    """A TrainingJob with code of its own, and nothing beside."""
    spec = {
        "publish": {"model": "digits", "version": "1.0.0"},
        "data": {"uri": "s3://abc/raw/"},
        "trainer": {"image": "registry/team/own:1", "command": ["python", "train.py"]},
    }
    made = {"apiVersion": API_VERSION, "kind": "TrainingJob", "metadata": {"name": "own"}, "spec": spec}
    return edited(made, **at)


def dataset(name: str = "digits", **at: Any) -> Manifest:
    spec = {"source": {"uri": "s3://abc/raw/"}, "schema": {"target": "label", "task": "Classification"}}
    return edited({"apiVersion": API_VERSION, "kind": "Dataset", "metadata": {"name": name}, "spec": spec}, **at)


def model_version(name: str = "digits-v1-0-0", **at: Any) -> Manifest:
    spec = {"model": "digits", "version": "1.0.0", "source": {"trainingJobRef": {"name": "digits-v1-0-0"}}}
    return edited({"apiVersion": API_VERSION, "kind": "ModelVersion", "metadata": {"name": name}, "spec": spec}, **at)


def compressed(*steps: Manifest, **at: Any) -> Manifest:
    """A ModelVersion that is compressed in `steps`; `at` is as of `training_job`."""
    source = {"compress": {"from": {"version": "1.0.0"}, "steps": list(steps) or [{"prune": {"sparsity": "0.9"}}]}}
    variant = at.pop("variant", "small")
    name = f"digits-v1-0-0--{variant}" if variant else "digits-v1-0-0"
    return model_version(name, variant=variant, source=source, **at)


def searched(**target: Any) -> Manifest:
    """A ModelVersion whose steps are to be found."""
    made = compressed(source__compress__target={"maxRegression": "0.01", **target})
    del made["spec"]["source"]["compress"]["steps"]
    return made


def combined(*members: Manifest, **at: Any) -> Manifest:
    """A ModelVersion that is combined of `members`; `at` is as of `training_job`."""
    source = {"combine": {"members": list(members) or [{"version": "1.0.0"}, {"version": "1.1.0"}]}}
    return model_version("digits-v2-0-0", version="2.0.0", source=source, **at)


def imported(at: Manifest | None = None, **stated: Any) -> Manifest:
    """A ModelVersion that is imported; `stated` replaces fields of its source, `at` those of its spec."""
    source = {"import": {"uri": "s3://abc/exports/model.onnx", "format": "Onnx", **stated}}
    return model_version("digits-v2-0-0", version="2.0.0", source=source, **(at or {}))


def model(name: str = "digits", **channels: Any) -> Manifest:
    return {
        "apiVersion": API_VERSION,
        "kind": "Model",
        "metadata": {"name": name},
        "spec": {"channels": channels or {"stable": {"version": "1.0.0"}}},
    }


def edited(manifest: Manifest, **at: Any) -> Manifest:
    made = copy.deepcopy(manifest)
    for path, value in at.items():
        *parents, last = path.split("__")
        place = made["spec"]
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
    return made


def created(cluster: LightCluster, *manifests: Manifest) -> None:
    cluster.kubectl("create", "--filename", "-", stdin=_list(manifests))


def refusal(cluster: LightCluster, manifest: Manifest) -> list[str]:
    """Why the API server refuses to create `manifest`, one line for each reason, without the object's name; none where
    it takes it. Nothing is stored."""
    try:
        cluster.kubectl("create", "--dry-run=server", "--filename", "-", stdin=json.dumps(manifest))
    except StepFailed as failed:
        return reasons(failed)
    return []


def change_refusal(cluster: LightCluster, resource: str, name: str, patch: Manifest) -> list[str]:
    """Why the API server refuses a merge patch; none where it is applied."""
    try:
        cluster.kubectl("patch", resource, name, "--type=merge", "--patch", json.dumps(patch))
    except StepFailed as failed:
        return reasons(failed)
    return []


def reasons(failed: StepFailed) -> list[str]:
    said = failed.output.strip()
    lines = said.split(" is invalid: ", 1)[-1].strip().splitlines()
    return [line.removeprefix("* ") for line in lines if NOT_ALL_CHECKED not in line]


def accepted(cluster: LightCluster, manifests: list[Manifest]) -> set[str]:
    """The names of those that the API server would take; one kubectl for all of them."""
    try:
        said = cluster.kubectl("create", "--dry-run=server", "--filename", "-", stdin=_list(tuple(manifests)))
    except StepFailed as failed:
        said = failed.output
    return {
        line.split("/", 1)[1].split(" ", 1)[0]
        for line in said.splitlines()
        if line.endswith("created (server dry run)")
    }


def _list(manifests: tuple[Manifest, ...]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})


def text(manifest: Manifest) -> str:
    return json.dumps(manifest)


def objects(cluster: LightCluster, resource: str, namespace: str) -> list[Manifest]:
    found: list[Manifest] = json.loads(cluster.kubectl("get", resource, "--namespace", namespace, "--output", "json"))[
        "items"
    ]
    return found
