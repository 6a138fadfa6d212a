"""A version that other software has made: one Job, and what status says of it."""

from __future__ import annotations

from typing import Any

from modelwright import derivation
from modelwright.contract import Outcome
from modelwright.controllers.modelversion.derive_job import stage_job
from modelwright.controllers.modelversion.observed import version_view

from tests.unit.derived_world import after, failed, job, planned, published, reason, version

OWNER = {"apiVersion": "v1", "kind": "ModelVersion", "name": "x", "uid": "u", "controller": True}
URI = "s3://bucket/exports/model.onnx"


def imported(**stated: Any) -> Any:
    return version({"import": {"uri": URI, "format": "Onnx", **stated}})


def pinned(**stated: Any) -> Any:
    made = imported(**stated)
    return after(made, planned(made))


def test_it_is_looked_at_again_when_what_it_waits_for_changes() -> None:
    against = {"version": "1.0.0"}
    gates = [{"metric": "accuracy", "maxRegression": "0.1", "against": against}]
    spec = {
        "model": "digits", "version": "1.0.0", "variant": "small", "source": {"import": {"uri": URI, "format": "Onnx"}},
        "evaluation": {"datasetRef": {"name": "rows"}, "gates": gates},
    }  # fmt: skip
    seen = version_view({"metadata": {"name": "digits-v1-0-0--small", "namespace": "team", "uid": "u"}, "spec": spec})
    assert (seen.parents, seen.compared, seen.datasets) == ((), ("digits-v1-0-0",), ("rows",))


def test_it_is_one_job_of_the_trainer_that_is_told_all_of_the_spec() -> None:
    made = pinned(task="Classification", classes=["a", "b"], columns=["x"], names={"out": "probabilities"})
    pod = stage_job(made, 0, "registry/trainer:1", OWNER)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (container["image"], container["args"]) == ("registry/trainer:1", ["import"])
    (told,) = container["env"]
    run = derivation.ImportRun.model_validate_json(told["value"])
    assert (run.uri, run.format, run.task, run.classes, run.columns) == (
        URI, "Onnx", "Classification", ("a", "b"), ("x",)
    )  # fmt: skip
    assert run.names == {"out": "probabilities"}
    assert run.store.uri == "s3://bucket"


def test_it_is_importing_until_it_is_published() -> None:
    first = planned(imported())
    assert reason(first) == ("Pending", "Importing", f"the import begins: on {URI}")
    made = pinned()
    assert planned(made).start == 0
    done = planned(made, (job(0, "Complete"), [published(0)]))
    assert reason(done) == ("Ready", "Published", f"imported from {URI}")
    assert done.status.artifact is not None
    assert done.status.lineage is not None
    assert done.status.lineage.parents is None


def test_what_is_refused_is_said_in_the_pod_s_words() -> None:
    words = "s3://bucket/exports/model.onnx is no ONNX file, or was cut off after 9 bytes: upload it again"
    made = pinned()
    seen = planned(made, (job(0, "Failed"), [failed(0, Outcome.ARTIFACT_REFUSED, words)]))
    phase, why, message = reason(seen)
    assert (phase, why) == ("Failed", "ArtifactRefused")
    assert message.startswith(f"the import: {words}. A version is immutable")
