"""Versions that are no good, and people who change their mind: the old version serves on, or comes back by itself."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest
from sklearn.datasets import load_digits

from dev import releases
from dev.demo import s3
from dev.traffic import CLIENTS, table
from tests.e2e.serving.conftest import NAMESPACE, Serve, Service, Space, bodies
from tests.e2e.serving.test_upgrade import nothing_lost


def rows() -> Any:
    return load_digits(return_X_y=True)[0]


def test_a_version_whose_bytes_were_altered_is_refused_and_the_old_one_serves_on(space: Space, serve: Serve) -> None:
    altered = space.release("2.0.0", releases.remarked("to be altered"))
    service = serve("altered")
    uri = releases.alter(s3(space.store), altered)
    with service.traffic(CLIENTS[:1]) as traffic:
        service.point("2.0.0")
        seen = service.until("is refused", lambda s: s.get("failed"))
        traffic.until_sent(500)
    nothing_lost(traffic.results)
    assert seen["failed"]["reason"] == "ArtifactDamaged"
    assert "model.onnx" in seen["failed"]["message"]
    assert uri.rpartition("/")[2][:12] in seen["failed"]["message"], "it names the object"
    told = service.condition()
    assert (told["status"], told["reason"]) == ("True", "ArtifactDamaged")
    assert "1.0.0 is served on" in told["message"]
    assert service.condition("Stalled")["status"] == "True"
    assert {one.answers.keys() == {"1.0.0"} for one in traffic.results.values()} == {True}
    # Corrected in Git: the channel goes back, and there is nothing left to complain of.
    service.point("1.0.0")
    service.until_serves("1.0.0")
    assert not service.status.get("failed")


def test_a_version_that_errs_under_real_requests_is_rolled_back_by_itself(space: Space, serve: Serve) -> None:
    space.release("2.1.0", releases.erring(rows()))
    service = serve("erring", rollout={"analysis": {"after": {"duration": "60s", "minRequests": 20}}})
    with service.traffic(workers=1) as traffic:
        traffic.until_sent(50)
        service.point("2.1.0")
        seen = service.until("has rolled back", lambda s: s.get("failed") and not s.get("rollout"))
        traffic.until_sent(500)
    print(table(traffic.results))
    assert seen["failed"]["reason"] == "AnalysisFailed"
    assert "requests failed" in seen["failed"]["message"]
    assert seen["version"] == "1.0.0"
    for one in traffic.results.values():
        assert set(one.why) <= {"2.1.0: status 500"}, "nothing but the version's own errors"
        assert one.order[0][-1] == "1.0.0"
    failed, sent = (sum(getattr(one, name) for one in traffic.results.values()) for name in ("failed", "sent"))
    assert 0 < failed < sent / 10


def predict(service: Service, name: str) -> str:
    """The version header of one prediction, asked from here."""
    address = service.space.get("service", name)["spec"]["clusterIP"]
    asked = urllib.request.Request(
        f"http://{address}/v2/models/digits/infer",
        json.dumps(bodies(1)[0]).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310 - the cluster's
        return str(answer.headers["Modelwright-Version"])


def test_manual_promotion_abort_and_rollback_by_command_and_annotation(space: Space, serve: Serve) -> None:
    space.release("1.1.0")
    space.release("1.1.1")
    service = serve("manual", rollout={"promotion": "Manual"})
    # The first version took nothing from anybody, and waited for no one.
    with service.traffic(CLIENTS[:2]) as traffic:
        service.point("1.1.0")
        seen = service.until(
            "waits for a person", lambda s: (s.get("rollout") or {}).get("step") == "AwaitingPromotion"
        )
        assert seen["version"] == "1.0.0"
        assert service.condition()["reason"] == "AwaitingPromotion"
        if space.target.devcluster:
            assert predict(service, "manual-preview") == "1.1.0"
            assert predict(service, "manual") == "1.0.0"
        assert "1.1.0 will answer all requests of manual" in service.command("promote")
        service.until_serves("1.1.0")

        service.point("1.1.1")
        seen = service.until(
            "waits for a person", lambda s: (s.get("rollout") or {}).get("step") == "AwaitingPromotion"
        )
        service.annotate("abort", seen["rollout"]["target"]["name"])
        seen = service.until("is aborted", lambda s: s.get("failed") and not s.get("rollout"))
        assert (seen["failed"]["reason"], seen["version"]) == ("Aborted", "1.1.0")

        service.point("1.1.0")
        seen = service.until_serves("1.1.0")
        assert "manual goes back from 1.1.0 to 1.0.0" in service.command("rollback")
        seen = service.until("is rolled back", lambda s: s.get("version") == "1.0.0" and not s.get("rollout"))
        assert seen["failed"]["reason"] == "RolledBack"
        traffic.until_sent(500)
    nothing_lost(traffic.results)
    assert traffic.results["pod-new"].order[0] == ["1.0.0", "1.1.0", "1.0.0"]


@pytest.mark.parametrize("step", ["Observing", pytest.param("Keeping", marks=pytest.mark.long)])
def test_a_reverted_channel_is_back_in_seconds_while_the_old_pods_are_there(
    space: Space, serve: Serve, step: str
) -> None:
    space.release("1.1.0")
    service = serve(
        f"reverted-{step.lower()}",
        rollout={"scaleDownDelay": "60s", "analysis": {"after": {"duration": "5s" if step == "Keeping" else "60s"}}},
    )
    with service.traffic(CLIENTS[1:3]) as traffic:
        service.point("1.1.0")
        service.until(f"is in {step}", lambda s: (s.get("rollout") or {}).get("step") == step)
        pods = service.pods()
        service.point("1.0.0")
        service.until_serves("1.0.0")
        traffic.until_sent(200)
    nothing_lost(traffic.results)
    revision = service.status["active"]["name"]
    kept, now = ({one for one in found.items() if one[1][2] == revision} for found in (pods, service.pods()))
    assert kept == now, "the same pods again, not restarted"


def bad_service(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "modelwright.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": "bad", "namespace": NAMESPACE},
        "spec": {"model": {"name": "digits", "channel": "nowhere"}, **spec},
    }


@pytest.mark.parametrize(
    ("spec", "reason", "words"),
    [
        ({}, "ChannelMissing", "spec.model.channel: Model digits has no channel nowhere; it has"),
        (
            {"model": {"name": "cats", "channel": "stable"}},
            "ModelMissing",
            "spec.model.name: Model cats does not exist; create it with the channel",
        ),
        (
            {"model": {"name": "digits", "version": "7.7.7"}},
            "VersionMissing",
            "ModelVersion digits-v7-7-7 does not exist",
        ),
        (
            {
                "model": {"name": "digits", "version": "1.0.0"},
                "podTemplate": {"spec": {"nodeSelector": {"not a label!": "x"}}},
            },
            "InvalidPodTemplate",
            "nodeSelector",
        ),
        (
            {"model": {"name": "digits", "version": "1.0.0"}, "storage": {"secretRef": {"name": "nothing"}}},
            "CreateContainerConfigError",
            'secret "nothing" not found',
        ),
        (
            {"model": {"name": "digits", "version": "1.0.0"}, "storage": {"endpoint": "http://10.255.255.1:9"}},
            "Starting",
            "1.0.0: 0 of 1 pod ready",
        ),
    ],
)
def test_what_cannot_be_served_says_why(space: Space, spec: dict[str, Any], reason: str, words: str) -> None:
    space.apply(bad_service(**spec))
    service = Service(space, "bad")
    try:
        service.until(
            f"says {reason}",
            lambda s: any(c["reason"] == reason and words in c["message"] for c in s.get("conditions") or ()),
            60,
        )
    finally:
        space.kubectl("delete", "inferenceservice", "bad", "--wait")
