"""The light tier is a real API server: it validates, stores, watches, authorizes and audits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import psutil
import pytest

from devcluster.binaries import KUBERNETES_VERSION
from devcluster.light import LightCluster, light_cluster
from devcluster.progress import StepFailed, wait_for


def test_it_is_the_pinned_version(light: LightCluster) -> None:
    assert (
        json.loads(light.kubectl("version", "--output=json"))["serverVersion"]["gitVersion"] == f"v{KUBERNETES_VERSION}"
    )


def test_it_refuses_an_invalid_object_in_its_own_words(light: LightCluster) -> None:
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x", "namespace": "default"}, "spec": {}}
    with pytest.raises(StepFailed) as refusal:
        light.kubectl("create", "--validate=false", "--filename", "-", stdin=json.dumps(job))
    assert "spec.template.spec.containers: Required value" in refusal.value.output


def test_it_validates_custom_resources_by_cel(light: LightCluster) -> None:
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "probes.test.modelwright.dev"},
        "spec": {
            "group": "test.modelwright.dev",
            "scope": "Namespaced",
            "names": {"kind": "Probe", "plural": "probes", "singular": "probe"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "properties": {
                                "spec": {
                                    "type": "object",
                                    "properties": {"wait": {"type": "string", "maxLength": 20}},
                                    "x-kubernetes-validations": [
                                        {
                                            "rule": "duration(self.wait) > duration('0s')",
                                            "message": "wait is a duration",
                                        }
                                    ],
                                }
                            },
                        }
                    },
                }
            ],
        },
    }
    light.kubectl("apply", "--filename", "-", stdin=json.dumps(crd))
    light.kubectl("wait", "--for=condition=Established", "crd/probes.test.modelwright.dev", "--timeout=30s")

    def probe(wait: str) -> str:
        made = {
            "apiVersion": "test.modelwright.dev/v1",
            "kind": "Probe",
            "metadata": {"name": "p"},
            "spec": {"wait": wait},
        }
        return light.kubectl("apply", "--filename", "-", stdin=json.dumps(made))

    assert "created" in probe("10s")
    with pytest.raises(StepFailed, match="wait is a duration"):
        probe("-1s")


def test_it_audits_each_write_with_its_content(light: LightCluster) -> None:
    light.kubectl("create", "configmap", "audited", "--from-literal=key=value")
    found = [
        event
        for event in light.audit_events()
        if event["verb"] == "create" and event.get("requestObject", {}).get("metadata", {}).get("name") == "audited"  # type: ignore[attr-defined]
    ]
    assert [event["requestObject"]["data"] for event in found] == [{"key": "value"}]  # type: ignore[index]


def test_it_authorizes(light: LightCluster) -> None:
    with pytest.raises(StepFailed, match='User "mallory" cannot list resource "secrets"'):
        light.kubectl("get", "secrets", "--as", "mallory")


def test_it_ends_with_the_process_that_started_it() -> None:
    script = """
        from devcluster.light import light_cluster
        import time
        with light_cluster():
            print("up", flush=True)
            time.sleep(600)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) == 2
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_for("etcd and the API server end", lambda: not any(child.is_running() for child in children), seconds=10)
        with light_cluster():
            left = list(Path(tempfile.gettempdir()).glob(f"modelwright-light-{process.pid}-*"))
        assert left == [], "the next one removes what a killed one left"
    finally:
        process.kill()
