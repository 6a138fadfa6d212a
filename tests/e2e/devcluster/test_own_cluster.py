"""CONTEXT and REGISTRY: the commands use a cluster that they know nothing else of. Here it is another devcluster, which
they reach by its kubeconfig alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from devcluster.config import Cluster

PROJECT = Path(__file__).parents[3]


@pytest.mark.long
def test_the_demo_runs_on_a_cluster_of_one_s_own(breakable: Cluster) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {
        "KUBECONFIG": str(breakable.kubeconfig),
        "CONTEXT": breakable.context,
        "REGISTRY": breakable.registry,
        "PATH": f"{breakable.state / 'bin'}:{os.environ['PATH']}",
    }
    run = subprocess.run(
        [sys.executable, "-m", "dev.demo"],
        cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert f"on the cluster of context {breakable.context}" in run.stdout
    assert re.search(r"all-reduce of 2 pods .* gives 3, in s3://", run.stdout)
    assert re.search(r"digits-v1-0-0 +digits +1\.0\.0 +Succeeded +100 +0\.\d+ +Published", run.stdout)
    assert "install a store in the cluster" in run.stderr
    assert "start etcd" not in run.stderr, "the devcluster was not touched"
