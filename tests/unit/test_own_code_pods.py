"""The pod around the user's own code: what it is made of, and how its end is read."""

from __future__ import annotations

from typing import Any

import pytest
from modelwright.contract import Failure, Outcome, Publish, StoreAccess, Summary, Workers
from modelwright.controllers.trainingjob.children import Blueprint, children, master
from modelwright.controllers.trainingjob.observed import JobView, job_view, pod_view
from modelwright.controllers.trainingjob.outcome import failure
from modelwright.kube.resources import Object
from modelwright.owncode import Code, OwnData, OwnRun

RUN = OwnRun(
    namespace="team",
    name="own",
    uid="uid",
    publish=Publish(model="own", version="1.0.0"),
    store=StoreAccess(uri="s3://models"),
    data=OwnData(uri="s3://models/raw/"),
    code=Code(image="team/own:1", command=("python", "train.py"), env={"LEVEL": "3"}),
    workers=Workers(replicas=2, master=master("own", "uid", 1)),
)
GPU = {"requests": {"cpu": "2"}, "limits": {"memory": "4Gi", "nvidia.com/gpu": 1}}


def job(overlay: Object | None = None, run: OwnRun = RUN) -> Object:
    owner = {"kind": "TrainingJob", "name": "own", "uid": "uid", "controller": True}
    return children(Blueprint(run, owner, "trainer:1", "store", GPU, overlay or {}))[2]


def spec(overlay: Object | None = None, run: OwnRun = RUN) -> Any:
    return job(overlay, run)["spec"]["template"]["spec"]


def named(overlay: Object | None = None) -> dict[str, Any]:
    made = spec(overlay)
    return {one["name"]: one for one in (*made["initContainers"], *made["containers"])}


def test_nothing_is_published_before_the_code_has_ended_with_0() -> None:
    made = spec()
    assert [one["name"] for one in made["initContainers"]] == ["fetch", "progress", "trainer"]
    assert [one["name"] for one in made["containers"]] == ["publish"]
    assert [one.get("restartPolicy") for one in made["initContainers"]] == [None, "Always", None]
    assert made["shareProcessNamespace"] is True


