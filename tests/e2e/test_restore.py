"""A namespace is lost, and comes again from Git and the store: the same digests serve."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from modelwright import versions

from dev import digits, examples, releases
from dev.demo import BUCKET, prepare, s3
from dev.digits import status_of
from dev.install import install
from dev.target import Store, Target
from dev.traffic import CLIENTS, Traffic
from devcluster.progress import Steps, wait_for
from tests.e2e.serving.conftest import ROLLOUT, bodies

NAMESPACE = "modelwright-e2e-restore"
STORE = f"s3://{BUCKET}/e2e-restore"
NAMES = ("digits-v1-0-0", "digits-v1-1-0")


def in_git() -> list[dict[str, Any]]:
    """What a team keeps there: what its channels point at, and who serves them."""
    service = yaml.safe_load((examples.DIGITS / "inference-service.yaml").read_text())
    service["spec"] |= {"model": {"name": "digits", "channel": "stable"}, "replicas": 1, "rollout": ROLLOUT}
    service["spec"]["resources"] = {"requests": {"cpu": "20m", "memory": "96Mi"}}
    channels = {"stable": {"version": "1.0.0"}, "candidate": {"latest": True}}
    api = "modelwright.dev/v1alpha1"
    model = {"apiVersion": api, "kind": "Model", "metadata": {"name": "digits"}, "spec": {"channels": channels}}
    return [model, {**service, "metadata": {"name": "digits"}}]


@pytest.fixture
def space(target: Target, server: Store, refs: Mapping[str, str], steps: Steps) -> Iterator[Target]:
    prepare(target, server, NAMESPACE)
    install(target, refs, server, steps)
    digits.upload(s3(server), BUCKET)
    digits.forget(s3(server), BUCKET, "e2e-restore/")
    target.kubectl(
        "delete", "inferenceservices,trainingjobs,modelversions,models", "--all", "--wait", "--namespace", NAMESPACE
    )
    yield target
    target.kubectl("delete", "namespace", NAMESPACE, f"{NAMESPACE}-host", "--wait", "--timeout=150s", timeout=160)


def command(target: Target, server: Store, *words: str) -> str:
    """`modelwright …`, as a person calls it who has the store's keys in the environment."""
    where = ["--namespace", NAMESPACE, "--context", target.context]
    if target.kubeconfig is not None:
        where += ["--kubeconfig", str(target.kubeconfig)]
    env = {
        **os.environ, "NO_PROXY": "*", "no_proxy": "*", "AWS_ENDPOINT_URL": server.outside,
        "AWS_REGION": server.region, "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
    }  # fmt: skip
    program = [sys.executable, "-c", "from modelwright.cli import main; raise SystemExit(main())"]
    done = subprocess.run([*program, *words, *where], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def serving(target: Target) -> tuple[str, str]:
    """Version and digest of what answers, at rest."""
    last: dict[str, Any] = {}

    def at_rest() -> bool:
        last.clear()
        last.update(status_of(target, "inferenceservice", "digits", NAMESPACE))
        return last.get("phase") == "Ready" and not last.get("rollout")

    wait_for("the service is at rest", at_rest, seconds=240, every=0.5)
    return last["version"], last["active"]["digest"]


def known(target: Target) -> dict[str, str]:
    """The digest of each version that is Ready."""
    found = json.loads(target.kubectl("get", "modelversions", "--namespace", NAMESPACE, "--output", "json"))["items"]
    ready = [one for one in found if (one.get("status") or {}).get("phase") == "Ready"]
    return {one["metadata"]["name"]: one["status"]["artifact"]["digest"] for one in ready}


def answers(target: Target, image: str) -> None:
    url = f"http://digits.{NAMESPACE}.svc"
    with Traffic(target, NAMESPACE, image, url=url, model="digits", bodies=bodies(20), clients=CLIENTS[:1]) as traffic:
        traffic.until_sent(20)
    for one in traffic.results.values():
        assert one.failed == 0, f"{one.client}: {dict(one.why)}"


def test_a_namespace_that_is_lost_comes_again_from_git_and_the_store(
    space: Target, server: Store, refs: Mapping[str, str], tmp_path: Path
) -> None:
    job = examples.training_job()
    job["metadata"] = {"name": NAMES[0]}
    job["spec"]["storage"]["uri"] = STORE
    job["spec"]["trainer"]["hyperparameters"] |= {"epochs": "4"}
    job["spec"]["workers"]["replicas"] = 1
    releases.apply(space, NAMESPACE, job)
    wait_for("the first version", lambda: NAMES[0] in known(space), seconds=240, every=1)
    release = releases.release(space, server, NAMESPACE, "1.1.0", of=NAMES[0], change=releases.remarked("the second"))
    releases.apply(space, NAMESPACE, release.model_version(), *in_git())
    wait_for("both versions", lambda: set(known(space)) == set(NAMES), seconds=120, every=0.5)
    before, digests = serving(space), known(space)
    answers(space, refs["server"])
    drawn = command(space, server, "lineage", "digits", "--svg", str(tmp_path / "lineage.svg"))
    assert "InferenceService digits" in drawn
    assert f"published TrainingJob {NAMES[0]}" in drawn

    # All of it, though its versions are served.
    space.kubectl("delete", "namespace", NAMESPACE, "--wait", "--timeout=180s", timeout=190)
    prepare(space, server, NAMESPACE)
    releases.apply(space, NAMESPACE, *in_git())
    folder = f"{STORE}/models/{NAMESPACE}"
    told = command(space, server, "import", folder, "--all", "--secret", "store", "--apply")
    assert told.splitlines() == [f"{name} is imported ({digests[name]})" for name in NAMES]
    assert serving(space) == before
    wait_for("both versions", lambda: known(space) == digests, seconds=120, every=0.5)
    answers(space, refs["server"])
    told = command(space, server, "import", folder, "--all", "--secret", "store", "--apply")
    assert told.splitlines() == [f"{name} is there already, with the same digest" for name in NAMES]

    pulled = tmp_path / "pulled"
    assert "every digest checked" in command(space, server, "pull", "digits:stable", "--to", str(pulled))
    assert versions.verify(pulled, digests[NAMES[0]]).version == "1.0.0"
