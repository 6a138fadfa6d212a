"""Two nodes, as two machines: their pods reach one another and Services; one is lost, and Kubernetes notices."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from dev.demo import visit
from dev.target import MANIFESTS, Target
from devcluster import cluster as life
from devcluster.config import Cluster, Node
from devcluster.progress import Steps, wait_for

NAMESPACE = "two-nodes"
_DEPLOYMENT = next(yaml.safe_load_all((MANIFESTS / "server.yaml").read_text()))
WEB = _DEPLOYMENT["spec"]["template"]["spec"]["containers"][0]


def replica(name: str, node: str, image: str) -> dict[str, Any]:
    """A Deployment of one server that prefers `node`, but may run elsewhere."""
    preference = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": {"replica": name}},
            "template": {
                "metadata": {"labels": {"replica": name, "app": "both"}},
                "spec": {
                    "affinity": {
                        "nodeAffinity": {
                            "preferredDuringSchedulingIgnoredDuringExecution": [
                                {"weight": 100, "preference": {"matchExpressions": [preference]}}
                            ]
                        }
                    },
                    "containers": [
                        # The web server of the demonstrations' Deployment.
                        {**{key: WEB[key] for key in ("name", "command", "args", "readinessProbe")}, "image": image}
                    ],
                },
            },
        },
    }


def pods(target: Target, selector: str = "app=both") -> list[dict[str, Any]]:
    text = target.kubectl("get", "pods", "--namespace", NAMESPACE, "--selector", selector, "--output", "json")
    found: list[dict[str, Any]] = json.loads(text)["items"]
    return found


@pytest.fixture(scope="module")
def second(
    breakable: Cluster, breakable_target: Target, breakable_refs: Mapping[str, str], steps: Steps
) -> Iterator[Node]:
    """A second node, with a replica of a server on each, behind one Service."""
    node = life.add_node(breakable, steps)
    breakable_target.kubectl("create", "namespace", NAMESPACE)
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "both", "namespace": NAMESPACE},
        "spec": {"selector": {"app": "both"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    for made in (service, *(replica(f"on-{name}", name, breakable_refs["server"]) for name in ("node-0", node.name))):
        breakable_target.kubectl("apply", "--filename", "-", stdin=json.dumps(made))
    for name in ("node-0", node.name):
        breakable_target.kubectl(
            "rollout", "status", f"deployment/on-{name}", "--namespace", NAMESPACE, "--timeout=120s", timeout=130
        )
    yield node
    breakable_target.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    if node.folder.exists():
        life.remove_node(breakable, node.index)


def test_pods_of_both_nodes_reach_each_other_and_the_service(
    second: Node, breakable_target: Target, breakable_refs: Mapping[str, str], steps: Steps
) -> None:
    placed = {pod["spec"]["nodeName"]: pod["status"]["podIP"] for pod in pods(breakable_target)}
    assert set(placed) == {"node-0", second.name}
    urls = [*(f"http://{address}:8080" for address in placed.values()), f"http://both.{NAMESPACE}.svc"]
    for node in placed:
        for url in urls:
            answer = visit(
                breakable_target, breakable_refs, steps, from_node=False, url=url, namespace=NAMESPACE, node=node
            )
            assert answer.startswith("hello from ")


def test_the_second_node_has_gpus_of_its_own(second: Node, breakable_target: Target) -> None:
    node = json.loads(breakable_target.kubectl("get", "node", second.name, "--output", "json"))
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "8"
    assert node["status"]["addresses"][0] == {"type": "InternalIP", "address": str(second.address)}


def test_a_killed_node_s_pods_are_evicted_and_replaced_on_the_other(
    second: Node, breakable: Cluster, breakable_target: Target, breakable_refs: Mapping[str, str], steps: Steps
) -> None:
    lost = next(pod for pod in pods(breakable_target) if pod["spec"]["nodeName"] == second.name)
    life.kill_node(breakable, second.index)

    breakable_target.kubectl(
        "wait", f"node/{second.name}", "--for=condition=Ready=Unknown", "--timeout=60s", timeout=70
    )

    def evicted() -> bool:
        seen = json.loads(
            breakable_target.kubectl(
                "get", "pod", lost["metadata"]["name"], "--namespace", NAMESPACE, "--output", "json"
            )
        )
        reasons = [c["reason"] for c in seen["status"]["conditions"] if c["type"] == "DisruptionTarget"]
        return bool(seen["metadata"].get("deletionTimestamp")) and reasons == ["DeletionByTaintManager"]

    wait_for("the taint manager evicts the pod", evicted, seconds=90, every=1)

    def replaced() -> bool:
        return any(
            pod["spec"].get("nodeName") == "node-0" and pod["status"].get("containerStatuses", [{}])[0].get("ready")
            for pod in pods(breakable_target, f"replica=on-{second.name}")
        )

    wait_for("the replica is ready on the other node", replaced, seconds=60, every=1)
    answer = visit(
        breakable_target,
        breakable_refs,
        steps,
        from_node=False,
        url=f"http://both.{NAMESPACE}.svc",
        namespace=NAMESPACE,
    )
    assert answer.startswith("hello from ")


def test_a_killed_node_comes_back_when_it_is_added_again(
    second: Node, breakable: Cluster, breakable_target: Target, steps: Steps
) -> None:
    assert life.add_node(breakable, steps).name == second.name
    node = json.loads(breakable_target.kubectl("get", "node", second.name, "--output", "json"))
    assert not node["spec"].get("taints")
    wait_for(
        "the evicted pod is gone for good",
        lambda: all("deletionTimestamp" not in pod["metadata"] for pod in pods(breakable_target)),
        seconds=60,
    )
