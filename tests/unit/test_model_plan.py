"""What a channel resolves to, and when a version is Ready."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from modelwright.api.model import Model
from modelwright.api.model_version import ModelVersion, ModelVersionStatus
from modelwright.api.training_job import TrainingJob
from modelwright.api.versions import model_version_name, precedence
from modelwright.controllers.model import plan as model_controller
from modelwright.controllers.modelversion import reconcile as version_controller
from modelwright.controllers.modelversion.observed import VersionView
from modelwright.kube.conditions import State
from modelwright.kube.resources import Key

API = "modelwright.dev/v1alpha1"


def version(number: str, *, ready: bool = True, variant: str = "", deleting: bool = False) -> VersionView:
    key = Key("team", model_version_name("digits", number, variant or None))
    digest, uri = ("sha256:" + number, f"s3://bucket/{number}") if ready else ("", "")
    return VersionView(key, "digits", number, variant, "job", ready, digest, uri, deleting)


def model(channels: dict[str, Any], status: dict[str, Any] | None = None) -> Model:
    metadata = {"name": "digits", "namespace": "team", "uid": "u", "generation": 2}
    return Model.model_validate(
        {
            "apiVersion": API,
            "kind": "Model",
            "metadata": metadata,
            "spec": {"channels": channels},
            "status": status or {},
        }
    )


def test_a_channel_points_at_the_version_that_it_names() -> None:
    status, state = model_controller.plan(model({"stable": {"version": "1.0.0"}}), [version("1.0.0"), version("1.1.0")])
    assert status.channels is not None
    assert (status.channels["stable"].version, status.channels["stable"].digest) == ("1.0.0", "sha256:1.0.0")
    assert (status.phase, status.summary, status.latest, status.versions) == ("Ready", "stable=1.0.0", "1.1.0", 2)
    assert state.main.status == "True"


@given(st.permutations(["1.0.0", "1.10.0", "1.9.0", "2.0.0-rc.1"]))
def test_latest_is_the_newest_that_is_ready_in_semver_s_order(numbers: list[str]) -> None:
    versions = [
        *(version(number) for number in numbers),
        version("3.0.0", ready=False),
        version("4.0.0", deleting=True),
    ]
    status, _ = model_controller.plan(model({"candidate": {"latest": True}}), versions)
    assert status.channels is not None
    assert status.channels["candidate"].version == max(numbers, key=precedence) == "2.0.0-rc.1"


def test_a_variant_is_another_version() -> None:
    versions = [version("1.0.0", variant="int8"), version("1.1.0")]
    status, _ = model_controller.plan(model({"edge": {"latest": True, "variant": "int8"}}), versions)
    assert status.summary == "edge=1.0.0/int8"


def test_a_channel_that_points_at_nothing_says_so_and_takes_nothing_away() -> None:
    before = {"channels": {"stable": {"version": "1.0.0", "modelVersionRef": {"name": "digits-v1-0-0"}}}}
    moved = model({"stable": {"version": "1.0.1"}}, before)
    status, state = model_controller.plan(moved, [version("1.0.0")])
    assert status.channels is not None
    assert status.channels["stable"].version == "1.0.0"
    assert state.main.message == "stable: ModelVersion digits-v1-0-1 does not exist; it stays at 1.0.0"
    status, _ = model_controller.plan(moved, [])
    assert status.channels is not None
    assert status.channels["stable"].version is None, "what it pointed at is gone"


def model_version() -> ModelVersion:
    metadata = {"name": "digits-v1-0-0", "namespace": "team", "uid": "v", "generation": 1}
    spec = {"model": "digits", "version": "1.0.0", "source": {"trainingJobRef": {"name": "job"}}}
    return ModelVersion.model_validate({"apiVersion": API, "kind": "ModelVersion", "metadata": metadata, "spec": spec})


def job(*, published: bool, number: str = "1.0.0") -> TrainingJob:
    artifact = {"uri": "s3://bucket/m", "digest": "sha256:" + "0" * 64}
    spec = {
        "publish": {"model": "digits", "version": number},
        "data": {"uri": "s3://bucket/rows.parquet", "target": "label", "task": "Classification"},
        "trainer": {"recipe": "mlp"},
    }
    status = {"artifact": artifact, "metrics": {"accuracy": "0.97"}} if published else {}
    metadata = {"name": "job", "namespace": "team", "uid": "j"}
    return TrainingJob.model_validate(
        {"apiVersion": API, "kind": "TrainingJob", "metadata": metadata, "spec": spec, "status": status}
    )


def planned(version: ModelVersion, training: TrainingJob | None) -> tuple[ModelVersionStatus, State]:
    made = version_controller.plan_training(version, "job", training)
    return made.status, made.state


def test_a_version_is_ready_once_its_job_has_published_it() -> None:
    waiting, state = planned(model_version(), None)
    assert (waiting.phase, state.main.message) == ("Pending", "TrainingJob job does not exist")
    waiting, state = planned(model_version(), job(published=False))
    assert (waiting.phase, state.main.message) == ("Pending", "TrainingJob job has not published it")
    ready, _ = planned(model_version(), job(published=True))
    assert ready.phase == "Ready"
    assert ready.artifact is not None
    assert ready.metrics == {"accuracy": "0.97"}
    assert ready.lineage is not None
    assert ready.lineage.training_job is not None
    assert ready.lineage.training_job.uid == "j"


def test_a_job_that_publishes_another_version_makes_this_one_not_ready() -> None:
    status, _ = planned(model_version(), job(published=True, number="2.0.0"))
    assert status.phase == "Pending"


def test_what_is_published_stays_so_whatever_becomes_of_the_job() -> None:
    ready, _ = planned(model_version(), job(published=True))
    later = model_version().model_copy(update={"status": ready})
    status, state = planned(later, None)
    assert (status.artifact, status.metrics) == (ready.artifact, ready.metrics)
    assert state.main.status == "True"
