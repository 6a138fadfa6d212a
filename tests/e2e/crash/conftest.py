"""A cluster of its own, with nothing installed but the CRDs: the operator is a process here, one for each run."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev import digits, images
from dev.buildah import ROOT
from dev.demo import BUCKET, ensure_bucket, s3
from dev.target import Store, Target, resolve, store
from devcluster import cluster as life
from devcluster.config import state_home
from devcluster.progress import Steps

NAME = "crash"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("CONTEXT"):
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="CONTEXT is set: an operator there would do the work"))


@dataclasses.dataclass(frozen=True)
class World:
    """A cluster without an operator, its store with the digits in it, and the image for training pods."""

    target: Target
    store: Store
    trainer: str
    audit_log: Path

    @property
    def kubeconfig(self) -> Path:
        assert self.target.kubeconfig is not None
        return self.target.kubeconfig


@pytest.fixture(scope="session")
def world(steps: Steps) -> Iterator[World]:
    """It is taken down at the end, unless it was up before."""
    state = state_home() / NAME
    was_up = (state / "cluster.json").exists()
    target = resolve(steps, {"NAME": NAME})
    try:
        refs = images.build_and_push(steps, target.registry, ("trainer",))
        target.kubectl("apply", "--server-side", "--filename", str(ROOT / "crds"))
        with store(target, steps, {}) as server:
            ensure_bucket(server)
            digits.upload(s3(server), BUCKET)
            yield World(target, server, refs["trainer"], state / "log" / "audit.log")
    finally:
        if not was_up:
            life.down(NAME, state, steps)
