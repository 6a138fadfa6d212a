"""The operator as the chart installs it, and a namespace in which it trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from dev import digits
from dev.demo import BUCKET, ensure_bucket, prepare, s3
from dev.install import install
from dev.target import Store, Target
from devcluster.progress import Steps
from tests.e2e.training.jobs import Space

NAMESPACE = "modelwright-e2e-training"


@pytest.fixture(scope="session")
def operator(target: Target, server: Store, refs: Mapping[str, str], steps: Steps) -> Target:
    """The target with the operator installed, and the digits in the store."""
    install(target, refs, server, steps)
    ensure_bucket(server)
    digits.upload(s3(server), BUCKET)
    digits.forget(s3(server), BUCKET, "e2e/")
    digits.forget_all(s3(server), BUCKET, NAMESPACE)
    return target


@pytest.fixture(scope="session")
def space(operator: Target, server: Store) -> Iterator[Space]:
    """A namespace with the store's credentials."""
    prepare(operator, server, NAMESPACE)
    made = Space(operator, NAMESPACE)
    # What a run that was cut off has left knows of versions that the store holds no more.
    made.kubectl("delete", "trainingjobs,modelversions,models,datasets", "--all", "--wait", timeout=130)
    yield made
    operator.kubectl("delete", "namespace", NAMESPACE, f"{NAMESPACE}-host", "--wait", "--timeout=120s", timeout=130)
