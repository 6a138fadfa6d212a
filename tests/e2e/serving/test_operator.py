"""The operator is away, or is another one: serving does not depend on it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from dev.install import BUCKET, NAMESPACE, SECRET
from tests.e2e.serving.conftest import Serve, Space
from tests.e2e.serving.test_upgrade import nothing_lost


@pytest.fixture
def operators(space: Space) -> Iterator[None]:
    yield
    scale(space, 2)


def scale(space: Space, replicas: int) -> None:
    space.target.kubectl("scale", "deployment/modelwright", f"--replicas={replicas}", "--namespace", NAMESPACE)
    selector = "app.kubernetes.io/name=modelwright"
    if replicas:
        space.target.kubectl(
            "rollout", "status", "deployment/modelwright", "--namespace", NAMESPACE, "--timeout=90s", timeout=95
        )
    else:
        space.target.kubectl(
            "wait", "pod", "--selector", selector, "--for=delete", "--namespace", NAMESPACE, "--timeout=60s", timeout=65
        )


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize(
    ("step", "away"),
    [
        ("Switching", 10.0),
        pytest.param("Analysing", 120.0, marks=pytest.mark.long),
        pytest.param("Observing", 120.0, marks=pytest.mark.long),
        pytest.param("Keeping", 120.0, marks=pytest.mark.long),
    ],
)
def test_an_operator_that_is_away_in_mid_upgrade_costs_no_request(
    space: Space, serve: Serve, step: str, away: float
) -> None:
    space.release("1.1.0")
    service = serve(f"alone-{step.lower()}", rollout={"scaleDownDelay": "10s"})
    with service.traffic() as traffic:
        service.point("1.1.0")
        service.until(f"is in {step}", lambda s: (s.get("rollout") or {}).get("step") == step)
        scale(space, 0)
        left = service.status
        # A length of time is what is asked here: nothing tells that nobody acts.
        time.sleep(away)
        assert service.status == left, "nobody was there to write"
        traffic.until_sent(200)
        scale(space, 2)
        service.until_serves("1.1.0")
        traffic.until_sent(400)
    nothing_lost(traffic.results)


# A later version of the operator: its pod template is another one, and so is its server's image.
_NEWER = """
from modelwright.controllers.inferenceservice import children
children.TEMPLATE += 1
children._PRE_STOP_SECONDS += 2
from modelwright.app import main
raise SystemExit(main())
"""


@pytest.mark.usefixtures("operators")
def test_a_newer_operator_with_another_template_and_image_restarts_no_serving_pod(space: Space, serve: Serve) -> None:
    if space.target.kubeconfig is None:
        pytest.skip("the newer operator is a process of this machine with the devcluster's kubeconfig")
    space.release("1.1.0")
    service = serve("pinned")
    before, pinned = service.pods(), service.status["active"]
    scale(space, 0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "NO_PROXY": "*",
        "no_proxy": "*",
        "KUBECONFIG": str(space.target.kubeconfig),
        "MODELWRIGHT_NAMESPACE": NAMESPACE,
        "MODELWRIGHT_METRICS_PORT": str(port),
        "MODELWRIGHT_TRAINER_IMAGE": "none",
        "MODELWRIGHT_SERVER_IMAGE": f"{space.image.rpartition(':')[0]}:newer",
        "MODELWRIGHT_STORAGE_URI": f"s3://{BUCKET}/store",
        "MODELWRIGHT_STORAGE_ENDPOINT": space.store.inside,
        "MODELWRIGHT_STORAGE_REGION": space.store.region,
        "MODELWRIGHT_STORAGE_SECRET": SECRET,
    }
    newer = subprocess.Popen([sys.executable, "-c", _NEWER], env=environment)
    try:
        # That it leads, and looks at the service, is seen by what it does of what is new in the spec: one more pod.
        service.patch({"replicas": 3})
        service.until("has three pods", lambda s: s.get("ready") == "3/3")
        after = service.pods()
        assert before.items() <= after.items(), "the same pods, none of them restarted"
        assert {of for _, _, of in after.values()} == {pinned["name"]}
        assert service.status["active"] == pinned
        # Who wants the new image gets it with the next change: here it does not exist, and the old one serves on.
        service.point("1.1.0")
        service.until(
            "waits for the new image",
            lambda s: any(
                c["reason"] in ("ErrImagePull", "ImagePullBackOff") and ":newer" in c["message"]
                for c in s.get("conditions") or ()
            ),
        )
        assert service.status["rollout"]["target"]["template"] == pinned["template"] + 1
        assert before.items() <= service.pods().items()
        service.point("1.0.0")
        service.until_serves("1.0.0")
    finally:
        newer.terminate()
        newer.wait(30)
    assert json.dumps(service.status["active"]) == json.dumps(pinned)
