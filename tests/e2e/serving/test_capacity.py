"""An autoscaler that grows the old pods in mid-upgrade, and a cluster without room for the new ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from dev.traffic import CLIENTS
from devcluster.progress import wait_for
from tests.e2e.serving.conftest import NAMESPACE, Serve, Space
from tests.e2e.serving.test_upgrade import nothing_lost

GPU = "nvidia.com/gpu"
# What the device plugin of the node gives.
GPUS = 8


def autoscaler(service: str, least: int) -> dict[str, Any]:
    """One that any cluster has; below its minimum it acts without any metrics."""
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": service, "namespace": NAMESPACE},
        "spec": {
            "scaleTargetRef": {"apiVersion": "modelwright.dev/v1alpha1", "kind": "InferenceService", "name": service},
            "minReplicas": least,
            "maxReplicas": 8,
        },
    }


@pytest.mark.long
def test_green_comes_with_as_many_pods_as_an_autoscaler_has_made_of_blue(space: Space, serve: Serve) -> None:
    space.release("1.1.0")
    service = serve("grown", rollout={"promotion": "Manual"})
    service.point("1.1.0")
    service.until("waits for a person", lambda s: (s.get("rollout") or {}).get("step") == "AwaitingPromotion")
    before = {of for _, _, of in service.pods().values()}
    assert len(service.pods()) == 4, "two of each"
    space.apply(autoscaler("grown", 4))
    blue = service.status["active"]["name"]

    def deployment(name: str) -> tuple[int, int]:
        found = space.get("deployment", name)
        return found["spec"]["replicas"], found["status"].get("readyReplicas", 0)

    try:
        wait_for("the autoscaler has grown blue to 4", lambda: deployment(blue) == (4, 4), seconds=120, every=0.5)
        (green,) = before - {blue}
        with service.traffic(CLIENTS[:2]) as traffic:
            service.command("promote")
            # Green had all of its four pods before it got the first request.
            service.until("has switched", lambda s: (s.get("rollout") or {}).get("switchedAt"))
            assert deployment(green) == (4, 4)
            service.until_serves("1.1.0")
            traffic.until_sent(300)
        nothing_lost(traffic.results)
        assert service.status["ready"] == "4/4"
    finally:
        space.kubectl("delete", "hpa", "grown")


@pytest.fixture
def filler(space: Space) -> Iterator[str]:
    """A pod that holds the node's GPUs but three."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "filler", "namespace": NAMESPACE},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "sleeps",
                    "image": space.image,
                    "command": ["sleep", "3600"],
                    "resources": {"limits": {GPU: GPUS - 3}},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }
    space.kubectl("create", "--filename", "-", stdin=json.dumps(pod))
    space.kubectl("wait", "pod/filler", "--for=condition=Ready", "--timeout=60s")
    yield "filler"
    space.kubectl("delete", "pod", "filler", "--ignore-not-found", "--wait")


def test_without_room_blue_serves_on_and_with_room_it_carries_on(space: Space, serve: Serve, filler: str) -> None:
    space.release("1.1.0")
    service = serve(
        "crowded", podTemplate={"spec": {"containers": [{"name": "server", "resources": {"limits": {GPU: 1}}}]}}
    )
    with service.traffic(CLIENTS[:2]) as traffic:
        service.point("1.1.0")
        service.until(
            "tells the scheduler's words",
            lambda s: any("Insufficient nvidia.com/gpu" in c["message"] for c in s.get("conditions") or ()),
            60,
        )
        told = service.condition()
        assert (told["status"], told["reason"]) == ("True", "Unschedulable")
        assert "1.0.0 is served on" in told["message"]
        assert service.status["version"] == "1.0.0"
        traffic.until_sent(200)
        space.kubectl("delete", "pod", filler, "--wait")
        service.until_serves("1.1.0")
    nothing_lost(traffic.results)
