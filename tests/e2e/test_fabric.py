"""Pods of a job find one another by DNS, share a GPU node, and write to the store."""

from __future__ import annotations

import json
from collections.abc import Mapping

from dev.demo import all_reduce
from dev.target import Store, Target
from devcluster.progress import Steps


def test_two_pods_with_a_gpu_each_add_up_a_tensor(
    target: Target, server: Store, refs: Mapping[str, str], namespace: str, steps: Steps
) -> None:
    result = all_reduce(target, server, refs, steps, namespace)
    assert result["worldSize"] == 2
    assert result["sum"] == 3
    assert sorted(result["hosts"]) == ["fabric-0", "fabric-1"]

    pods = json.loads(
        target.kubectl("get", "pods", "--selector", "job-name=fabric", "--namespace", namespace, "--output", "json")
    )["items"]
    assert len(pods) == 2
    for pod in pods:
        assert pod["spec"]["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "1"}
        assert pod["spec"]["nodeName"]
        message = pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"]
        assert json.loads(message)["worldSize"] == 2


def test_a_job_that_asks_for_more_gpus_than_there_are_stays_pending(target: Target, refs: Mapping[str, str]) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "greedy", "namespace": "default"},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {"name": "c", "image": refs["server"], "resources": {"limits": {"nvidia.com/gpu": "1000"}}},
            ],
        },
    }
    target.kubectl("apply", "--filename", "-", stdin=json.dumps(pod))
    try:
        target.kubectl("wait", "pod/greedy", "--for=condition=PodScheduled=False", "--timeout=30s")
        seen = json.loads(target.kubectl("get", "pod", "greedy", "--output", "json"))
        scheduled = next(c for c in seen["status"]["conditions"] if c["type"] == "PodScheduled")
        assert "Insufficient nvidia.com/gpu" in scheduled["message"]
    finally:
        target.kubectl("delete", "pod", "greedy", "--wait")
