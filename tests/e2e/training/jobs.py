"""TrainingJobs for tests, and a namespace to put them in."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from modelwright import artifact
from modelwright.artifact import Manifest
from modelwright.contract import StoreAccess
from modelwright.store import Store as ArtifactStore

from dev import digits, examples
from dev.demo import BUCKET, ensure_bucket, prepare, s3
from dev.install import install
from dev.target import Store, Target
from devcluster.progress import StepFailed, Steps, wait_for

EXAMPLE = examples.training_job()


def training_job(name: str, version: str, **spec: Any) -> dict[str, Any]:
    """The example under another name and version; `spec` replaces fields."""
    made: dict[str, Any] = copy.deepcopy(EXAMPLE)
    made["metadata"] = {"name": name}
    made["spec"] |= {"publish": {"model": "digits", "version": version}, **spec}
    # Each test has a store folder of its own: a version that another published would be a conflict.
    made["spec"]["storage"] = {"uri": f"s3://{BUCKET}/e2e/{name}", "secretRef": {"name": "store"}}
    return made


def trainer(**hyperparameters: str) -> dict[str, Any]:
    """The example's, with these hyperparameters."""
    made: dict[str, Any] = copy.deepcopy(EXAMPLE["spec"]["trainer"])
    made["hyperparameters"] |= hyperparameters
    return made


def small(name: str, version: str) -> dict[str, Any]:
    """A training of seconds, on one worker; it publishes whatever it reaches."""
    workers = {"replicas": 1, "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}}}
    quick = trainer(hiddenSizes="16", epochs="1")
    return training_job(name, version, trainer=quick, workers=workers, evaluation={"metrics": ["accuracy"]})


def long_training(epochs: int = 200) -> dict[str, Any]:
    return {"trainer": trainer(epochs=str(epochs))}


def condition(seen: Mapping[str, Any], kind: str = "Succeeded") -> dict[str, Any]:
    return next((one for one in seen.get("conditions") or () if one["type"] == kind), {})


def succeeded(seen: Mapping[str, Any]) -> bool:
    return seen.get("phase") == "Succeeded"


def failed(seen: Mapping[str, Any]) -> bool:
    return seen.get("phase") == "Failed"


def has_checkpoint(seen: Mapping[str, Any]) -> bool:
    return ((seen.get("progress") or {}).get("lastCheckpointStep") or 0) > 0


@dataclasses.dataclass(frozen=True)
class Space:
    """A namespace of the cluster. What kubectl says against it is raised as `StepFailed`."""

    target: Target
    name: str

    def kubectl(self, *words: str, stdin: str | None = None, timeout: float = 60) -> str:
        return self.target.kubectl(*words, "--namespace", self.name, stdin=stdin, timeout=timeout)

    def apply(self, obj: Mapping[str, Any]) -> str:
        return self.kubectl("apply", "--filename", "-", stdin=json.dumps(obj))

    def items(self, *kinds: str, selector: str = "") -> list[dict[str, Any]]:
        found = self.kubectl("get", ",".join(kinds), f"--selector={selector}", "--output=json")
        items: list[dict[str, Any]] = json.loads(found)["items"]
        return items

    def status(self, name: str, kind: str = "trainingjob") -> dict[str, Any]:
        return digits.status_of(self.target, kind, name, self.name)

    def until(
        self,
        name: str,
        what: str,
        check: Callable[[dict[str, Any]], bool],
        seconds: float = 180,
        kind: str = "trainingjob",
    ) -> dict[str, Any]:
        """Waits until the status of the object passes the check, and returns it; else fails with what it was."""
        last: dict[str, Any] = {}

        def done() -> bool:
            last.clear()
            last.update(self.status(name, kind))
            return check(last)

        try:
            wait_for(f"{name}: {what}", done, seconds=seconds, every=0.5)
        except StepFailed as late:
            raise AssertionError(f"{late.reason}; its status: {json.dumps(last)}") from late
        return last


@contextlib.contextmanager
def fresh(
    target: Target, server: Store, refs: Mapping[str, str], steps: Steps, namespace: str, folder: str
) -> Iterator[Space]:
    """A namespace with the store's credentials, under the operator as the chart installs it, and an empty folder of the
    store beside the digits."""
    install(target, refs, server, steps)
    ensure_bucket(server)
    digits.upload(s3(server), BUCKET)
    # Versions of a run before this one would stand in the way of another content.
    digits.forget(s3(server), BUCKET, f"{folder}/")
    prepare(target, server, namespace)
    made = Space(target, namespace)
    made.kubectl(
        "delete", "inferenceservices,trainingjobs,modelversions,models,datasets", "--all", "--wait", timeout=130
    )  # fmt: skip
    yield made
    target.kubectl("delete", "namespace", namespace, f"{namespace}-host", "--wait=false")


def files(space: Space, server: Store, version: str) -> tuple[dict[str, str], list[dict[str, float]]]:
    """The digests of a version's files by name, and the losses of its epochs."""
    published = space.status(version, "modelversion")["artifact"]
    keys = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
    access = StoreAccess(uri=published["uri"], endpoint=server.outside, region=server.region)
    store = ArtifactStore(access, keys)
    content = store.read(published["uri"])
    assert artifact.digest_of(content) == published["digest"]
    digests = {file.path: file.digest for file in Manifest.from_bytes(content).files}
    history = store.read(artifact.blob_uri(published["uri"], digests[artifact.HISTORY_FILE]))
    return digests, json.loads(history)["epochs"]
