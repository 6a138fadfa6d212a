"""A Deployment behind a Service is reached from a pod and from the node; the images say their versions."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from modelwright import __version__

from dev.demo import deploy_server, visit
from dev.target import Target
from devcluster.progress import Steps


@pytest.mark.parametrize("from_node", [False, True], ids=["pod", "node"])
def test_a_service_answers(
    target: Target, refs: Mapping[str, str], namespace: str, steps: Steps, *, from_node: bool
) -> None:
    deploy_server(target, refs, steps, namespace)
    answer = visit(target, refs, steps, from_node=from_node, url=f"http://server.{namespace}.svc", namespace=namespace)
    assert answer.startswith("hello from server-")


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ("trainer", rf"modelwright-trainer {re.escape(__version__)} \(torch 2\.15\.\d.*python 3\.13\.\d+\)"),
        ("server", rf"modelwright-server {re.escape(__version__)} \(onnxruntime .*python 3\.13\.\d+\)"),
    ],
)
def test_an_image_says_its_version(target: Target, refs: Mapping[str, str], image: str, says: str) -> None:
    name = f"version-{image}"
    target.kubectl("delete", "pod", name, "--ignore-not-found", "--wait")
    target.kubectl("run", name, f"--image={refs[image]}", "--restart=Never", "--", "--version")
    try:
        target.kubectl("wait", f"pod/{name}", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=240s", timeout=250)
        assert re.fullmatch(says, target.kubectl("logs", name).strip())
    finally:
        target.kubectl("delete", "pod", name, "--wait=false")
