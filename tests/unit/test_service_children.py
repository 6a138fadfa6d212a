"""What an InferenceService is made into: pods without credentials, names that say whose they are, stable hashes."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from modelwright import serving
from modelwright.api.inference_service import InferenceService
from modelwright.api.model import Model
from modelwright.controllers.inferenceservice import children, resolve
from modelwright.controllers.modelversion.observed import VersionView
from modelwright.controllers.podspec import Reach, reach
from modelwright.kube.resources import Key
from modelwright.settings import Settings, StorageDefaults

from tests.unit.serving_world import revision

OWNER: dict[str, Any] = {"kind": "InferenceService", "uid": "u"}
REACH = Reach("https://s3.example", "eu-1", "store")
SETTINGS = Settings(
    "system",
    "trainer:1",
    server_image="server:1",
    storage=StorageDefaults(endpoint="https://s3", secret="mine"),  # noqa: S106 - a name
)


def service(**spec: Any) -> InferenceService:
    said = {"model": {"name": "digits", "channel": "stable"}, **spec}
    return InferenceService.model_validate(
        {"metadata": {"name": "svc", "namespace": "team", "uid": "u", "generation": 1}, "spec": said}
    )


def container(pod: dict[str, Any]) -> dict[str, Any]:
    (one,) = pod["containers"]
    return dict(one)


def test_a_pod_is_told_what_to_serve_and_holds_no_credentials_of_kubernetes() -> None:
    made = children.deployment(service(rollout={"drainTimeout": "1m"}), revision("1.1.0"), 2, REACH, OWNER)
    pod = made["spec"]["template"]["spec"]
    run = serving.ServingRun.model_validate_json(container(pod)["env"][0]["value"])
    assert (run.version, run.revision, run.digest) == ("1.1.0", "svc-110", revision("1.1.0").digest)
    assert run.store.uri == "s3://bucket"
    assert pod["automountServiceAccountToken"] is False
    assert container(pod)["envFrom"] == [{"secretRef": {"name": "store"}}]
    waits = container(pod)["lifecycle"]["preStop"]["sleep"]["seconds"] + run.lame_duck_seconds + run.grace_seconds
    assert pod["terminationGracePeriodSeconds"] > waits


def test_both_protocols_have_a_port_of_the_service_that_leads_to_the_pods_own() -> None:
    made = children.service_object(service(), "svc", "svc-110", OWNER)
    ports = {one["name"]: (one["port"], one["appProtocol"]) for one in made["spec"]["ports"]}
    assert ports == {"http": (80, "http"), "grpc": (8081, "kubernetes.io/h2c")}
    pod = children.deployment(service(), revision("1.1.0"), 1, REACH, OWNER)["spec"]["template"]["spec"]
    of_pod = {one["name"]: one["containerPort"] for one in container(pod)["ports"]}
    assert all(one["targetPort"] in of_pod for one in made["spec"]["ports"])
    run = serving.ServingRun.model_validate_json(container(pod)["env"][0]["value"])
    assert of_pod == {"http": run.port, "grpc": run.grpc_port, "admin": run.admin_port}


@given(st.integers(1, 60))
def test_the_end_of_a_pod_waits_for_grpc_connections_to_come_of_age(drain: int) -> None:
    asked = service(rollout={"drainTimeout": f"{drain}s"})
    pod = children.deployment(asked, revision("1.1.0"), 1, REACH, OWNER)["spec"]["template"]["spec"]
    run = serving.ServingRun.model_validate_json(container(pod)["env"][0]["value"])
    assert run.grace_seconds > run.grpc_connection_age_seconds * 1.1


def test_the_users_pod_template_is_laid_over_and_the_analysis_runs_where_the_servers_run() -> None:
    overlay = {
        "nodeSelector": {"disk": "fast"},
        "volumes": [{"name": "store", "emptyDir": {}}],
        "containers": [
            {
                "name": "server",
                "volumeMounts": [{"name": "store", "mountPath": "/store"}],
                "resources": {"limits": {"gpu": 1}},
            },
            {"name": "sidecar", "image": "x"},
        ],
    }
    asked = service(podTemplate={"spec": overlay})
    pod = children.deployment(asked, revision("1.1.0"), 1, REACH, OWNER)["spec"]["template"]["spec"]
    assert {one["name"] for one in pod["containers"]} == {"server", "sidecar"}
    analysis = children.analysis_job(asked, revision("1.1.0"), REACH, OWNER)["spec"]["template"]["spec"]
    assert analysis["nodeSelector"] == {"disk": "fast"}
    assert "resources" not in container(analysis), "the servers' GPUs are theirs"
    assert {one["mountPath"] for one in container(analysis)["volumeMounts"]} == {"/tmp", "/store"}  # noqa: S108 - the container's
    assert json.loads(container(analysis)["env"][0]["value"])["url"] == "http://svc-preview.team.svc"


@given(st.integers(1, 50))
def test_how_many_is_no_part_of_a_revisions_name_and_the_version_is(replicas: int) -> None:
    one = children.revision_name(service(), "sha256:a", "s3://b/m")
    assert one == children.revision_name(service(replicas=replicas), "sha256:a", "s3://b/m")
    assert one != children.revision_name(service(), "sha256:b", "s3://b/m")
    assert one != children.revision_name(service(resources={"requests": {"cpu": replicas}}), "sha256:a", "s3://b/m")
    assert one == children.revision_name(service(rollout={"promotion": "Manual"}), "sha256:a", "s3://b/m")


def model(**status: Any) -> Model:
    return Model.model_validate(
        {
            "metadata": {"name": "digits", "namespace": "team"},
            "spec": {"channels": {"stable": {"version": "1.0.0"}}},
            "status": status,
        }
    )


def version(*, ready: bool = True) -> dict[str, VersionView]:
    key = Key("team", "digits-v1-0-0")
    digest, uri = (
        ("sha256:" + "0" * 64, "s3://b/models/team/digits/versions/1.0.0/manifest.json") if ready else ("", "")
    )
    return {key.name: VersionView(key, "digits", "1.0.0", "", "job", ready, digest, uri, deleting=False)}


RESOLVED = {"channels": {"stable": {"version": "1.0.0", "modelVersionRef": {"name": "digits-v1-0-0"}}}}


def test_a_channel_leads_to_the_version_that_the_model_says() -> None:
    asked = resolve.wanted(service(), model(**RESOLVED), version(), SETTINGS)
    assert asked.target is not None
    assert (asked.target.version, asked.target.image) == ("1.0.0", "server:1")


def test_what_is_missing_is_named() -> None:
    assert resolve.wanted(service(), None, {}, SETTINGS).problem_reason == "ModelMissing"
    assert resolve.wanted(service(), model(), {}, SETTINGS).problem_reason == "ChannelUnresolved"
    nowhere = service(model={"name": "digits", "channel": "nowhere"})
    assert "it has stable" in resolve.wanted(nowhere, model(), {}, SETTINGS).problem
    assert (
        resolve.wanted(service(), model(**RESOLVED), version(ready=False), SETTINGS).problem_reason == "VersionNotReady"
    )


def test_a_version_that_was_taken_back_is_not_begun_where_a_service_names_it() -> None:
    taken_back = {name: dataclasses.replace(one, retracted="wrong labels") for name, one in version().items()}
    named = service(model={"name": "digits", "version": "1.0.0"})
    asked = resolve.wanted(named, None, taken_back, SETTINGS)
    assert (asked.target, asked.problem_reason, asked.problem_stalls) == (None, "VersionRetracted", True)
    assert asked.problem == (
        "spec.model.version: ModelVersion digits-v1-0-0 is retracted (wrong labels); name another version"
    )


def test_a_newer_operators_image_is_for_new_revisions_only() -> None:
    asked = resolve.wanted(service(), model(**RESOLVED), version(), SETTINGS)
    serves = service().model_copy(update={"status": service().status.model_copy(update={"active": asked.target})})
    newer = Settings("system", "trainer:1", server_image="server:2")
    again = resolve.wanted(serves, model(**RESOLVED), version(), newer)
    assert again.target == asked.target
    changed = service(resources={"requests": {"cpu": 1}}).model_copy(update={"status": serves.status})
    moved = resolve.wanted(changed, model(**RESOLVED), version(), newer)
    assert moved.target is not None
    assert moved.target.image == "server:2"


def test_what_the_spec_leaves_out_of_the_store_is_the_operators() -> None:
    assert reach(None, SETTINGS) == Reach("https://s3", None, "mine")
    said = service(storage={"secretRef": {"name": "theirs"}}).spec.storage
    assert reach(said, SETTINGS).secret == "theirs"  # noqa: S105 - a name
