"""A cluster of its own, with nothing installed but the CRDs: the operator is a process here, one for each run."""

from __future__ import annotations

import contextlib
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
    """A cluster without an operator, its store with our bucket in it, and the images for pods; empty where a story has
    no such pods."""

    target: Target
    store: Store
    audit_log: Path
    trainer: str = ""
    server: str = ""

    @property
    def kubeconfig(self) -> Path:
        assert self.target.kubeconfig is not None
        return self.target.kubeconfig


@contextlib.contextmanager
def cluster(steps: Steps, name: str, image: str) -> Iterator[World]:
    """It is taken down at the end, unless it was up before. `image` is the one that is brought there."""
    state = state_home() / name
    was_up = (state / "cluster.json").exists()
    target = resolve(steps, {"NAME": name})
    try:
        refs = images.build_and_push(steps, target.registry, (image,))
        target.kubectl("apply", "--server-side", "--filename", str(ROOT / "crds"))
        with store(target, steps, {}) as server:
            ensure_bucket(server)
            yield World(target, server, state / "log" / "audit.log", **refs)
    finally:
        if not was_up:
            life.down(name, state, steps)


@pytest.fixture(scope="session")
def world(steps: Steps) -> Iterator[World]:
    """With the digits in its store."""
    with cluster(steps, NAME, "trainer") as made:
        digits.upload(s3(made.store), BUCKET)
        yield made
