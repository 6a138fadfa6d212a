"""A TrainingJob on the whole cluster: trained, disturbed, suspended, refused, deleted."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import yaml

from dev import digits
from dev.demo import BUCKET, prepare, s3
from dev.install import NAMESPACE as OPERATOR_NAMESPACE
from dev.install import install
from dev.target import Store, Target
from devcluster.progress import StepFailed, Steps, wait_for

NAMESPACE = "modelwright-e2e-training"
EXAMPLE = yaml.safe_load((digits.EXAMPLES / "training-job.yaml").read_text())


@pytest.fixture(scope="module")
def space(target: Target, server: Store, refs: Mapping[str, str], steps: Steps) -> Iterator[str]:
    """A namespace with the store's credentials and the digits in the store; the operator watches it."""
    prepare(target, server, NAMESPACE)
    install(target, refs, server, steps)
    digits.upload(s3(server), BUCKET)
    yield NAMESPACE
    target.kubectl("delete", "namespace", NAMESPACE, f"{NAMESPACE}-host", "--wait", "--timeout=120s", timeout=130)


def training_job(name: str, version: str, **spec: Any) -> dict[str, Any]:
    made: dict[str, Any] = copy.deepcopy(EXAMPLE)
    made["metadata"] = {"name": name}
    made["spec"] |= {"publish": {"model": "digits", "version": version}, **spec}
    # Each test has a store folder of its own: a version that another published would be a conflict.
    made["spec"]["storage"] = {"uri": f"s3://{BUCKET}/e2e/{name}", "secretRef": {"name": "store"}}
    return made


def apply(target: Target, space: str, obj: Mapping[str, Any]) -> str:
    return target.kubectl("apply", "--namespace", space, "--filename", "-", stdin=json.dumps(obj))


def status(target: Target, space: str, name: str) -> dict[str, Any]:
    return digits.status_of(target, "trainingjob", name, space)


def condition(seen: Mapping[str, Any], kind: str = "Succeeded") -> dict[str, Any]:
    return next((one for one in seen.get("conditions") or () if one["type"] == kind), {})


def until(
    target: Target, space: str, name: str, what: str, check: Callable[[dict[str, Any]], bool], seconds: float = 180
) -> None:
    last: dict[str, Any] = {}

    def done() -> bool:
        last.clear()
        last.update(status(target, space, name))
        return check(last)

    try:
        wait_for(f"{name}: {what}", done, seconds=seconds, every=1)
    except StepFailed as failed:
        raise AssertionError(f"{failed.reason}; its status: {json.dumps(last)}") from failed


def succeeded(seen: Mapping[str, Any]) -> bool:
    return seen.get("phase") == "Succeeded"


def long_training(epochs: int = 200) -> dict[str, Any]:
    trainer = copy.deepcopy(EXAMPLE["spec"]["trainer"])
    trainer["hyperparameters"] |= {"epochs": str(epochs)}
    return {"trainer": trainer}


def test_a_version_is_trained_published_and_as_good_as_it_says(
    target: Target, server: Store, space: str, steps: Steps
) -> None:
    digits.train(target, space, steps)
    measured = digits.measure(target, server, space)
    assert measured.published_accuracy >= 0.93, "the example's gate"
    assert measured.accuracy >= measured.published_accuracy, "on all rows, of which most were trained on"
    table = target.kubectl("get", "modelwright", "--namespace", space)
    assert re.search(
        r"trainingjob.modelwright.dev/digits-v1-0-0 +digits +1\.0\.0 +Succeeded +100 +0\.\d+ +Published", table
    )
    assert re.search(r"modelversion.modelwright.dev/digits-v1-0-0 +digits +1\.0\.0 +Ready", table)
    assert re.search(r"model.modelwright.dev/digits +Ready +candidate=1\.0\.0 stable=1\.0\.0", table)


def test_a_killed_worker_costs_one_restart_and_the_training_goes_on(target: Target, space: str) -> None:
    apply(target, space, training_job("killed", "2.0.0", **long_training()))
    until(
        target,
        space,
        "killed",
        "has a checkpoint",
        lambda s: (s.get("progress") or {}).get("lastCheckpointStep", 0) > 0,
    )
    pod = f"{status(target, space, 'killed')['attempt']['jobName']}-1"
    found = target.kubectl("get", "pods", "--namespace", space, "--output", "name").split()
    name = next(one for one in found if one.startswith(f"pod/{pod}-"))
    target.kubectl("exec", name, "--namespace", space, "--", "python", "-c", "import os; os.kill(1, 9)")
    target.kubectl("delete", name, "--namespace", space, "--grace-period=0", "--force", "--wait=false")
    until(target, space, "killed", "is in its second attempt", lambda s: s["attempt"]["number"] == 2)
    until(target, space, "killed", "succeeds", succeeded)
    seen = status(target, space, "killed")
    assert seen["restarts"]["counted"] + seen["restarts"]["notCounted"] == 1


