"""The whole cluster for the session, with this checkout's images in its registry.

It is the one that `make demo` uses, and it stays up afterwards: `make down` ends it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from dev import images
from dev.demo import prepare
from dev.target import Store, Target, resolve, store
from devcluster.progress import Steps

NAMESPACE = "modelwright-e2e"


@pytest.fixture(scope="session")
def target(steps: Steps) -> Target:
    return resolve(steps)


@pytest.fixture(scope="session")
def refs(target: Target, steps: Steps) -> Mapping[str, str]:
    """The references of this checkout's images."""
    return images.build_and_push(steps, target.registry)


@pytest.fixture(scope="session")
def server(target: Target, steps: Steps) -> Iterator[Store]:
    """The S3 server, with our bucket in it."""
    with store(target, steps) as one:
        yield one


@pytest.fixture(scope="session")
def namespace(target: Target, server: Store) -> Iterator[str]:
    """A namespace for the session that holds the store's credentials."""
    prepare(target, server, NAMESPACE)
    yield NAMESPACE
    target.kubectl("delete", "namespace", NAMESPACE, f"{NAMESPACE}-host", "--wait=false")
