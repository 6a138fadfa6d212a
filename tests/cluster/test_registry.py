"""Models and versions on a real API server, with the operator as a process: what is served cannot be deleted, what is
taken back is left. There is no node, so that an InferenceService begins to serve, and gets no further."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from modelwright.collection import CollectRun
from modelwright.controllers.modelversion.observed import MADE_BY, MADE_LABEL
from modelwright.controllers.modelversion.use import FINALIZER

from devcluster.light import LightCluster
from tests.cluster import crds

SERVICE = {
    "apiVersion": crds.API_VERSION,
    "kind": "InferenceService",
    "metadata": {"name": "front"},
    "spec": {"model": {"name": "digits", "channel": "stable"}},
}


class World:
    """A namespace, and the operator for it."""

    lease_seconds = 3

    def __init__(self, light: LightCluster, namespace: str, log: Path) -> None:
        self.light, self.namespace, self.log = light, namespace, log

    def kubectl(self, *words: str, stdin: str | None = None) -> str:
        return self.light.kubectl(*words, "--namespace", self.namespace, stdin=stdin)

    @contextlib.contextmanager
    def operator(self) -> Iterator[subprocess.Popen[bytes]]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.light.kubeconfig),
            "MODELWRIGHT_NAMESPACE": self.namespace,
            "MODELWRIGHT_WATCH_NAMESPACE": self.namespace,
            "MODELWRIGHT_LEASE_SECONDS": str(self.lease_seconds),
            "MODELWRIGHT_METRICS_PORT": str(port),
            "MODELWRIGHT_TRAINER_IMAGE": "none",
            "MODELWRIGHT_SERVER_IMAGE": "none",
        }
        with self.log.open("ab") as log:
            command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "modelwright"]
            process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)

    def objects(self, kind: str) -> dict[str, dict[str, Any]]:
        return {one["metadata"]["name"]: one for one in crds.objects(self.light, kind, self.namespace)}

    def create(self, *manifests: crds.Manifest) -> None:
        for one in manifests:
            self.kubectl("create", "--filename", "-", stdin=crds.text(one))

    def publish(self, number: str, *, made: bool = False) -> None:
        """A version, as if its training had published it; `made`: by the operator."""
        name = f"digits-v{number.replace('.', '-')}"
        one = crds.model_version(name, version=number)
        one["metadata"]["labels"] = {MADE_LABEL: MADE_BY} if made else {}
        self.create(one)
        uri = f"s3://abc/models/{self.namespace}/digits/versions/{number}/manifest.json"
        status = {"artifact": {"uri": uri, "digest": "sha256:" + "0" * 64}}
        patch = crds.text({"status": status})
        self.kubectl("patch", "modelversion", name, "--subresource=status", "--type=merge", "--patch", patch)

    def patch(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        self.kubectl("patch", kind, name, "--type=merge", "--patch", crds.text({"spec": spec}))

    def until(self, what: str, check: Callable[[], object], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not check():
            if time.monotonic() > deadline:
                pytest.fail(f"{what}: not within {seconds:g} s; {self.log.read_text()[-2000:]}")
            time.sleep(0.1)

    def version(self, number: str) -> dict[str, Any]:
        return self.objects("modelversions").get(f"digits-v{number.replace('.', '-')}", {})

    def channel(self, name: str = "stable") -> str:
        status = self.objects("models")["digits"].get("status") or {}
        return str((status.get("channels") or {}).get(name, {}).get("version", ""))

    def held(self, number: str) -> bool:
        return FINALIZER in (self.version(number).get("metadata") or {}).get("finalizers", ())


def condition(obj: dict[str, Any], kind: str) -> dict[str, Any]:
    return next((one for one in obj["status"].get("conditions") or () if one["type"] == kind), {})


@pytest.fixture
def world(light: LightCluster, request: pytest.FixtureRequest, tmp_path: Path) -> World:
    crds.install(light)
    namespace = f"registry-{abs(hash(request.node.name)) % 10**8}"
    light.kubectl("create", "namespace", namespace)
    one = World(light, namespace, tmp_path / "operator.log")
    one.publish("1.0.0")
    one.publish("1.1.0")
    one.create(crds.model("digits", stable={"version": "1.1.0"}), SERVICE)
    return one


def test_a_version_that_is_served_is_deleted_once_nobody_serves_it(world: World) -> None:
    with world.operator():
        world.until("somebody is about to serve it", lambda: world.held("1.1.0"))
        assert not world.held("1.0.0"), "the finalizer stands only where somebody serves"
        world.until(
            "it says who", lambda: (world.version("1.1.0").get("status") or {}).get("serving") == "front (next)"
        )
        said = "1.1.0 by front (next)"
        world.until("the model says so", lambda: world.objects("models")["digits"]["status"].get("serving") == said)
        # As it would once its pods answer.
        world.until("the change", lambda: (world.objects("inferenceservices")["front"]["status"]).get("rollout"))
        target = world.objects("inferenceservices")["front"]["status"]["rollout"]["target"]
        patch = crds.text({"status": {"active": target, "rollout": None}})
        world.kubectl("patch", "inferenceservice", "front", "--subresource=status", "--type=merge", "--patch", patch)
        world.kubectl("delete", "modelversion", "digits-v1-1-0", "--wait=false")
        world.until("the hold is told", lambda: condition(world.version("1.1.0"), "DeletionHeld"))
        assert condition(world.version("1.1.0"), "DeletionHeld")["message"].startswith(
            "still served by InferenceService front: it goes once nobody serves it."
        )
        time.sleep(1)
        assert world.version("1.1.0"), "still there"
        world.kubectl("delete", "inferenceservice", "front")
        world.until("it goes", lambda: not world.version("1.1.0"))


def test_what_became_of_services_while_the_operator_was_away_is_found_out(world: World) -> None:
    """As where a namespace is emptied, in either order, and nobody is there to see it."""
    with world.operator():
        world.until("somebody is about to serve it", lambda: world.held("1.1.0"))
    world.kubectl("delete", "modelversion", "digits-v1-1-0", "--wait=false")
    world.kubectl("delete", "inferenceservice", "front")
    assert world.version("1.1.0"), "nobody is there to let it go"
    with world.operator():
        world.until("it goes", lambda: not world.version("1.1.0"))


def test_the_operator_lets_go_of_what_it_holds_in_its_own_namespace_when_that_is_deleted(world: World) -> None:
    """It goes with it, and nobody would come back."""
    with world.operator():
        world.until("somebody is about to serve it", lambda: world.held("1.1.0"))
        # Nobody empties a namespace here: it stays as it is when the operator is asked to end.
        world.light.kubectl("delete", "namespace", world.namespace, "--wait=false")
        assert world.held("1.1.0")
    assert not world.held("1.1.0")
    assert world.version("1.1.0"), "it is the namespace's to delete"


def test_the_operator_that_ends_otherwise_holds_on(world: World) -> None:
    with world.operator():
        world.until("somebody is about to serve it", lambda: world.held("1.1.0"))
    assert world.held("1.1.0")


def test_a_version_is_let_go_when_the_channel_moves_on_before_anything_began(world: World) -> None:
    world.kubectl("delete", "inferenceservice", "front")
    with world.operator():
        world.until("the channel", lambda: world.channel() == "1.1.0")
        world.create(SERVICE)
        world.until("held", lambda: world.held("1.1.0"))
        world.patch("model", "digits", {"channels": {"stable": {"version": "1.0.0"}}})
        world.until("the other one is held", lambda: world.held("1.0.0") and not world.held("1.1.0"))


def test_a_channel_leaves_a_version_that_is_taken_back_and_its_service_follows(world: World) -> None:
    world.patch("model", "digits", {"channels": {"stable": {"version": "1.0.0"}}})
    with world.operator():
        world.until("the first", lambda: world.channel() == "1.0.0")
        world.patch("model", "digits", {"channels": {"stable": {"version": "1.1.0"}}})
        world.until("the second", lambda: world.held("1.1.0") and world.channel() == "1.1.0")
        world.patch("modelversion", "digits-v1-1-0", {"retracted": {"reason": "wrong labels"}})
        world.until("it goes back", lambda: world.channel() == "1.0.0")
        world.until("who follows it goes, too", lambda: world.held("1.0.0") and not world.held("1.1.0"))
        one = world.version("1.1.0")
        assert (one["status"]["phase"], condition(one, "Retracted")["message"]) == ("Retracted", "wrong labels")
        assert condition(world.objects("models")["digits"], "Stalled")["reason"] == "VersionRetracted"
        assert "wrong labels" in world.kubectl("get", "modelversions", "--output=wide")
        world.patch("modelversion", "digits-v1-1-0", {"retracted": None})
        world.until("and comes again", lambda: world.channel() == "1.1.0" and world.held("1.1.0"))
        world.until("nothing is said of it", lambda: world.version("1.1.0")["status"]["phase"] == "Ready")


def test_versions_that_are_not_kept_are_deleted_and_a_job_is_told_to_remove_them_from_the_store(world: World) -> None:
    for number in ("0.7.0", "0.8.0", "0.9.0"):
        world.publish(number, made=True)
    world.patch("model", "digits", {"retention": {"keepLast": 3, "pinned": ["0.8.0"]}})
    with world.operator():
        world.until("the rest is gone", lambda: not world.version("0.7.0"))
        # Beside it, at the beginning, one that only looked through the store.
        world.until("it is written down", lambda: "retiring" in str(world.objects("models")["digits"]["status"]))
        world.kubectl("delete", "jobs", "--all")
        world.until("a Job", lambda: world.objects("jobs"))
        assert set(world.objects("modelversions")) == {
            "digits-v0-8-0", "digits-v0-9-0", "digits-v1-0-0", "digits-v1-1-0",
        }  # fmt: skip
        retention = world.objects("models")["digits"]["status"]["retention"]
        assert [one["name"] for one in retention["retiring"]] == ["digits-v0-7-0"]
        jobs = world.objects("jobs")
        (job,) = [one for one in jobs.values() if "collect" in one["metadata"]["name"]]
        (environment,) = job["spec"]["template"]["spec"]["containers"][0]["env"]
        told = CollectRun.model_validate_json(environment["value"])
        assert told.folders == (f"s3://abc/models/{world.namespace}/digits",)
        assert [one.uri for one in told.retired] == [f"{told.folders[0]}/versions/0.7.0/manifest.json"]