def test_a_suspended_job_stops_after_a_checkpoint_and_goes_on(target: Target, space: str) -> None:
    apply(target, space, training_job("suspended", "3.0.0", **long_training()))
    until(target, space, "suspended", "trains", lambda s: (s.get("progress") or {}).get("step", 0) > 100)
    patch = ["patch", "trainingjob", "suspended", "--namespace", space, "--type=merge", "--patch"]
    target.kubectl(*patch, '{"spec":{"suspend":true}}')
    until(target, space, "suspended", "is suspended", lambda s: s["phase"] == "Suspended")
    step = status(target, space, "suspended")["progress"]["step"]
    pods = json.loads(target.kubectl("get", "pods", "--namespace", space, "--output", "json"))["items"]
    mine = [pod for pod in pods if pod["metadata"]["labels"].get("modelwright.dev/trainingjob") == "suspended"]
    assert not [pod for pod in mine if pod["status"]["phase"] in {"Pending", "Running"}]
    target.kubectl(*patch, '{"spec":{"suspend":false}}')
    until(target, space, "suspended", "trains on", lambda s: (s.get("progress") or {}).get("step", 0) > step)
    until(target, space, "suspended", "succeeds", succeeded)
    assert status(target, space, "suspended")["restarts"] == {"counted": 0, "notCounted": 1}


@pytest.mark.parametrize(
    ("name", "spec", "reason", "words"),
    [
        (
            "misspelt",
            {"trainer": {"recipe": "mlp", "hyperparameters": {"learnngRate": "0.1"}}},
            "InvalidHyperparameter",
            "spec.trainer.hyperparameters.learnngRate: mlp has no such hyperparameter; did you mean learningRate?",
        ),
        (
            "column",
            {"data": {**EXAMPLE["spec"]["data"], "target": "lable"}},
            "DataError",
            "label",
        ),
        (
            "missing-data",
            {"data": {**EXAMPLE["spec"]["data"], "uri": f"s3://{BUCKET}/raw/nothing.parquet"}},
            "DataError",
            "nothing.parquet",
        ),
        (
            "gate",
            {"evaluation": {"gates": [{"metric": "accuracy", "min": "1"}]}},
            "GateFailed",
            "is below min 1",
        ),
        (
            "template",
            {"workers": {"replicas": 1, "podTemplate": {"spec": {"nodeSelector": {"not a label!": "x"}}}}},
            "InvalidPodTemplate",
            "nodeSelector",
        ),
    ],
)
def test_what_cannot_be_done_ends_in_words_that_a_person_can_act_on(
    target: Target, space: str, name: str, spec: dict[str, Any], reason: str, words: str
) -> None:
    apply(target, space, training_job(f"bad-{name}", "9.0.0", **spec))
    until(target, space, f"bad-{name}", "is refused", lambda s: s.get("phase") == "Failed")
    seen = status(target, space, f"bad-{name}")
    assert condition(seen)["reason"] == reason, seen
    assert words in condition(seen)["message"]
    assert condition(seen, "Stalled")["status"] == "True"
    assert "Traceback" not in json.dumps(seen)


def test_it_recovers_once_it_is_corrected(target: Target, space: str) -> None:
    wrong = {"data": {**EXAMPLE["spec"]["data"], "target": "lable"}}
    apply(target, space, training_job("corrected", "8.0.0", **wrong))
    until(target, space, "corrected", "is refused", lambda s: s.get("phase") == "Failed")
    apply(target, space, training_job("corrected", "8.0.0"))
    until(target, space, "corrected", "succeeds", succeeded)


@pytest.mark.parametrize(
    ("name", "spec", "words"),
    [
        ("gpus", {"workers": {"resources": {"limits": {"nvidia.com/gpu": 99}}}}, "Insufficient nvidia.com/gpu"),
        (
            "secret",
            {"storage": {"uri": f"s3://{BUCKET}/x", "secretRef": {"name": "nothing"}}},
            'secret "nothing" not found',
        ),
    ],
)
def test_what_a_pod_waits_for_is_told_in_kubernetes_words(
    target: Target, space: str, name: str, spec: dict[str, Any], words: str
) -> None:
    made = training_job(f"waits-{name}", "7.0.0")
    made["spec"] |= spec
    apply(target, space, made)
    until(target, space, f"waits-{name}", "says why", lambda s: words in condition(s).get("message", ""))
    target.kubectl("delete", "trainingjob", f"waits-{name}", "--namespace", space, "--wait")


def test_a_deleted_job_leaves_nothing_but_its_version(target: Target, space: str) -> None:
    apply(target, space, training_job("deleted", "6.0.0", **long_training()))
    until(target, space, "deleted", "trains", lambda s: s.get("phase") == "Running")
    target.kubectl("delete", "trainingjob", "deleted", "--namespace", space, "--wait")

    def gone() -> bool:
        selector = "modelwright.dev/trainingjob=deleted"
        return not target.kubectl(
            "get", "jobs,pods,services,configmaps", "--selector", selector, "--namespace", space, "--output", "name"
        ).strip()

    wait_for("its children are gone", gone, seconds=90, every=1)


def test_another_replica_takes_over_from_a_leader_that_is_killed(target: Target, space: str) -> None:
    apply(target, space, training_job("takeover", "5.0.0", **long_training()))
    until(target, space, "takeover", "trains", lambda s: s.get("phase") == "Running")
    lease = json.loads(
        target.kubectl("get", "lease", "modelwright", "--namespace", OPERATOR_NAMESPACE, "--output", "json")
    )
    leader = lease["spec"]["holderIdentity"].partition("_")[0]
    target.kubectl("delete", "pod", leader, "--namespace", OPERATOR_NAMESPACE, "--grace-period=0", "--force")
    until(target, space, "takeover", "succeeds", succeeded)
    assert status(target, space, "takeover")["attempt"]["number"] == 1, "the training did not notice"
