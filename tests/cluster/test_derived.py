"""Versions that are made out of others on a real API server, with the operator as a process. There is no node: the test
does what Kubernetes and the pods would do with each Job."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from modelwright.contract import Failure, Outcome, Published
from modelwright.controllers.modelversion.derive_observed import STAGE_ANNOTATION
from modelwright.derivation import DERIVATION_VARIABLE, CompressRun, DerivationSummary, Size

from devcluster.light import LightCluster
from tests.cluster import crds
from tests.cluster.test_registry import World, condition

SMALL = "digits-v1-0-0--small"
STORAGE = {"uri": "s3://abc/x"}
STEPS = ({"prune": {"sparsity": "0.9"}}, {"cluster": {"bits": 4}})


class Derived(World):
    """With the part of a Job's controller, and of its pod."""

    # On a busy machine a renewal may wait for longer than a shorter Lease lasts.
    lease_seconds = 8

    def version_named(self, name: str) -> dict[str, Any]:
        return self.objects("modelversions").get(name, {})

    def ready(self, name: str) -> dict[str, Any]:
        obj = self.version_named(name)
        return condition(obj, "Ready") if obj.get("status") else {}

    def until_said(self, name: str, reason: str, message: str) -> None:
        said: list[Any] = []

        def is_said() -> bool:
            said[:] = [self.ready(name)]
            return (said[0].get("reason"), said[0].get("message")) == (reason, message)

        try:
            self.until(f"{name}: {reason}", is_said, seconds=20)
        except pytest.fail.Exception as late:
            raise AssertionError(f"{late}; it says {said}") from late

    def jobs(self) -> dict[int, dict[str, Any]]:
        return {int(one["metadata"]["annotations"][STAGE_ANNOTATION]): one for one in self.objects("jobs").values()}

    def job(self, stage: int) -> dict[str, Any]:
        self.until(f"the Job of stage {stage}", lambda: stage in self.jobs())
        return self.jobs()[stage]

    def end(self, job: dict[str, Any], summary: DerivationSummary) -> None:
        """As its pod and its controller tell it: the pod's word comes last, since no watch waits for another."""
        pod = job["spec"]["template"] | {"apiVersion": "v1", "kind": "Pod"}
        name = f"{job['metadata']['name']}-x"
        owner = {
            "apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"],
            "controller": True,
        }  # fmt: skip
        pod["metadata"] = {
            "name": name,
            "labels": {**job["metadata"]["labels"], "job-name": job["metadata"]["name"]},
            "ownerReferences": [owner],
        }
        self.create(pod)
        self.status("pod", name, {"phase": "Running"})
        self.status("job", job["metadata"]["name"], _ended(summary))
        code = Outcome.named(summary.outcome).code
        container = pod["spec"]["containers"][0]
        terminated = {"exitCode": code, "reason": "Error" if code else "Completed", "message": summary.to_message()}
        ended = {"name": container["name"], "image": container["image"], "imageID": "", "ready": False}
        ended |= {"restartCount": 0, "state": {"terminated": terminated}}
        self.status("pod", name, {"phase": "Failed" if code else "Succeeded", "containerStatuses": [ended]})

    def status(self, kind: str, name: str, status: dict[str, Any]) -> None:
        patch = crds.text({"status": status})
        self.kubectl("patch", kind, name, "--subresource=status", "--type=merge", "--patch", patch)


def _ended(summary: DerivationSummary) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    failed = summary.outcome != Outcome.SUCCEEDED.reason
    types = ["FailureTarget", "Failed"] if failed else ["SuccessCriteriaMet", "Complete"]
    conditions = [
        {"type": one, "status": "True", "reason": "PodFailurePolicy" if failed else "CompletionsReached",
         "message": "it ended", "lastTransitionTime": now, "lastProbeTime": now}
        for one in types
    ]  # fmt: skip
    ended: dict[str, Any] = {"startTime": now, "conditions": conditions}
    return ended | ({"failed": 1} if failed else {"succeeded": 1, "completionTime": now})


def size(accuracy: float, parameters: int = 100) -> Size:
    return Size(
        bytes=5 * parameters, weights_bytes=4 * parameters, parameters=parameters, nonzero=parameters,
        metrics={"accuracy": accuracy}, latency_p50_ms=0.1,
    )  # fmt: skip


