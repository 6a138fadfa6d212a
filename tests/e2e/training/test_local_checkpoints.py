"""Checkpoints on a volume that outlives the pods, beside the store's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.training.jobs import Space, condition, failed, long_training, succeeded, training_job

NAME = "modelwright-e2e-local"


@pytest.fixture
def volume(space: Space) -> Iterator[str]:
    """A claim on a folder of the node, which pods may write to."""
    folder = Path("/var/tmp") / NAME  # noqa: S108 - the node's own
    capacity = {"storage": "1Gi"}
    metadata = {"name": NAME, "labels": {"modelwright.dev/test": NAME}}
    space.target.kubectl("apply", "--filename", "-", stdin=json.dumps({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata,
        "spec": {
            "capacity": capacity, "accessModes": ["ReadWriteMany"], "storageClassName": NAME,
            "hostPath": {"path": str(folder), "type": "DirectoryOrCreate"},
        },
    }))  # fmt: skip
    space.apply({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": NAME},
        "spec": {"accessModes": ["ReadWriteMany"], "storageClassName": NAME, "resources": {"requests": capacity}},
    })  # fmt: skip
    # A folder of the node belongs to root, whatever fsGroup says.
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    yield NAME
    space.kubectl("delete", "trainingjob", "--all", "--wait", timeout=130)
    space.kubectl("delete", "pvc", NAME, "--wait")
    space.target.kubectl("delete", "pv", NAME, "--wait")


def test_a_killed_worker_goes_on_from_its_own_volume(space: Space, volume: str) -> None:
    """The store's first checkpoint would be after the end."""
    mounts = [{"name": "fast", "mountPath": "/checkpoints"}]
    template = {
        "volumes": [{"name": "fast", "persistentVolumeClaim": {"claimName": volume}}],
        "containers": [{"name": "trainer", "volumeMounts": mounts}],
    }
    asked = {
        **long_training(),
        "workers": {
            "replicas": 2,
            "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}},
            "podTemplate": {"spec": template},
        },
        "checkpoint": {"everySteps": 1_000_000, "local": {"path": "/checkpoints", "everySteps": 20}},
    }
    space.apply(training_job("local", "9.0.0", **asked))
    space.until("local", "is well under way", lambda seen: (seen.get("progress") or {}).get("step", 0) > 200)
    worker = f"{space.status('local')['attempt']['jobName']}-0-"
    found = space.kubectl("get", "pods", "--output", "name").split()
    name = next(one for one in found if one.startswith(f"pod/{worker}"))
    space.kubectl("delete", name, "--grace-period=0", "--force", "--wait=false")
    space.until("local", "is in its second attempt", lambda seen: seen["attempt"]["number"] == 2)
    seen = space.until("local", "succeeds", succeeded, seconds=300)
    last = max(seen["history"], key=lambda one: int(one["number"]))
    assert last["fromStep"] > 100
    assert last["fromStep"] % 20 == 0 or "Preempted" in json.dumps(seen["history"]), "or it was told to stop, and saved"
    assert not list((Path("/var/tmp") / NAME).glob("*/local/*/*/*.pt")), "removed once it is published"  # noqa: S108


def test_without_a_volume_the_field_and_the_remedy_are_named(space: Space) -> None:
    asked = {"checkpoint": {"local": {"path": "/checkpoints", "everySteps": 20}}}
    space.apply(training_job("unmounted", "9.1.0", **asked))
    seen = space.until("unmounted", "fails", failed)
    assert condition(seen)["message"] == (
        "spec.checkpoint.local.path: no volume is mounted at /checkpoints: add one by workers.podTemplate.spec, in"
        " volumes and in volumeMounts of the container trainer"
    )
