"""Versions that are served, taken back and deleted, on the whole cluster."""

from __future__ import annotations

import json
from typing import Any

import pytest
from modelwright import artifact, versions
from modelwright.controllers.modelversion.observed import MADE_BY, MADE_LABEL

from dev import releases
from dev.traffic import table
from devcluster.progress import wait_for
from tests.e2e.serving.conftest import EXAMPLE, MODEL, NAMESPACE, ROLLOUT, Serve, Space


def name(version: str) -> str:
    return f"{MODEL}-v{version.replace('.', '-')}"


def retract(space: Space, version: str, reason: str | None) -> None:
    spec = {"retracted": {"reason": reason} if reason else None}
    space.kubectl("patch", "modelversion", name(version), "--type", "merge", "--patch", json.dumps({"spec": spec}))


def there(space: Space, version: str) -> bool:
    found = space.kubectl("get", "modelversion", name(version), "--ignore-not-found", "--output", "name")
    return bool(found.strip())


def test_who_serves_a_version_that_is_taken_back_goes_back_and_loses_no_request(space: Space, serve: Serve) -> None:
    space.release("1.7.0")
    service = serve("taken-back")
    service.point("1.7.0")
    service.until_serves("1.7.0")
    assert "taken-back" in space.get("modelversion", name("1.7.0"))["status"]["serving"]
    try:
        with service.traffic() as traffic:
            traffic.until_sent(50)
            retract(space, "1.7.0", "wrong labels")
            service.until_serves("1.0.0")
            traffic.until_sent(300)
        print(table(traffic.results))
        for one in traffic.results.values():
            assert one.failed == 0, f"{one.client}: {dict(one.why)}"
        channel = space.get("model", MODEL)["status"]["channels"]["taken-back"]
        assert channel["version"] == "1.0.0"
        assert channel["message"] == f"ModelVersion {name('1.7.0')} is retracted (wrong labels); it went back to 1.0.0"
        assert [one["version"] for one in channel["history"]] == ["1.7.0"]
    finally:
        retract(space, "1.7.0", None)
    service.until_serves("1.7.0")


def test_a_served_version_is_deleted_once_nobody_serves_it(space: Space, serve: Serve) -> None:
    space.release("1.8.0")
    service = serve("holds")
    service.point("1.8.0")
    service.until_serves("1.8.0")
    space.kubectl("delete", "modelversion", name("1.8.0"), "--wait=false")
    space.versions.pop("1.8.0")

    def held() -> bool:
        conditions = space.get("modelversion", name("1.8.0"))["status"]["conditions"]
        return any(one["type"] == "DeletionHeld" and "holds" in one["message"] for one in conditions)

    wait_for("it says who holds it", held, seconds=30, every=0.3)
    assert service.status["version"] == "1.8.0"
    service.point("1.0.0")
    service.until_serves("1.0.0")
    wait_for("the version goes", lambda: not there(space, "1.8.0"), seconds=60, every=0.3)


@pytest.mark.parametrize("operator", ["up", "down"])
def test_a_namespace_that_is_deleted_does_not_hang_on_served_versions(space: Space, operator: str) -> None:
    """Whether the operator is there all along, or comes back when all services are gone."""
    target, other = space.target, f"{NAMESPACE}-{operator}"
    release = space.release("1.9.0")
    target.kubectl("create", "namespace", other)
    secret = space.get("secret", "store")
    copied = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "store"}, "data": secret["data"]}
    service = json.loads(json.dumps(EXAMPLE))
    service["metadata"] = {"name": "front"}
    service["spec"] |= {"model": {"name": MODEL, "version": "1.9.0"}, "replicas": 1, "rollout": ROLLOUT}
    service["spec"]["resources"] = {"requests": {"cpu": "20m", "memory": "96Mi"}}

    def ask(*words: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(target.kubectl(*words, "--namespace", other, "--output", "json"))
        return found

    def finalizers() -> object:
        found: dict[str, dict[str, object]] = json.loads(json.dumps(ask("get", "modelversion", name("1.9.0"))))
        return found["metadata"].get("finalizers")

    for obj in (copied, release.model_version(), service):
        plain = {**obj, "metadata": {"name": obj["metadata"]["name"]}}
        target.kubectl("apply", "--namespace", other, "--filename", "-", stdin=json.dumps(plain))
    wait_for("it is served", finalizers, seconds=120, every=0.5)
    deployment = ("deployment", "modelwright", "--namespace", "modelwright-system")
    if operator == "down":
        target.kubectl("scale", *deployment, "--replicas=0")
        target.kubectl("wait", "--for=delete", "pod", "--selector=app.kubernetes.io/name=modelwright",
                       "--namespace", "modelwright-system", "--timeout=90s", timeout=100)  # fmt: skip
    try:
        target.kubectl("delete", "namespace", other, "--wait=false")
        if operator == "down":
            gone = lambda: not ask("get", "inferenceservices")["items"]  # noqa: E731
            wait_for("the services are gone", gone, seconds=90, every=0.5)
            assert finalizers()
    finally:
        if operator == "down":
            target.kubectl("scale", *deployment, "--replicas=2")
    target.kubectl("wait", "--for=delete", f"namespace/{other}", "--timeout=120s", timeout=130)


def test_versions_that_are_not_kept_go_from_the_cluster_and_from_the_store(space: Space) -> None:
    """Their files are younger than any that may be removed, and stay for now."""
    numbers = ("0.1.0", "0.2.0")
    made = [space.release(number, change=releases.remarked(number)) for number in numbers]
    for number in numbers:
        # As versions are that the operator made for a TrainingJob.
        space.kubectl("label", "modelversion", name(number), f"{MADE_LABEL}={MADE_BY}", "--overwrite")
    kept = {"keepLast": 1, "pinned": ["1.0.0"], "minAge": "1h", "storage": {"secretRef": {"name": "store"}}}

    def retain(retention: object) -> None:
        patch = json.dumps({"spec": {"retention": retention}})
        space.kubectl("patch", "model", MODEL, "--type", "merge", "--patch", patch)

    retain(kept)
    try:
        told: dict[str, Any] = {}

        def done() -> bool:
            told.clear()
            told.update((space.get("model", MODEL)["status"]).get("retention") or {})
            return told.get("retired") == 2

        wait_for("both are gone from the store", done, seconds=180, every=0.5)
    finally:
        retain(None)
        for number in numbers:
            space.versions.pop(number)
    assert not any(there(space, number) for number in numbers)
    assert there(space, "1.0.0")
    assert told["freedBytes"] > 0
    for one in made:
        store = releases.artifact_store(space.store, one.uri)
        assert versions.standing(store, one.uri) is None
        graph = next(file for file in one.manifest.files if file.path == artifact.ONNX_FILE)
        assert store.size(artifact.blob_uri(one.uri, graph.digest)) == graph.size
