"""The operator in a cluster: its chart by Helm, with this checkout's images."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from dev.target import Store, Target
from devcluster.progress import StepFailed, Steps, run

CHART = Path(__file__).parent.parent / "charts" / "modelwright"
RELEASE = "modelwright"
NAMESPACE = "modelwright-system"
BUCKET = "modelwright"
SECRET = "store"  # noqa: S105 - a Secret's name


def helm(target: Target) -> list[str]:
    """The helm command that acts on the target: the one beside its kubectl, else the one on PATH."""
    beside = Path(target.kubectl_path).parent / "helm"
    found = str(beside) if beside.exists() else shutil.which("helm")
    if not found:
        raise StepFailed("helm: not on PATH", remedy="install Helm 3, or leave CONTEXT out and use the devcluster")
    kubeconfig = ["--kubeconfig", str(target.kubeconfig)] if target.kubeconfig else []
    return [found, *kubeconfig, "--kube-context", target.context]


def install(target: Target, refs: Mapping[str, str], server: Store, steps: Steps) -> None:
    """Installs the operator, or upgrades it, and waits until its replicas are ready."""
    values = {
        "image": refs["operator"],
        "trainerImage": refs["trainer"],
        "serverImage": refs["server"],
        "storage.uri": f"s3://{BUCKET}/store",
        "storage.endpoint": server.inside,
        "storage.region": server.region,
        "storage.secretName": SECRET,
    }
    with steps.step("install the operator with Helm", usual=12):
        run(
            [
                *helm(target), "upgrade", "--install", RELEASE, CHART, "--namespace", NAMESPACE, "--create-namespace",
                "--wait", "--timeout", "120s", *(f"--set={name}={value}" for name, value in values.items()),
            ],
            timeout=150,
            env={"NO_PROXY": "*", "no_proxy": "*"} if target.devcluster else {},
        )  # fmt: skip
