"""A fine-tuning and the version that it begins with: waited for, then told to the pods by its digest."""

from __future__ import annotations

from typing import Any

import pytest
from modelwright import contract
from modelwright.controllers.modelversion.observed import VersionView, version_view
from modelwright.controllers.trainingjob import dataset, initial, resolve
from modelwright.controllers.trainingjob.plan import Plan, Start
from modelwright.kube import conditions

from tests.unit.test_trainingjob_resolve import SETTINGS, job

NAME, DIGEST = "digits-v1-0-0", "sha256:" + "2" * 64
URI = "s3://mine/store/models/team/digits/versions/1.0.0/manifest.json"
TUNED = {"recipe": "mlp", "initFrom": {"modelVersionRef": {"name": NAME}}}


def version(ready: bool) -> VersionView:
    status: dict[str, Any] = {"conditions": [{"type": "Ready", "status": str(ready)}]}
    if ready:
        status["artifact"] = {"uri": URI, "digest": DIGEST}
    spec = {"model": "digits", "version": "1.0.0", "source": {"trainingJobRef": {"name": "digits"}}}
    return version_view({"metadata": {"name": NAME, "namespace": "team"}, "spec": spec, "status": status})


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (None, f"waiting for ModelVersion {NAME}, which does not exist: create it, or mend trainer.initFrom"),
        (version(ready=False), f"waiting for ModelVersion {NAME}, which is not Ready"),
    ],
)
def test_no_attempt_is_started_before_the_version_is_ready(seen: VersionView | None, words: str) -> None:
    missing = initial.found(NAME, seen)
    assert isinstance(missing, dataset.Missing)
    start = Plan("Starting", conditions.in_progress("Succeeded", "Starting", "x"), Start(1), attempt=1)
    made = dataset.settled(start, missing)
    assert (made.phase, made.action, made.event) == ("Pending", None, ("InitialVersionNotReady", words))


def test_the_pods_are_told_its_manifest_and_digest_and_begin_anew_with_another() -> None:
    tuned = job(trainer=TUNED)
    assert initial.name_of(tuned) == NAME
    assert initial.name_of(job()) is None
    begins = initial.found(NAME, version(ready=True))
    assert isinstance(begins, contract.InitFrom)
    made = initial.given(resolve.blueprint(tuned, SETTINGS, attempt=1, owner={"uid": "uid"}), begins).run
    assert isinstance(made, contract.TrainingRun)
    assert made.init_from == contract.InitFrom(uri=URI, digest=DIGEST)
    prints = {
        made.model_copy(update={"init_from": one}).fingerprint("sha256:d", {})
        for one in (None, begins, contract.InitFrom(uri=URI, digest="sha256:" + "3" * 64))
    }
    assert len(prints) == 3
    assert resolve.run_hash(tuned) != resolve.run_hash(job())
