"""The children of an attempt, and what a user's overlay can and cannot change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelwright.contract import Data, Publish, StoreAccess, Trainer, TrainingRun, Workers
from modelwright.controllers.podspec import overlaid
from modelwright.controllers.trainingjob.children import Blueprint, attempt_name, children, master
from modelwright.kube.resources import Object

RUN = TrainingRun(
    namespace="team",
    name="digits",
    uid="uid",
    attempt=2,
    publish=Publish(model="digits", version="1.0.0"),
    store=StoreAccess(uri="s3://models"),
    data=Data(uri="s3://models/raw.parquet", target="label"),
    trainer=Trainer(recipe="mlp"),
    workers=Workers(replicas=3, master=master("digits", "uid", 2)),
)


def made(overlay: Object | None = None) -> tuple[Object, Object, Object]:
    owner = {"kind": "TrainingJob", "name": "digits", "uid": "uid", "controller": True}
    return children(Blueprint(RUN, owner, "trainer:1", "store", {"limits": {"nvidia.com/gpu": 1}}, overlay or {}))


def test_all_children_are_owned_and_bear_the_attempt_s_name() -> None:
    for child in made():
        assert child["metadata"]["name"] == attempt_name("digits", "uid", 2)
        assert child["metadata"]["ownerReferences"][0]["uid"] == "uid"
        assert child["metadata"]["labels"]["modelwright.dev/attempt"] == "2"


def test_an_object_made_again_does_not_meet_the_children_of_the_one_before_it() -> None:
    assert attempt_name("digits", "first", 1) != attempt_name("digits", "second", 1)
    assert len(attempt_name("a" * 40, "uid", 999)) + len("-63") <= 63


def test_the_pods_find_rank_0_by_the_name_that_the_run_tells_them() -> None:
    config, service, job = made()
    host, _, subdomain = TrainingRun.model_validate_json(config["data"]["job.json"]).workers.master.partition(".")
    assert host == f"{job['metadata']['name']}-0"
    assert subdomain == service["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"]
    assert service["spec"]["publishNotReadyAddresses"] is True


def test_a_pod_holds_no_kubernetes_credentials_whatever_is_laid_over() -> None:
    overlay = {
        "metadata": {"labels": {"modelwright.dev/attempt": "9", "team": "a"}},
        "spec": {"serviceAccountName": "admin", "automountServiceAccountToken": True, "restartPolicy": "OnFailure"},
    }
    template = made(overlay)[2]["spec"]["template"]
    assert "serviceAccountName" not in template["spec"]
    assert template["spec"]["automountServiceAccountToken"] is False
    assert template["spec"]["restartPolicy"] == "Never"
    assert template["metadata"]["labels"]["modelwright.dev/attempt"] == "2"
    assert template["metadata"]["labels"]["team"] == "a"


def test_an_overlay_adds_to_named_lists_and_keeps_what_the_trainer_needs() -> None:
    overlay = {
        "spec": {
            "nodeSelector": {"gpu": "h100"},
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
            "containers": [{"name": "trainer", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        }
    }
    spec = made(overlay)[2]["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"gpu": "h100"}
    assert [volume["name"] for volume in spec["volumes"]] == ["job", "scratch", "data"]
    assert [mount["name"] for mount in spec["containers"][0]["volumeMounts"]] == ["job", "scratch", "data"]
    assert spec["containers"][0]["image"] == "trainer:1"


def test_devices_of_resource_claims_reach_the_pod_and_the_trainer() -> None:
    overlay = {
        "spec": {
            "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}],
            "containers": [{"name": "trainer", "resources": {"claims": [{"name": "gpu"}]}}],
        }
    }
    spec = made(overlay)[2]["spec"]["template"]["spec"]
    assert spec["resourceClaims"] == overlay["spec"]["resourceClaims"]
    assert spec["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": 1}, "claims": [{"name": "gpu"}]}


def test_workers_are_spread_or_kept_apart_from_other_trainings_by_the_labels_that_they_bear() -> None:
    spread = [
        {
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"modelwright.dev/trainingjob": "digits"}},
            "matchLabelKeys": ["modelwright.dev/attempt"],
        }
    ]  # fmt: skip
    alone = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}}
    template = made({"spec": {"topologySpreadConstraints": spread, "affinity": alone}})[2]["spec"]["template"]
    assert template["spec"]["topologySpreadConstraints"] == spread
    assert template["spec"]["affinity"] == alone
    labels = template["metadata"]["labels"]
    assert (labels["modelwright.dev/trainingjob"], labels["modelwright.dev/attempt"]) == ("digits", "2")


def test_a_priority_class_is_the_pods() -> None:
    owner = {"uid": "uid", "controller": True}
    blueprint = Blueprint(RUN, owner, "trainer:1", "", {}, {}, priority_class="low")
    assert children(blueprint)[2]["spec"]["template"]["spec"]["priorityClassName"] == "low"
    assert "priorityClassName" not in made()[2]["spec"]["template"]["spec"]


def test_an_attempt_fails_as_a_whole_and_says_why() -> None:
    spec = made()[2]["spec"]
    assert (spec["backoffLimit"], spec["completions"], spec["parallelism"]) == (0, 3, 3)
    assert len(spec["podFailurePolicy"]["rules"]) <= 20  # the API server's bound
    assert "onPodConditions" in spec["podFailurePolicy"]["rules"][0]


trees = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=8,
)
mappings = st.dictionaries(st.sampled_from("abc"), trees, max_size=3)


@given(mappings)
def test_nothing_laid_over_changes_nothing(under: Object) -> None:
    assert overlaid(under, {}) == under


@given(mappings, mappings)
def test_laying_over_twice_is_laying_over_once(under: Object, over: Object) -> None:
    once = overlaid(under, over)
    assert overlaid(once, over) == once


@pytest.mark.parametrize("key", ["a", "b"])
def test_a_value_laid_over_wins(key: str) -> None:
    assert overlaid({"a": 1, "b": {"c": 2}}, {key: 3})[key] == 3