def test_the_users_container_is_the_users_and_holds_no_credentials_of_the_store() -> None:
    trainer = named()["trainer"]
    assert (trainer["image"], trainer["command"], "args" in trainer) == ("team/own:1", ["python", "train.py"], False)
    assert "envFrom" not in trainer
    variables = {one["name"]: one.get("value") for one in trainer["env"]}
    assert variables["LEVEL"] == "3"
    assert variables["MODELWRIGHT_DATA"] == "/modelwright/data"
    assert variables["MASTER_ADDR"] == master("own", "uid", 1)
    index = next(one for one in trainer["env"] if one["name"] == "RANK")["valueFrom"]["fieldRef"]["fieldPath"]
    assert index == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert trainer["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_with_several_processes_in_a_pod_only_torchrun_knows_the_ranks() -> None:
    several = RUN.model_copy(update={"workers": Workers(replicas=2, processes_per_worker=4)})
    trainer = next(one for one in spec(run=several)["initContainers"] if one["name"] == "trainer")
    variables = {one["name"]: one.get("value") for one in trainer["env"]}
    assert {"RANK", "LOCAL_RANK"} & set(variables) == set()
    assert (variables["PET_NPROC_PER_NODE"], variables["WORLD_SIZE"]) == ("4", "8")


def test_devices_are_the_code_s_alone_and_nothing_is_reserved_twice() -> None:
    made = named()
    assert made["trainer"]["resources"] == GPU
    for name in ("fetch", "publish"):
        assert made[name]["resources"] == {"requests": {"cpu": "2"}, "limits": {"memory": "4Gi"}}


def test_a_template_is_laid_over_the_worker_as_it_is_over_a_recipe_s() -> None:
    overlay = {
        "spec": {
            "volumes": [{"name": "rows", "persistentVolumeClaim": {"claimName": "rows"}}],
            "initContainers": [{"name": "warm", "image": "team/warm:1"}],
            "containers": [
                {
                    "name": "trainer",
                    "volumeMounts": [{"name": "rows", "mountPath": "/mnt"}],
                    "env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                }
            ],
        }
    }
    made = spec(overlay)
    assert [one["name"] for one in made["initContainers"]] == ["fetch", "progress", "warm", "trainer"]
    assert [one["name"] for one in made["containers"]] == ["publish"]
    by_name = named(overlay)
    for name in ("fetch", "progress", "trainer", "publish"):
        assert {"name": "rows", "mountPath": "/mnt"} in by_name[name]["volumeMounts"], "data and store may be there"
    assert "KEY" in {one["name"] for one in by_name["trainer"]["env"]}
    assert [volume["name"] for volume in made["volumes"]] == ["job", "work", "scratch", "home", "rows"]


def test_one_rule_is_enough_for_exit_codes_that_are_the_user_s() -> None:
    disrupted, ended = job()["spec"]["podFailurePolicy"]["rules"]
    assert "onPodConditions" in disrupted
    assert ended == {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [0]}}


def test_devices_of_resource_claims_are_the_code_s() -> None:
    overlay = {
        "spec": {
            "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}],
            "containers": [{"name": "trainer", "resources": {"claims": [{"name": "gpu"}]}}],
        }
    }
    assert spec(overlay)["resourceClaims"] == overlay["spec"]["resourceClaims"]
    made = named(overlay)
    assert made["trainer"]["resources"]["claims"] == [{"name": "gpu"}]
    assert not any("claims" in made[name]["resources"] for name in ("fetch", "progress", "publish"))


# What is seen of it

RUNNING, WAITING = {"running": {}}, {"waiting": {"reason": "PodInitializing"}}


def ended(code: int, message: str = "", reason: str = "Error") -> Object:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


def pod(
    fetch: Object = WAITING, progress: Object = WAITING, trainer: Object = WAITING, publish: Object = WAITING,
    phase: str = "Pending", index: int = 0,
) -> Object:  # fmt: skip
    init = {"fetch": fetch, "progress": progress, "trainer": trainer}
    return {
        "metadata": {
            "name": f"own-{index}", "labels": {"modelwright.dev/trainingjob": "own"},
            "annotations": {"batch.kubernetes.io/job-completion-index": str(index)},
            "ownerReferences": [{"uid": "job", "controller": True}],
        },
        "status": {
            "phase": phase,
            "initContainerStatuses": [{"name": name, "state": state} for name, state in init.items()],
            "containerStatuses": [{"name": "publish", "state": publish}],
        },
    }  # fmt: skip


def summary(outcome: Outcome, words: str) -> str:
    failed = Failure(type=outcome.reason, message=words)
    return Summary(
        outcome=outcome.reason, exit_code=outcome.code, attempt=1, index=0, failure=failed
    ).to_message()  # fmt: skip


def failed_job(message: str = "") -> JobView:
    made = job()
    made["metadata"] |= {"uid": "job"}
    made["status"] = {
        "conditions": [{"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": message}]
    }
    return job_view(made)


def test_the_worker_runs_once_its_code_does_whatever_the_pod_s_phase() -> None:
    assert pod_view(pod(RUNNING)).phase == "Pending"
    assert pod_view(pod(ended(0), RUNNING, WAITING)).phase == "Pending"
    assert pod_view(pod(ended(0), RUNNING, RUNNING)).phase == "Running"
    assert pod_view(pod(ended(0), RUNNING, ended(0))).phase == "Running"
    assert pod_view(pod(ended(0), ended(0), ended(0), ended(0), "Succeeded")).phase == "Succeeded"


def test_an_image_that_does_not_come_is_told_from_whichever_container_waits_for_it() -> None:
    pulling = {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}
    seen = pod_view(pod(ended(0), RUNNING, pulling))
    assert (seen.phase, seen.trouble_reason, seen.trouble) == ("Pending", "ErrImagePull", "no such image")


LAST = "Traceback (most recent call last):\n  File x\nValueError: no column age\n"
ENDS = {
    "the code's own error": (
        pod(ended(0), ended(0), ended(3, LAST), phase="Failed"),
        ("WorkerCrashed", "worker 0: the code ended with exit code 3: ValueError: no column age", True, True),
    ),
    "an exit code that is one of ours": (
        pod(ended(0), ended(0), ended(12, "bye"), phase="Failed"),
        ("WorkerCrashed", "worker 0: the code ended with exit code 12: bye", True, True),
    ),
    "a signal without a word": (
        pod(ended(0), ended(0), ended(139), phase="Failed"),
        ("WorkerCrashed", "worker 0: the code ended with exit code 139 (SIGSEGV), and said nothing", True, True),
    ),
    "too little memory": (
        pod(ended(0), ended(0), ended(137, reason="OOMKilled"), phase="Failed"),
        ("OutOfMemory", "worker 0: the container passed its memory limit; raise spec.workers.resources", True, True),
    ),
    "data that are not there": (
        pod(ended(11, summary(Outcome.DATA_ERROR, "data.uri: mend the URI")), phase="Failed"),
        ("DataError", "worker 0: DataError: data.uri: mend the URI", False, False),
    ),
    "nothing to publish": (
        pod(ended(0), ended(0), ended(0), ended(10, summary(Outcome.USER_ERROR, "left nothing")), "Failed"),
        ("UserError", "worker 0: UserError: left nothing", False, False),
    ),
    "a hang that was ended": (
        pod(ended(0), ended(23, summary(Outcome.HUNG, "no progress for 61 s")), ended(137), phase="Failed"),
        ("Hung", "worker 0: Hung: no progress for 61 s", True, True),
    ),
    "a sidecar that the kubelet killed": (
        pod(ended(0), ended(137), ended(3, "bye"), phase="Failed"),
        ("WorkerCrashed", "worker 0: the code ended with exit code 3: bye", True, True),
    ),
}


@pytest.mark.parametrize("what", ENDS)
def test_how_a_pod_ended_is_told_by_the_container_that_knows(what: str) -> None:
    obj, (reason, words, retried, counted) = ENDS[what]
    found = failure(failed_job(), [pod_view(obj)])
    assert (found.reason, found.retried, found.counted) == (reason, retried, counted)
    assert found.message.startswith(words)


@pytest.mark.parametrize(
    ("container", "code", "reason"),
    [("trainer", 12, "WorkerCrashed"), ("fetch", 11, "DataError"), ("publish", 12, "GateFailed"),
     ("progress", 23, "Hung")],
)  # fmt: skip
def test_where_the_pods_are_gone_the_job_s_own_words_tell_the_cause(container: str, code: int, reason: str) -> None:
    words = f"Container {container} for pod team/own-0 failed with exit code {code} matching FailJob rule at index 1"
    assert failure(failed_job(words), []).reason == reason


def test_an_evicted_pod_is_evicted_whatever_its_code_ended_with() -> None:
    words = "Pod team/own-0 has condition DisruptionTarget matching FailJob rule at index 0"
    found = failure(failed_job(words), [pod_view(pod(ended(0), ended(0), ended(143), phase="Failed"))])
    assert (found.reason, found.counted) == ("Disrupted", False)
