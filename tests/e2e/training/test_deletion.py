"""`kubectl delete` of each kind takes with it what it made and nothing else; a whole namespace goes without hanging."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from dev.demo import prepare
from dev.install import NAMESPACE as OPERATOR_NAMESPACE
from dev.target import Store, Target
from devcluster.progress import wait_for
from tests.e2e.training.jobs import Space, has_checkpoint, long_training, small, succeeded, training_job

MODEL = {
    "apiVersion": "modelwright.dev/v1alpha1",
    "kind": "Model",
    "metadata": {"name": "digits"},
    "spec": {"channels": {"candidate": {"latest": True}}},
}


@pytest.fixture
def bare(operator: Target, server: Store) -> Iterator[Space]:
    """A namespace that holds nothing but the store's credentials."""
    name = "modelwright-e2e-deletion"
    prepare(operator, server, name)
    yield Space(operator, name)
    operator.kubectl(
        "delete", "namespace", name, f"{name}-host", "--ignore-not-found", "--wait", "--timeout=120s", timeout=130
    )


def everything(space: Space) -> set[str]:
    """Every object in the namespace, of whatever kind, but Events."""
    kinds = space.target.kubectl("api-resources", "--verbs=list,delete", "--namespaced", "--output=name").split()
    asked = ",".join(kind for kind in kinds if not kind.startswith("events"))
    return set(space.kubectl("get", asked, "--output=name", "--ignore-not-found").split())


def becomes(space: Space, wanted: set[str], seconds: float = 90) -> None:
    left: set[str] = set()

    def reached() -> bool:
        left.clear()
        left.update(everything(space))
        return left == wanted

    try:
        wait_for("the objects are those that are wanted", reached, seconds=seconds, every=1)
    finally:
        print(f"\n  more: {sorted(left - wanted)}, less: {sorted(wanted - left)}")


VERSION = "modelversion.modelwright.dev/digits-v1-0-0"
CHANNELS = "model.modelwright.dev/digits"


def test_each_kind_takes_its_own_with_it_and_nothing_else(bare: Space) -> None:
    before = everything(bare)
    bare.apply(MODEL)
    bare.apply(small("digits", "1.0.0"))
    bare.until("digits", "succeeds", succeeded)
    wait_for("the channel", lambda: bare.status("digits", "model").get("phase") == "Ready", seconds=30)
    assert len(everything(bare) - before) > 5, "Job, pod, Service, ConfigMap and more"

    bare.kubectl("delete", "trainingjob", "digits")
    becomes(bare, before | {VERSION, CHANNELS})
    assert bare.status("digits-v1-0-0", "modelversion")["phase"] == "Ready", "a version outlives its training"

    bare.kubectl("delete", "modelversion", "digits-v1-0-0")
    wait_for("the channel", lambda: bare.status("digits", "model").get("phase") == "Waiting", seconds=30)
    becomes(bare, before | {CHANNELS})

    bare.kubectl("delete", "model", "digits")
    becomes(bare, before)


def test_a_job_that_is_deleted_in_mid_run_leaves_nothing(bare: Space) -> None:
    before = everything(bare)
    bare.apply(training_job("deleted", "5.0.0", **long_training(1000)))
    bare.until("deleted", "has a checkpoint", has_checkpoint)
    bare.kubectl("delete", "trainingjob", "deleted")
    becomes(bare, before)


def test_a_namespace_with_everything_in_it_goes_without_hanging(bare: Space) -> None:
    """A job that runs, one whose pods cannot be scheduled, one that is suspended, one that is done, its version, and a
    model. The operator goes on."""
    bare.apply(MODEL)
    bare.apply(small("digits", "1.0.0"))
    bare.until("digits", "succeeds", succeeded)
    bare.apply(training_job("runs", "2.0.0", **long_training(1000)))
    bare.apply(training_job("waits", "3.0.0", workers={"resources": {"limits": {"nvidia.com/gpu": 99}}}))
    bare.apply(training_job("rests", "4.0.0", suspend=True))
    bare.until("runs", "has a checkpoint", has_checkpoint)
    bare.until("waits", "waits", lambda seen: seen.get("phase") == "Pending")
    bare.until("rests", "rests", lambda seen: seen.get("phase") == "Suspended")
    began = time.monotonic()
    bare.target.kubectl("delete", "namespace", bare.name, "--wait", "--timeout=120s", timeout=130)
    print(f"\n  the namespace was gone after {time.monotonic() - began:.1f} s")

    operator = Space(bare.target, OPERATOR_NAMESPACE)
    pods = operator.items("pods", selector="app.kubernetes.io/name=modelwright")
    assert pods
    for pod in pods:
        (container,) = pod["status"]["containerStatuses"]
        assert container["restartCount"] == 0, json.dumps(container)
        assert "Traceback" not in operator.kubectl("logs", pod["metadata"]["name"], "--tail=2000")
