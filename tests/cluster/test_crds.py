"""The CRDs on a real API server: what it makes of them, of the examples, and of an object's life."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import yaml
from modelwright.api.base import StatusRef, UidRef
from modelwright.api.conditions import BEFORE_THE_FIRST_LOOK
from modelwright.api.kinds import KINDS
from modelwright.api.model import ChannelStatus, ModelStatus
from modelwright.api.model_version import ModelVersionStatus, VersionLineage
from modelwright.api.storage import ArtifactStatus
from modelwright.api.training_job import Attempt, TrainingJob, TrainingJobStatus, TrainingProgress

from devcluster.light import LightCluster
from devcluster.progress import StepFailed
from tests.cluster import crds

# kubectl's bound for the annotation of `kubectl apply`, and the API server's for all annotations together.
LARGEST_APPLIED = 256 * 1024


@pytest.fixture(scope="module")
def said_on_install(light: LightCluster) -> str:
    return crds.install(light)


@pytest.fixture(autouse=True)
def _installed(said_on_install: str) -> None:
    """Every test here needs the CRDs."""


@pytest.fixture
def job(light: LightCluster) -> Iterator[str]:
    """The name of a TrainingJob that exists."""
    crds.created(light, crds.training_job("lives"))
    yield "lives"
    light.kubectl("delete", "trainingjob", "lives", "--ignore-not-found")


def test_they_are_taken_without_a_warning_and_are_structural(light: LightCluster, said_on_install: str) -> None:
    assert "Warning" not in said_on_install
    for kind in KINDS:
        found = json.loads(light.kubectl("get", "crd", f"{kind.names.plural}.modelwright.dev", "--output=json"))
        conditions = {one["type"]: one["status"] for one in found["status"]["conditions"]}
        assert conditions == {"NamesAccepted": "True", "Established": "True"}  # no NonStructuralSchema
        # What the API server does not know in a schema it drops without a word.
        asked = yaml.safe_load(next(path for path in crds.CRDS if path.stem == kind.names.plural).read_text())
        assert found["spec"]["versions"] == asked["spec"]["versions"]


def test_each_fits_the_annotation_of_kubectl_apply() -> None:
    assert {path.name: path.stat().st_size for path in crds.CRDS if path.stat().st_size > LARGEST_APPLIED} == {}


def test_the_examples_are_taken_as_they_are(light: LightCluster) -> None:
    for path in crds.EXAMPLES:
        said = light.kubectl("create", "--dry-run=server", "--filename", str(path))
        assert "created (server dry run)" in said
        assert "Warning" not in said


def test_an_object_has_a_status_from_the_start_that_says_in_progress(light: LightCluster, job: str) -> None:
    made = TrainingJob.model_validate(json.loads(light.kubectl("get", "trainingjob", job, "--output=json")))
    assert made.status.phase == "Pending"
    assert {one.type: (one.status, one.reason) for one in made.status.conditions or ()} == {
        "Succeeded": ("Unknown", "Pending"),
        "Reconciling": ("True", "Pending"),
    }
    assert {one.last_transition_time for one in made.status.conditions or ()} == {BEFORE_THE_FIRST_LOOK}


def test_what_is_left_out_has_its_default(light: LightCluster, job: str) -> None:
    spec = json.loads(light.kubectl("get", "trainingjob", job, "--output=json"))["spec"]
    assert (spec["failurePolicy"]["stallTimeout"], spec["suspend"]) == ("10m", False)
    # The operator's models have the same defaults, or it would see another object than the user does.
    assert TrainingJob.model_validate(crds.training_job()).spec.to_object() == spec


def test_status_is_written_through_its_own_subresource(light: LightCluster, job: str) -> None:
    status = TrainingJobStatus(
        phase="Running",
        observed_generation=1,
        attempt=Attempt(number=1, job_name="lives-1"),
        progress=TrainingProgress(epoch=3, step=42, total_steps=100, percent=42, train_loss="0.31"),
        metrics={"accuracy": "0.97"},
    )
    path = f"/apis/{crds.API_VERSION}/namespaces/default/trainingjobs/{job}/status"
    found = json.loads(light.kubectl("get", "--raw", path))
    light.kubectl(
        "replace", "--raw", path, "--filename", "-", stdin=json.dumps({**found, "status": status.to_object()})
    )
    read = TrainingJob.model_validate(json.loads(light.kubectl("get", "trainingjob", job, "--output=json")))
    assert read.status == status
    light.kubectl("patch", "trainingjob", job, "--type=merge", "--patch", '{"status": {"phase": "Failed"}}')
    assert light.kubectl("get", "trainingjob", job, "--output=jsonpath={.status.phase}") == "Running"


def test_the_status_of_versions_and_models_is_written(light: LightCluster) -> None:
    crds.created(light, crds.model("digits"), crds.model_version())
    version = ModelVersionStatus(
        phase="Ready",
        artifact=ArtifactStatus(
            uri="s3://abc/m/manifest.json", digest="sha256:" + "0" * 64, bytes=9, formats=("onnx",)
        ),
        lineage=VersionLineage(training_job=UidRef(name="digits-v1-0-0", uid="0b1c")),
    )
    model = ModelStatus(
        phase="Ready",
        channels={"stable": ChannelStatus(version="1.0.0", model_version_ref=StatusRef(name="digits-v1-0-0"))},
        summary="stable=1.0.0",
        versions=1,
        latest="1.0.0",
    )
    try:
        for name, status in (("modelversion/digits-v1-0-0", version), ("model/digits", model)):
            patch = json.dumps({"status": {**status.to_object(), "conditions": None}})
            light.kubectl("patch", name, "--subresource=status", "--type=merge", "--patch", patch)
            assert json.loads(light.kubectl("get", name, "--output=json"))["status"] == status.to_object()
        header, row = light.kubectl("get", "model", "digits").splitlines()
        assert dict(zip(header.split(), row.split(), strict=False))["CHANNELS"] == "stable=1.0.0"
    finally:
        light.kubectl("delete", "model/digits", "modelversion/digits-v1-0-0")


def test_a_status_of_figures_that_are_no_numbers_is_written_all_the_same(light: LightCluster, job: str) -> None:
    patch = {"status": {"progress": {"trainLoss": "nan", "samplesPerSecond": "inf"}}}
    light.kubectl("patch", "trainingjob", job, "--subresource=status", "--type=merge", "--patch", json.dumps(patch))


def test_publish_cannot_be_changed_nor_unset_and_set_again(light: LightCluster, job: str) -> None:
    immutable = "publish is immutable; to train another version, create another TrainingJob"
    for patch, expected in (
        ({"version": "1.0.1"}, [f"spec.publish: Invalid value: {immutable}"]),
        ({"version": None}, ["spec.publish.version: Required value"]),
        (None, ["spec.publish: Required value"]),
    ):
        assert crds.change_refusal(light, "trainingjob", job, {"spec": {"publish": patch}}) == expected


def test_all_else_of_a_training_job_can_be_corrected(light: LightCluster, job: str) -> None:
    patch = {"data": {"uri": "s3://modelwright/raw/other.parquet"}, "suspend": True, "workers": {"replicas": 3}}
    assert crds.change_refusal(light, "trainingjob", job, {"spec": patch}) == []


def test_a_version_cannot_be_changed_nor_an_optional_field_unset(light: LightCluster) -> None:
    crds.created(light, crds.model_version("digits-v1-0-0--int8", variant="int8"))
    immutable = (
        "spec: Invalid value: a version is immutable; create another ModelVersion, with another version or variant"
    )
    source = {"trainingJobRef": {"name": "another"}}
    try:
        for patch in ({"source": source}, {"variant": None}, {"variant": "int4"}):
            said = crds.change_refusal(light, "modelversion", "digits-v1-0-0--int8", {"spec": patch})
            assert immutable in said
        assert crds.change_refusal(light, "modelversion", "digits-v1-0-0--int8", {"spec": None}) == [
            "spec: Required value"
        ]
        labels = {"metadata": {"labels": {"team": "a"}}}
        assert crds.change_refusal(light, "modelversion", "digits-v1-0-0--int8", labels) == []
    finally:
        light.kubectl("delete", "modelversion", "digits-v1-0-0--int8")


def test_a_version_can_be_taken_back_and_given_again_and_nothing_else_with_it(light: LightCluster) -> None:
    crds.created(light, crds.model_version("digits-v1-0-0--int8", variant="int8"))
    immutable = (
        "spec: Invalid value: a version is immutable; create another ModelVersion, with another version or variant"
    )
    try:
        for patch in ({"retracted": {"reason": "a"}}, {"retracted": {"reason": "b"}}, {"retracted": None}):
            assert crds.change_refusal(light, "modelversion", "digits-v1-0-0--int8", {"spec": patch}) == []
        both = {"retracted": {"reason": "a"}, "source": {"trainingJobRef": {"name": "another"}}}
        assert immutable in crds.change_refusal(light, "modelversion", "digits-v1-0-0--int8", {"spec": both})
        assert crds.change_refusal(light, "modelversion", "digits-v1-0-0--int8", {"spec": {"retracted": {}}}) == [
            "spec.retracted.reason: Required value"
        ]
    finally:
        light.kubectl("delete", "modelversion", "digits-v1-0-0--int8")


def test_one_command_lists_everything_and_its_columns_tell_the_story(light: LightCluster, job: str) -> None:
    crds.created(light, crds.model("digits"), crds.model_version("digits-v1-0-0"))
    status = {
        "status": {
            "phase": "Running", "progress": {"percent": 42}, "metrics": {"accuracy": "0.97"},
            "conditions": [
                {"type": "Succeeded", "status": "False", "reason": "Training", "message": "epoch 8 of 20",
                 "lastTransitionTime": "2026-01-01T00:00:00Z"}
            ],
        }
    }  # fmt: skip
    light.kubectl("patch", "tj", job, "--subresource=status", "--type=merge", "--patch", json.dumps(status))
    try:
        lines = light.kubectl("get", "modelwright").splitlines()
        assert [line.split()[0] for line in lines if line and not line.startswith("NAME")] == [
            "model.modelwright.dev/digits",
            "modelversion.modelwright.dev/digits-v1-0-0",
            f"trainingjob.modelwright.dev/{job}",
        ]
        header, row = light.kubectl("get", "tj", job).splitlines()
        assert header.split() == ["NAME", "MODEL", "VERSION", "PHASE", "PERCENT", "ACCURACY", "REASON", "AGE"]
        assert row.split()[:-1] == [job, "digits", "1.0.0", "Running", "42", "0.97", "Training"]
        assert "epoch 8 of 20" in light.kubectl("get", "tj", job, "--output=wide")
        assert light.kubectl("get", "mv", "--field-selector=spec.model=digits", "--output=name").split() == [
            "modelversion.modelwright.dev/digits-v1-0-0"
        ]
        assert light.kubectl("get", "mwmodel", "--output=name").split() == ["model.modelwright.dev/digits"]
    finally:
        light.kubectl("delete", "model/digits", "modelversion/digits-v1-0-0")


@pytest.mark.parametrize("kind", [kind.kind_name().lower() for kind in KINDS])
def test_explain_describes_every_field(light: LightCluster, kind: str) -> None:
    for part in ("spec", "status"):
        said = light.kubectl("explain", f"{kind}.{part}", "--api-version", crds.API_VERSION)
        assert "<no description>" not in said
        assert "<empty>" not in said


def test_an_unknown_field_is_named(light: LightCluster) -> None:
    with pytest.raises(StepFailed, match=r'unknown field "(spec\.workers\.)?replica"'):
        crds.created(light, crds.training_job("typo", workers__replica=3))
