"""A namespace with a trained version, further ones made from it, and services of each test's own."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import yaml
from sklearn.datasets import load_digits

from dev import digits, examples, releases
from dev.demo import BUCKET, prepare, s3
from dev.install import install
from dev.releases import Release
from dev.target import Store, Target
from dev.traffic import CLIENTS, Client, Traffic
from devcluster.progress import StepFailed, Steps, wait_for

NAMESPACE = "modelwright-e2e-serving"
MODEL = "digits"
EXAMPLE = yaml.safe_load((examples.DIGITS / "inference-service.yaml").read_text())
# Short, so that a test of many upgrades ends; what is promised does not hang on the lengths.
ROLLOUT = {
    "minReadySeconds": 1,
    "analysis": {"before": {"requests": 20}, "after": {"duration": "6s", "minRequests": 20, "maxErrorRate": "0.01"}},
    "scaleDownDelay": "2s",
    "drainTimeout": "10s",
}


def bodies(count: int = 200) -> list[dict[str, Any]]:
    """Real rows, one to a request."""
    rows, _ = load_digits(return_X_y=True)
    step = len(rows) // count
    return [
        {"inputs": [{"name": "features", "shape": [1, 64], "datatype": "FP32", "data": row.tolist()}]}
        for row in rows[::step][:count]
    ]


@dataclasses.dataclass(frozen=True)
class Space:
    """The namespace. `versions` are the releases that were made, by their numbers."""

    target: Target
    store: Store
    image: str
    steps: Steps
    versions: dict[str, Release] = dataclasses.field(default_factory=dict)

    def kubectl(self, *words: str, stdin: str | None = None, timeout: float = 90) -> str:
        return self.target.kubectl(*words, "--namespace", NAMESPACE, stdin=stdin, timeout=timeout)

    def get(self, kind: str, *name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, *name, "--output", "json"))
        return found

    def apply(self, obj: Mapping[str, Any]) -> None:
        self.kubectl("apply", "--filename", "-", stdin=json.dumps(obj))

    def release(self, version: str, change: releases.Change = lambda *_: None) -> Release:
        """Another version of the model, in the store and imported."""
        if version not in self.versions:
            made = releases.release(self.target, self.store, NAMESPACE, version, of="digits-v1-0-0", change=change)
            self.apply(made.model_version())
            self.versions[version] = made
        name = self.versions[version].model_version()["metadata"]["name"]
        wait_for(f"{name} is Ready", lambda: self.phase("modelversion", name) == "Ready", seconds=120, every=0.5)
        return self.versions[version]

    def phase(self, kind: str, name: str) -> str:
        return str((self.get(kind, name).get("status") or {}).get("phase"))

    def point(self, channel: str, version: str) -> None:
        """Moves the channel, as `kubectl apply` of a changed Model does."""
        patch = {"spec": {"channels": {channel: {"version": version}}}}
        self.kubectl("patch", "model", MODEL, "--type", "merge", "--patch", json.dumps(patch))


@dataclasses.dataclass(frozen=True)
class Service:
    """An InferenceService, with a channel of its own of the same name."""

    space: Space
    name: str

    @property
    def status(self) -> dict[str, Any]:
        return self.space.get("inferenceservice", self.name).get("status") or {}

    def condition(self, kind: str = "Ready") -> dict[str, Any]:
        found = (one for one in self.status.get("conditions") or () if one["type"] == kind)
        return next(found, {})

    @property
    def step(self) -> str:
        return str((self.status.get("rollout") or {}).get("step", ""))

    def point(self, version: str) -> None:
        self.space.point(self.name, version)

    def until(self, what: str, check: Callable[[dict[str, Any]], object], seconds: float = 180) -> dict[str, Any]:
        last: dict[str, Any] = {}

        def done() -> bool:
            last.clear()
            last.update(self.status)
            return bool(check(last))

        try:
            wait_for(f"{self.name}: {what}", done, seconds=seconds, every=0.3)
        except StepFailed as failed:
            pods = self.space.kubectl("get", "pods", "--output", "wide")
            raise AssertionError(f"{failed.reason}; its status: {json.dumps(last)}\n{pods}") from failed
        return last

    def until_serves(self, version: str, seconds: float = 180) -> dict[str, Any]:
        """At rest, with all pods."""
        return self.until(
            f"serves {version}, at rest",
            lambda s: s.get("version") == version and s.get("phase") == "Ready" and not s.get("rollout"),
            seconds,
        )

    def annotate(self, what: str, value: str) -> None:
        self.space.kubectl("annotate", "inferenceservice", self.name, f"modelwright.dev/{what}={value}", "--overwrite")

    def command(self, what: str) -> str:
        """`modelwright promote` and the like, as a person calls it."""
        where = ["--namespace", NAMESPACE, "--context", self.space.target.context]
        if self.space.target.kubeconfig is not None:
            where += ["--kubeconfig", str(self.space.target.kubeconfig)]
        words = [sys.executable, "-c", "from modelwright.cli import main; raise SystemExit(main())", what, self.name]
        env = {**os.environ, "NO_PROXY": "*", "no_proxy": "*"}
        return subprocess.run([*words, *where], check=True, capture_output=True, text=True, env=env).stdout

    def patch(self, spec: Mapping[str, Any]) -> None:
        self.space.kubectl(
            "patch", "inferenceservice", self.name, "--type", "merge", "--patch", json.dumps({"spec": spec})
        )

    def pods(self) -> dict[str, tuple[str, int, str]]:
        """uid, restarts and revision of the serving pods, by name."""
        selector = f"modelwright.dev/inferenceservice={self.name},modelwright.dev/role=server"
        found = self.space.get("pods", "--selector", selector)["items"]
        return {
            pod["metadata"]["name"]: (
                pod["metadata"]["uid"],
                sum(one["restartCount"] for one in pod["status"].get("containerStatuses") or ()),
                pod["metadata"]["labels"]["modelwright.dev/revision"],
            )
            for pod in found
        }

    def traffic(self, clients: Sequence[Client] = CLIENTS, *, workers: int = 2, pause: float = 0.01) -> Traffic:
        return Traffic(
            self.space.target,
            NAMESPACE,
            self.space.image,
            url=f"http://{self.name}.{NAMESPACE}.svc",
            model=MODEL,
            bodies=bodies(),
            clients=clients,
            workers=workers,
            pause=pause,
        )


@pytest.fixture(scope="session")
def space(target: Target, server: Store, refs: Mapping[str, str], steps: Steps) -> Iterator[Space]:
    prepare(target, server, NAMESPACE)
    install(target, refs, server, steps)
    digits.upload(s3(server), BUCKET)
    digits.forget(s3(server), BUCKET, "e2e-serving/")
    made = Space(target, server, refs["server"], steps)
    # What a run that was cut off has left knows of versions that the store holds no more.
    made.kubectl("delete", "inferenceservices,trainingjobs,modelversions,models", "--all", "--wait")
    job = examples.training_job()
    job["spec"]["storage"]["uri"] = f"s3://{BUCKET}/e2e-serving"
    # As good as its gate asks, and no better: what is tested here is how it is served.
    job["spec"]["trainer"]["hyperparameters"] |= {"epochs": "4"}
    job["spec"]["workers"]["replicas"] = 1
    made.apply({**job, "metadata": {"name": "digits-v1-0-0"}})
    made.apply({"apiVersion": "modelwright.dev/v1alpha1", "kind": "Model", "metadata": {"name": MODEL}, "spec": {}})
    wait_for(
        "the first version", lambda: made.phase("trainingjob", "digits-v1-0-0") == "Succeeded", seconds=240, every=1
    )
    yield made
    target.kubectl("delete", "namespace", NAMESPACE, f"{NAMESPACE}-host", "--wait", "--timeout=150s", timeout=160)


Serve = Callable[..., Service]


@pytest.fixture
def serve(space: Space) -> Iterator[Serve]:
    """Makes an InferenceService that follows a channel of its own, and waits until it serves 1.0.0."""
    made: list[str] = []

    def make(name: str, *, wait: bool = True, rollout: Mapping[str, Any] | None = None, **spec: Any) -> Service:
        space.point(name, "1.0.0")
        obj = copy.deepcopy(EXAMPLE)
        obj["metadata"] = {"name": name}
        obj["spec"] |= {"model": {"name": MODEL, "channel": name}, "rollout": {**ROLLOUT, **(rollout or {})}, **spec}
        obj["spec"]["resources"] = {"requests": {"cpu": "20m", "memory": "96Mi"}}
        obj["spec"] |= spec
        space.apply(obj)
        made.append(name)
        service = Service(space, name)
        if wait:
            service.until_serves("1.0.0")
        return service

    yield make
    for name in made:
        space.kubectl("delete", "inferenceservice", name, "--wait")
