"""Real servers of real artifacts, as processes on the loopback. One of each kind serves the tests that only ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server import artifacts, processes
from tests.server.artifacts import Published
from tests.server.processes import Server

Serve = Callable[..., Server]


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return artifacts.publish(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="session")
def server(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A ready server whose state no test changes."""
    one = processes.serve(published, tmp_path_factory.mktemp("server"), max_request_bytes=1024 * 1024)
    try:
        yield one.wait_ready()
    finally:
        one.kill()


@pytest.fixture(scope="session")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A ready server of a graph that fails in the runtime on features of 100 and above."""
    place = tmp_path_factory.mktemp("failing")
    version = artifacts.publish(place, version="1.1.0", variant="int8", nodes=artifacts.fails_on_large_values())
    one = processes.serve(version, place / "server")
    try:
        yield one.wait_ready()
    finally:
        one.kill()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts servers that end with the test."""
    started: list[Server] = []

    def one(published: Published, **more: Any) -> Server:
        started.append(processes.serve(published, tmp_path / f"server-{len(started)}", **more))
        return started[-1]

    yield one
    for server in started:
        server.kill()
