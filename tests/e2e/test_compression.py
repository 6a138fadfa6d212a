"""Versions made out of others, on a cluster: real steps in real pods, published and served, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from dev.demo import BUCKET
from dev.target import Store, Target
from devcluster.progress import Steps, wait_for
from tests.e2e.training.jobs import Space, condition, failed, files, fresh, small, succeeded, trainer

NAMESPACE = "modelwright-e2e-compression"
FOLDER = "e2e-compression"
API_VERSION = "modelwright.dev/v1alpha1"
STORAGE = {"uri": f"s3://{BUCKET}/{FOLDER}", "secretRef": {"name": "store"}}
RESOURCES = {"requests": {"cpu": "100m", "memory": "384Mi"}}
PRUNE = {"prune": {"sparsity": "0.8", "finetune": {"epochs": 3}}}
CLUSTER = {"cluster": {"bits": 4}}
QUANTIZE = {"quantize": {"scheme": "Int8Dynamic"}}
AGAIN = "A version is immutable: delete it, mend what is wrong, and create it again"


@pytest.fixture(scope="module")
def space(target: Target, server: Store, refs: Mapping[str, str], steps: Steps) -> Iterator[Space]:
    """A namespace with version 1.0.0 of the digits, under the operator as the chart installs it."""
    with fresh(target, server, refs, steps, NAMESPACE, FOLDER) as made:
        job = small("digits-v1-0-0", "1.0.0")
        job["spec"] |= {"trainer": trainer(hiddenSizes="128,64", epochs="8"), "storage": STORAGE}
        made.apply(job)
        channels = {"small": {"latest": True, "variant": "small"}, "ruined": {"latest": True, "variant": "ruined"}}
        made.apply({
            "apiVersion": API_VERSION, "kind": "Model", "metadata": {"name": "digits"}, "spec": {"channels": channels},
        })  # fmt: skip
        made.until("digits-v1-0-0", "trained", succeeded)
        yield made


def version(variant: str, *steps: Mapping[str, Any], of: str = "1.0.0", **spec: Any) -> dict[str, Any]:
    """A form of `of` of that variant."""
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelVersion",
        "metadata": {"name": f"digits-v1-0-0--{variant}"},
        "spec": {
            "model": "digits", "version": "1.0.0", "variant": variant, "storage": STORAGE,
            "source": {"compress": {"from": {"version": of}, "steps": list(steps), "resources": RESOURCES}}, **spec,
        },
    }  # fmt: skip


def until(
    space: Space, name: str, what: str, check: Callable[[dict[str, Any]], bool], seconds: float = 300
) -> dict[str, Any]:
    return space.until(name, what, check, seconds, "modelversion")


def ready(seen: Mapping[str, Any]) -> bool:
    # A version that failed will not become it: whoever waits shall hear why.
    assert seen.get("phase") != "Failed", json.dumps(seen)
    return seen.get("phase") == "Ready"


def jobs_of(space: Space, name: str) -> list[dict[str, Any]]:
    return space.items("jobs", selector=f"modelwright.dev/derived-version={name}")


def test_a_version_is_pruned_clustered_and_quantized_and_served(space: Space, server: Store) -> None:
    name = "digits-v1-0-0--small"
    space.apply(
        version(
            "small", PRUNE, CLUSTER, QUANTIZE, evaluation={"gates": [{"metric": "accuracy", "maxRegression": "0.1"}]}
        )
    )
    status = until(space, name, "published", ready)
    assert [(one["name"], one["state"]) for one in status["steps"]] == [
        (step, "Succeeded") for step in ("prune", "cluster", "quantize", "publish")
    ]
    prune, cluster, quantize, _ = status["steps"]
    assert float(prune["before"]["sparsity"]) < 0.05
    assert 0.7 < float(prune["after"]["sparsity"]) < 0.85
    assert cluster["after"]["weightsBytes"] < prune["before"]["weightsBytes"] / 4
    for one in (prune, cluster, quantize):
        for side in ("before", "after"):
            assert one[side]["metrics"]["accuracy"]
            assert one[side]["latencyP50"].endswith("ms")
    parent = space.status("digits-v1-0-0", "modelversion")
    assert status["size"]["version"]["bytes"] < status["size"]["parent"]["bytes"]
    assert status["lineage"]["parents"] == [
        {"name": "digits-v1-0-0", "uri": parent["artifact"]["uri"], "digest": parent["artifact"]["digest"]}
    ]
    assert status["lineage"]["trainingJob"] == parent["lineage"]["trainingJob"]
    assert abs(float(status["metrics"]["accuracy"]) - float(parent["metrics"]["accuracy"])) <= 0.1
    digests, _ = files(space, server, "digits-v1-0-0")
    assert digests
    wait_for("its Jobs go", lambda: not jobs_of(space, name), seconds=60)
    told = space.kubectl("get", "events", "--field-selector", f"involvedObject.name={name}")
    for reason in ("Compressing", "StepSucceeded", "Published"):
        assert reason in told

    # The channel of its variant points at it, and a service answers with it: its golden samples agree.
    model = space.status("digits", "model")["channels"]["small"]
    assert model["digest"] == status["artifact"]["digest"]
    service = {
        "apiVersion": API_VERSION, "kind": "InferenceService", "metadata": {"name": "small"},
        "spec": {
            "model": {"name": "digits", "version": "1.0.0", "variant": "small"}, "replicas": 1,
            "resources": {"requests": {"cpu": "20m", "memory": "96Mi"}},
        },
    }  # fmt: skip
    space.apply(service)
    wait_for(
        "it is served", lambda: space.status("small", "inferenceservice").get("phase") == "Ready", seconds=180, every=1
    )
    assert space.status("small", "inferenceservice")["active"]["digest"] == status["artifact"]["digest"]
    space.kubectl("delete", "inferenceservice", "small", "--wait")


def test_a_gate_that_fails_keeps_the_version_out_of_its_channel_and_says_by_how_much_and_where(space: Space) -> None:
    name = "digits-v1-0-0--ruined"
    ruin = {"prune": {"sparsity": "0.99"}}
    space.apply(
        version("ruined", CLUSTER, ruin, evaluation={"gates": [{"metric": "accuracy", "maxRegression": "0.001"}]})
    )
    status = until(space, name, "refused", failed)
    said = condition(status, "Ready")
    assert said["reason"] == "GateFailed"
    print(said["message"])
    assert said["message"].startswith("the publication: ")
    accuracy = status["metrics"]["accuracy"][:4]
    assert f"accuracy {accuracy}" in said["message"]
    assert "maxRegression 0.001" in said["message"]
    assert "Most changed at step 2 of 2 (prune): accuracy " in said["message"]
    assert said["message"].endswith(AGAIN)
    assert condition(status, "Stalled")["status"] == "True"
    assert "artifact" not in status
    assert [one["state"] for one in status["steps"]] == ["Succeeded", "Succeeded", "Failed"]
    channel = space.status("digits", "model")["channels"]["ruined"]
    assert channel["message"] == "no version of variant ruined is Ready"
    # The Job stays, for its pods' logs; those of the steps are gone.
    assert [one["metadata"]["annotations"]["modelwright.dev/stage"] for one in jobs_of(space, name)] == ["2"]


def test_a_pod_that_is_killed_in_each_step_is_followed_by_one_that_carries_on_there(space: Space) -> None:
    name = "digits-v1-0-0--killed"
    slow = {"prune": {"sparsity": "0.5", "finetune": {"epochs": 30}}}
    space.apply(version("killed", slow, {"cluster": {"bits": 5, "finetune": {"epochs": 10}}}))
    recorded: list[list[Any]] = []
    for stage in range(3):
        killed = kill_pod(space, name, stage)
        recorded.append(space.status(name, "modelversion")["steps"][:stage])
        assert [one["state"] for one in recorded[-1]] == ["Succeeded"] * stage
        wait_for(
            f"another pod of stage {stage}",
            lambda killed=killed, stage=stage: another_pod(space, name, stage, killed),
            seconds=120,
            every=0.2,
        )
    status = until(space, name, "published", ready)
    # What was done before was not done again: it is told as it was then, to the millisecond.
    for stage, before in enumerate(recorded):
        assert status["steps"][:stage] == before


def pods_of(space: Space, name: str, stage: int) -> list[dict[str, Any]]:
    jobs = [
        one for one in jobs_of(space, name) if one["metadata"]["annotations"]["modelwright.dev/stage"] == str(stage)
    ]
    return [pod for one in jobs for pod in space.items("pods", selector=f"job-name={one['metadata']['name']}")]


def kill_pod(space: Space, name: str, stage: int) -> str:
    """Its uid. SIGKILL, as the loss of its node would end it."""
    found: list[dict[str, Any]] = []

    def runs() -> bool:
        found[:] = [one for one in pods_of(space, name, stage) if one["status"].get("phase") == "Running"]
        return bool(found)

    wait_for(f"a pod of stage {stage} runs", runs, seconds=180, every=0.1)
    pod = found[0]["metadata"]
    space.kubectl("delete", "pod", pod["name"], "--grace-period=0", "--force")
    return str(pod["uid"])


def another_pod(space: Space, name: str, stage: int, killed: str) -> bool:
    """Or the stage is done already, by it."""
    states = [one["state"] for one in space.status(name, "modelversion")["steps"]]
    return states[stage] == "Succeeded" or any(
        one["metadata"]["uid"] != killed for one in pods_of(space, name, stage)
    )  # fmt: skip


def test_without_its_parent_it_waits_and_says_for_what(space: Space) -> None:
    name = "digits-v1-0-0--early"
    space.apply(version("early", CLUSTER, of="7.0.0"))
    status = until(space, name, "waits", lambda seen: condition(seen, "Ready").get("reason") == "WaitingForParent")
    assert condition(status, "Ready")["message"] == (
        "waiting for ModelVersion digits-v7-0-0, which does not exist: create it"
    )
    assert jobs_of(space, name) == []
    # It goes on by itself.
    job = small("digits-v7-0-0", "7.0.0")
    job["spec"]["storage"] = STORAGE
    space.apply(job)
    assert until(space, name, "published", ready)["lineage"]["parents"][0]["name"] == "digits-v7-0-0"


def test_a_parent_that_failed_is_told_with_its_words_and_nothing_is_loaded(space: Space) -> None:
    lost = f"s3://{BUCKET}/{FOLDER}/lost/versions/8.0.0/manifest.json"
    space.apply({
        "apiVersion": API_VERSION, "kind": "ModelVersion", "metadata": {"name": "digits-v8-0-0"},
        "spec": {
            "model": "digits", "version": "8.0.0",
            "source": {
                "artifact": {"uri": lost, "digest": "sha256:" + "0" * 64, "storage": {"secretRef": {"name": "store"}}}
            },
        },
    })  # fmt: skip
    space.apply(version("orphan", CLUSTER, of="8.0.0"))
    until(space, "digits-v8-0-0", "failed", failed)
    name = "digits-v1-0-0--orphan"
    status = until(space, name, "is told", lambda seen: condition(seen, "Ready").get("reason") == "ParentFailed")
    parent = condition(space.status("digits-v8-0-0", "modelversion"), "Ready")["message"]
    assert condition(status, "Ready")["message"] == f"ModelVersion digits-v8-0-0 failed: {parent}"
    assert condition(status, "Stalled")["status"] == "True"
    assert jobs_of(space, name) == []


def test_a_circle_of_versions_is_told_and_nothing_is_loaded(space: Space) -> None:
    for variant, parent in (("hen", "egg"), ("egg", "hen")):
        made = version(variant, CLUSTER)
        made["spec"]["source"]["compress"]["from"]["variant"] = parent
        space.apply(made)
    for name, parent in (("hen", "egg"), ("egg", "hen")):
        whole = f"digits-v1-0-0--{name}"
        status = until(space, whole, "is told", lambda seen: condition(seen, "Ready").get("reason") == "Cycle")
        assert condition(status, "Ready")["message"] == (
            f"{whole}, which is made of digits-v1-0-0--{parent}, which is made of {whole}: none of them can be the"
            " first; delete one, and create it out of another version"
        )
        assert jobs_of(space, whole) == []
    space.kubectl("delete", "modelversion", "digits-v1-0-0--egg", "--wait")
    until(
        space,
        "digits-v1-0-0--hen",
        "waits, the circle being broken",
        lambda seen: condition(seen, "Ready").get("reason") == "WaitingForParent",
    )


def searched(variant: str, **target: Any) -> dict[str, Any]:
    """A form of 1.0.0 whose steps are to be found."""
    made = version(variant)
    made["spec"]["source"]["compress"] |= {"target": {"epochs": 1, **target}}
    del made["spec"]["source"]["compress"]["steps"]
    return made


@pytest.mark.long
def test_a_target_is_met_by_steps_that_a_search_found_or_says_how_far_it_came(space: Space) -> None:
    space.apply(searched("sought", bytes="20Ki", maxRegression="0.05", candidates=8))
    space.apply(searched("dreamt", bytes="99", maxRegression="0.05", candidates=3))
    status = until(space, "digits-v1-0-0--sought", "published", ready)
    search = status["search"]
    assert search["outcome"] == "Accepted"
    assert status["size"]["version"]["bytes"] <= 20 * 1024
    chosen = next(one for one in search["front"] if one["steps"] == search["chosen"])
    assert chosen["fits"]
    assert float(chosen["regression"]) <= 0.05
    assert status["lineage"]["steps"] == len(search["chosen"].split(", "))
    status = until(space, "digits-v1-0-0--dreamt", "refused", failed)
    said = condition(status, "Ready")
    assert said["reason"] == "Infeasible"
    assert "none of 3 candidates fits: the smallest has " in said["message"]
    assert (status["search"]["outcome"], status["search"]["tried"]) == ("Infeasible", 3)