def done(stage: int, **more: Any) -> DerivationSummary:
    return DerivationSummary(
        outcome="Succeeded", stage=stage, before=size(0.9), after=size(0.89, 50), seconds=1.0, **more
    )


@pytest.fixture
def world(light: LightCluster, request: pytest.FixtureRequest, tmp_path: Path) -> Derived:
    crds.install(light)
    namespace = f"derived-{abs(hash(request.node.name)) % 10**8}"
    light.kubectl("create", "namespace", namespace)
    light.kubectl("create", "serviceaccount", "default", "--namespace", namespace)
    return Derived(light, namespace, tmp_path / "operator.log")


def test_each_step_is_a_job_and_an_operator_that_dies_goes_on_where_it_was(world: Derived) -> None:
    with world.operator():
        world.create(crds.compressed(*STEPS, storage=STORAGE))
        world.until_said(
            SMALL, "WaitingForParent", "waiting for ModelVersion digits-v1-0-0, which does not exist: create it"
        )
        world.publish("1.0.0")
        job = world.job(0)
        run = CompressRun.model_validate_json(_variable(job))
        assert (run.stage, run.parent.name, run.store.uri) == (0, "digits-v1-0-0", "s3://abc/x")
        world.until_said(SMALL, "Compressing", "step 1 of 2 (prune) begins: the pod starts")
    # What becomes of the parent is nothing to it any more.
    world.kubectl("delete", "modelversion", "digits-v1-0-0")
    world.end(job, done(0, notes=("output: kept whole",)))
    with world.operator() as process:
        second = world.job(1)
        process.kill()
    world.end(second, done(1))
    with world.operator():
        third = world.job(2)
        assert CompressRun.model_validate_json(_variable(third)).stage == 2
        world.until("only the last is left", lambda: set(world.jobs()) == {2})
        artifact = Published(uri="s3://abc/x/manifest.json", digest="sha256:" + "7" * 64)
        world.end(third, done(2, artifact=artifact, metrics={"accuracy": 0.89}))
        words = "compressed out of digits-v1-0-0 in 2 steps, 250 bytes of 500"
        world.until_said(SMALL, "Published", words)
        world.until("all Jobs are gone", lambda: not world.jobs())
        status = world.version_named(SMALL)["status"]
        assert status["phase"] == "Ready"
        assert status["artifact"] == {"uri": artifact.uri, "digest": artifact.digest}
        assert status["steps"][0]["notes"] == ["output: kept whole"]
        assert [one["state"] for one in status["steps"]] == ["Succeeded"] * 3
        world.until("Events", lambda: "250 bytes of 500" in world.kubectl("get", "events"))


def _variable(job: dict[str, Any]) -> str:
    environment = job["spec"]["template"]["spec"]["containers"][0]["env"]
    return str(next(one["value"] for one in environment if one["name"] == DERIVATION_VARIABLE))


def test_a_gate_waits_for_its_channel_and_one_that_fails_stays_so_until_the_version_is_made_again(
    world: Derived,
) -> None:
    gate = {"metric": "accuracy", "maxRegression": "0.01", "against": {"channel": "stable"}}
    made = crds.compressed(STEPS[0], storage=STORAGE, evaluation={"gates": [gate]})
    with world.operator():
        world.publish("1.0.0")
        world.publish("1.1.0")
        world.create(made)
        world.until_said(
            SMALL, "WaitingForComparison",
            "waiting for channel stable of Model digits, which does not exist: create it",
        )  # fmt: skip
        world.create(crds.model("digits", stable={"version": "1.1.0"}))
        world.end(world.job(0), done(0))
        last = world.job(1)
        told = CompressRun.model_validate_json(_variable(last)).evaluation.gates[0].against
        assert told is not None
        assert told.name == "digits-v1-1-0"
        words = "not published: accuracy 0.7 is 0.2 worse than the 0.9 of digits-v1-1-0"
        failure = Failure(type="TrainingFailed", message=words)
        world.end(last, DerivationSummary(outcome="GateFailed", stage=1, failure=failure))
        message = (
            f"the publication: {words}. Most changed at step 1 of 1 (prune): accuracy 0.9 before it and 0.89 after"
            " (validation split). A version is immutable: delete it, mend what is wrong, and create it again"
        )
        world.until_said(SMALL, "GateFailed", message)
        assert world.version_named(SMALL)["status"]["phase"] == "Failed"
        assert set(world.jobs()) == {1}, "the one that failed stays, for its logs"
    with world.operator():
        world.kubectl("delete", "job", last["metadata"]["name"])
        world.until_said(SMALL, "GateFailed", message)
        world.kubectl("delete", "modelversion", SMALL)
        world.create(made)
        first = world.job(0)
        assert first["metadata"]["name"] != last["metadata"]["name"]


