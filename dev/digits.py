"""The main job on real data: scikit-learn's handwritten digits, trained on two workers, published, measured."""

from __future__ import annotations

import dataclasses
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
from modelwright import versions
from modelwright.contract import StoreAccess
from modelwright.store import Store as ArtifactStore
from sklearn.datasets import load_digits

from dev import examples
from dev.target import Store, Target
from devcluster.progress import Hopeless, Step, StepFailed, Steps, wait_for

KEY = "raw/digits.parquet"
JOB = "digits-v1-0-0"
PIXELS = 64


def as_parquet() -> bytes:
    """1,797 rows: 64 pixels of an 8×8 image as numbers from 0 to 16, and the digit as `label`."""
    pixels, labels = load_digits(return_X_y=True)
    columns = {f"pixel_{index}": pixels[:, index] for index in range(PIXELS)}
    file = io.BytesIO()
    pq.write_table(pa.table({**columns, "label": labels}), file)
    return file.getvalue()


def upload(client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key=KEY, Body=as_parquet())


def forget(client: Any, bucket: str, folder: str) -> None:
    """Removes all that lies under `folder`: a version of an earlier run would stand in the way of another content."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder):
        for found in page.get("Contents", []):
            client.delete_object(Bucket=bucket, Key=found["Key"])


def forget_all(client: Any, bucket: str, namespace: str) -> None:
    """Removes what the example's objects in that namespace have written."""
    for kind in ("models", "datasets", "checkpoints"):
        forget(client, bucket, f"artifacts/{kind}/{namespace}/")


def status_of(target: Target, kind: str, name: str, namespace: str) -> dict[str, Any]:
    found = json.loads(target.kubectl("get", kind, name, "--namespace", namespace, "--output", "json"))
    status: dict[str, Any] = found.get("status") or {}
    return status


def told(status: dict[str, Any]) -> str:
    """Where a TrainingJob is, in one line."""
    progress = status.get("progress") or {}
    message = next((c["message"] for c in status.get("conditions") or () if c["type"] == "Succeeded"), "")
    if status.get("phase") == "Running" and progress.get("totalSteps"):
        loss = f", loss {float(progress['trainLoss']):.3f}" if progress.get("trainLoss") else ""
        return f"epoch {progress.get('epoch')} of {progress.get('epochs')}, {progress.get('percent')} %{loss}"
    return message


def await_trained(target: Target, namespace: str, step: Step, *, name: str = JOB, seconds: float = 300) -> None:
    """Waits until the TrainingJob has succeeded. Raises `Hopeless` with its own words where it failed for good."""

    def done() -> bool:
        status = status_of(target, "trainingjob", name, namespace)
        step.note(told(status))
        if status.get("phase") == "Failed":
            raise Hopeless(f"TrainingJob {name} failed: {told(status)}")
        return status.get("phase") == "Succeeded"

    wait_for(f"TrainingJob {name} succeeds", done, seconds=seconds, every=1)


def train(target: Target, namespace: str, steps: Steps) -> None:
    """`kubectl apply` of the example, from nothing, until its version is published."""
    target.kubectl(
        "delete",
        "inferenceservices,trainingjobs,modelversions,models,datasets",
        "--all",
        "--namespace",
        namespace,
        "--wait",
        timeout=90,
    )
    with steps.step(
        "kubectl apply of examples/digits: rows are checked, 2 workers train, 1.0.0 is published", usual=60
    ) as step:
        target.kubectl("apply", "--namespace", namespace, "--filename", str(examples.DIGITS))
        await_trained(target, namespace, step)
        step.note("")


@dataclasses.dataclass(frozen=True)
class Measured:
    """What the published version is worth, by its own files: rows, and the fraction of them that it gets right."""

    digest: str
    files: int
    bytes: int
    rows: int
    accuracy: float
    published_accuracy: float


def measure(target: Target, server: Store, namespace: str, *, name: str = JOB) -> Measured:
    """Fetches the published artifact, checks every digest, and runs it on all rows with ONNX Runtime."""
    artifact = status_of(target, "modelversion", name, namespace)["artifact"]
    environment = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
    access = StoreAccess(uri=artifact["uri"], endpoint=server.outside, region=server.region)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        manifest = versions.fetch(ArtifactStore(access, environment), artifact["uri"], artifact["digest"], folder)
        if manifest.formats.onnx is None:
            raise StepFailed(f"ModelVersion {name} has no ONNX format")
        session = onnxruntime.InferenceSession(folder / manifest.formats.onnx.path, providers=["CPUExecutionProvider"])
        table = pq.read_table(io.BytesIO(as_parquet()))
        (graph_input,) = manifest.inputs
        rows = np.column_stack([table[column].to_numpy() for column in graph_input.names]).astype(graph_input.dtype)
        outputs = dict(
            zip((out.name for out in manifest.outputs), session.run(None, {graph_input.name: rows}), strict=True)
        )
    scores = next(value for value in outputs.values() if value.ndim == 2)
    predicted = np.array(manifest.classes)[scores.argmax(axis=1)]
    right = predicted == table["label"].to_numpy().astype(str)
    return Measured(
        digest=artifact["digest"],
        files=len(manifest.files),
        bytes=sum(file.size for file in manifest.files),
        rows=len(rows),
        accuracy=float(right.mean()),
        published_accuracy=manifest.metrics["test"]["accuracy"],
    )
