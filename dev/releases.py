"""Versions made from a published one, for the demo and the tests: the same model under another number, one whose bytes
are altered in the store afterwards, and one that errs on real rows though its golden samples agree."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from modelwright import artifact, versions
from modelwright.api.versions import model_version_name
from modelwright.artifact import Manifest
from modelwright.contract import StoreAccess
from modelwright.store import Store as ArtifactStore
from onnx import helper, numpy_helper
from safetensors.numpy import load_file

from dev.digits import status_of
from dev.target import Store, Target
from devcluster.progress import StepFailed

Change = Callable[[Path, Manifest], None]
"""Changes files of a fetched version in its folder."""


@dataclasses.dataclass(frozen=True)
class Release:
    """A version in the store, not yet known to the cluster."""

    manifest: Manifest
    uri: str
    digest: str

    def model_version(self) -> dict[str, Any]:
        """The ModelVersion that imports it."""
        name = model_version_name(self.manifest.model, self.manifest.version, self.manifest.variant)
        return {
            "apiVersion": "modelwright.dev/v1alpha1",
            "kind": "ModelVersion",
            "metadata": {"name": name},
            "spec": {
                "model": self.manifest.model,
                "version": self.manifest.version,
                "source": {
                    "artifact": {
                        "uri": self.uri,
                        "digest": self.digest,
                        "storage": {"secretRef": {"name": "store"}},
                    }
                },
            },
        }


def artifact_store(server: Store, uri: str) -> ArtifactStore:
    """The store as a client outside the cluster reaches it."""
    environment = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
    return ArtifactStore(StoreAccess(uri=uri, endpoint=server.outside, region=server.region), environment)


def release(
    target: Target, server: Store, namespace: str, version: str, *, of: str, change: Change = lambda *_: None
) -> Release:
    """Publishes the files of the ModelVersion `of`, changed by `change`, as another version of its model."""
    source = status_of(target, "modelversion", of, namespace)["artifact"]
    store = artifact_store(server, source["uri"])
    uri = f"{source['uri'].rpartition('/versions/')[0]}/versions/{version}/{artifact.MANIFEST}"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        manifest = versions.fetch(store, source["uri"], source["digest"], folder)
        change(folder, manifest)
        files = tuple(versions.file_entry(folder / file.path, file.path) for file in manifest.files)
        made = manifest.model_copy(update={"version": version, "files": files})
        return Release(made, uri, versions.publish(store, uri, made, folder))


def _graph(folder: Path, manifest: Manifest) -> tuple[Path, onnx.ModelProto]:
    if manifest.formats.onnx is None:
        raise StepFailed(f"version {manifest.version} has no ONNX format")
    path = folder / manifest.formats.onnx.path
    return path, onnx.load(path, load_external_data=False)


def remarked(remark: str) -> Change:
    """Writes a remark into the graph, so that its file is no other version's."""

    def change(folder: Path, manifest: Manifest) -> None:
        path, model = _graph(folder, manifest)
        model.doc_string = remark
        path.write_bytes(model.SerializeToString(deterministic=True))

    return change


def erring(rows: np.ndarray[Any, Any]) -> Change:
    """Lets the graph look one column up in a table that is too short: long enough for the golden samples, not for all
    of `rows`. Such a mistake is made where a vocabulary is built from a sample."""

    def change(folder: Path, manifest: Manifest) -> None:
        golden = load_file(folder / artifact.GOLDEN_FILE)[artifact.INPUT]
        beyond = (rows > golden.max(axis=0)).mean(axis=0)
        column = int(beyond.argmax())
        if beyond[column] == 0:
            raise StepFailed("no row lies beyond the golden samples, so that none would fail")
        length = int(golden[:, column].max()) + 1
        path, model = _graph(folder, manifest)
        constants: dict[str, np.ndarray[Any, Any]] = {
            "column": np.array(column, np.int64),
            "vocabulary": np.zeros(length, np.float32),
            "axis": np.array([1], np.int64),
        }
        nodes = [
            helper.make_node("Gather", [artifact.INPUT, "column"], ["word"], axis=1),
            helper.make_node("Cast", ["word"], ["index"], to=onnx.TensorProto.INT64),
            helper.make_node("Gather", ["vocabulary", "index"], ["looked.up"]),
            helper.make_node("Unsqueeze", ["looked.up", "axis"], ["embedded"]),
            helper.make_node("Add", [artifact.INPUT, "embedded"], ["known.features"]),
        ]
        for node in model.graph.node:
            node.input[:] = ["known.features" if name == artifact.INPUT else name for name in node.input]
        rest = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend([*nodes, *rest])
        model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
        path.write_bytes(model.SerializeToString(deterministic=True))

    return change


def alter(client: Any, release: Release, path: str = artifact.ONNX_FILE) -> str:
    """Flips one bit of a file of the version where it lies in the store; returns the object's URI."""
    file = next(file for file in release.manifest.files if file.path == path)
    uri = artifact.blob_uri(release.uri, file.digest)
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    content = bytearray(client.get_object(Bucket=bucket, Key=key)["Body"].read())
    content[len(content) // 2] ^= 1
    client.put_object(Bucket=bucket, Key=key, Body=bytes(content))
    return uri


def apply(target: Target, namespace: str, *objects: Mapping[str, Any]) -> None:
    for obj in objects:
        target.kubectl("apply", "--namespace", namespace, "--filename", "-", stdin=json.dumps(obj))