def test_what_cannot_begin_says_why_and_goes_on_once_it_can(world: Derived) -> None:
    hen = crds.compressed(STEPS[0], storage=STORAGE, variant="hen", source__compress__from=_variant("egg"))
    egg = crds.compressed(STEPS[0], storage=STORAGE, variant="egg", source__compress__from=_variant("hen"))
    heir = crds.compressed(STEPS[0], storage=STORAGE, variant="heir", source__compress__from=_variant("hen"))
    with world.operator():
        world.create(hen, egg, heir)
        circle = (
            "digits-v1-0-0--hen, which is made of digits-v1-0-0--egg, which is made of digits-v1-0-0--hen: none of them"
            " can be the first; delete one, and create it out of another version"
        )
        world.until_said("digits-v1-0-0--hen", "Cycle", circle)
        world.until_said("digits-v1-0-0--heir", "ParentFailed", f"ModelVersion digits-v1-0-0--hen failed: {circle}")
        assert world.jobs() == {}
        world.kubectl("delete", "modelversion", "digits-v1-0-0--egg")
        gone = "waiting for ModelVersion digits-v1-0-0--egg, which does not exist: create it"
        world.until_said("digits-v1-0-0--hen", "WaitingForParent", gone)
        world.until_said(
            "digits-v1-0-0--heir", "WaitingForParent",
            "waiting for ModelVersion digits-v1-0-0--hen, which is not Ready",
        )  # fmt: skip
        world.create(crds.compressed(STEPS[0], storage=STORAGE, variant="egg", source__compress__from=_variant("yolk")))
        template = {"spec": {"nodeSelector": {"not a label!": "x"}}}
        bad = crds.compressed(STEPS[0], storage=STORAGE, variant="bad", source__compress__podTemplate=template)
        world.create(bad, crds.compressed(STEPS[0], variant="homeless"))
        world.publish("1.0.0")
        world.until(
            "the template is refused", lambda: world.ready("digits-v1-0-0--bad").get("reason") == "InvalidPodTemplate"
        )
        said = world.ready("digits-v1-0-0--bad")["message"]
        assert said.startswith("spec.source.compress.podTemplate: the API server refuses the Job: ")
        assert "not a label!" in said
        world.until_said(
            "digits-v1-0-0--homeless", "NoStorage",
            "spec.storage.uri: required, since the operator has no default store (chart: storage.uri)",
        )  # fmt: skip


def _variant(name: str) -> dict[str, str]:
    return {"version": "1.0.0", "variant": name}


def test_a_combination_is_one_job_that_knows_its_members(world: Derived) -> None:
    with world.operator():
        world.publish("1.0.0")
        world.create(crds.combined({"version": "1.0.0", "weight": "2"}, {"version": "1.1.0"},
                                   source__combine__method="Vote", storage=STORAGE))  # fmt: skip
        waiting = "waiting for ModelVersion digits-v1-1-0, which does not exist: create it"
        world.until_said("digits-v2-0-0", "WaitingForParent", waiting)
        world.publish("1.1.0")
        job = world.job(0)
        members = json.loads(_variable(job))["members"]
        assert [(one["name"], one["weight"]) for one in members] == [("digits-v1-0-0", 2.0), ("digits-v1-1-0", 1.0)]
        failure = Failure(type="MembersDiffer", message="class 1 is 'cat' in digits-v1-1-0 and 'dog' in digits-v1-0-0")
        world.end(job, DerivationSummary(outcome="MembersDiffer", failure=failure))
        world.until_said(
            "digits-v2-0-0", "MembersDiffer",
            "the combination: class 1 is 'cat' in digits-v1-1-0 and 'dog' in digits-v1-0-0. A version is immutable:"
            " delete it, mend what is wrong, and create it again",
        )  # fmt: skip
