"""Drain and end as gRPC's clients see them: one channel for a client's whole life, and no call that fails."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from modelwright.serving import Reason
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from tests.server import artifacts
from tests.server.artifacts import FEATURES, Published
from tests.server.conftest import Serve
from tests.server.processes import Server, until
from tests.server.test_end import drain_state

ROWS = np.ones((1, FEATURES), np.float32)


class Switch:
    """A Service as connections see it: each goes to where it pointed when it was opened, and stays."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.opened = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                self.opened += 1
                server = socket.create_connection(("127.0.0.1", self.target))
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=_pass_on, args=pair, daemon=True).start()

    def close(self) -> None:
        self._listener.close()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@dataclasses.dataclass
class Calls:
    """Threads that share one channel for all of their life: inferences and metadata."""

    port: int
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)
    answers: Counter[str] = dataclasses.field(default_factory=Counter)
    failures: list[str] = dataclasses.field(default_factory=list)

    def run(self, channel: grpc.Channel, infer: bool) -> None:
        stub = GRPCInferenceServiceStub(channel)
        request = pb.ModelInferRequest(model_name="iris", raw_input_contents=[ROWS.tobytes()])
        request.inputs.add(name="features", datatype="FP32", shape=ROWS.shape)
        metadata = pb.ModelMetadataRequest(name="iris")
        while not self.stop.is_set():
            try:
                _, call = stub.ModelInfer.with_call(request) if infer else stub.ModelMetadata.with_call(metadata)
                self.answers[dict(call.trailing_metadata())["modelwright-version"]] += 1
            except grpc.RpcError as error:
                self.failures.append(f"{error.code()} {error.details()}")

    def more(self, number: int) -> None:
        wanted = self.answers.total() + number
        until(lambda: self.answers.total() >= wanted)


@pytest.fixture
def two(tmp_path: Path, serve: Serve) -> tuple[Server, Server]:
    """Blue and green."""
    blue = serve(artifacts.publish(tmp_path, version="1.0.0"), grpc_connection_age_seconds=0.5)
    green = serve(artifacts.publish(tmp_path, version="1.1.0", seed=3), grpc_connection_age_seconds=0.5)
    return blue.wait_ready(), green.wait_ready()


@pytest.fixture
def switch(two: tuple[Server, Server]) -> Iterator[Switch]:
    one = Switch(two[0].run.grpc_port)
    yield one
    one.close()


@pytest.fixture
def calls(switch: Switch) -> Iterator[Calls]:
    asking = Calls(switch.port)
    # As gRPC makes channels by default, which retries nothing that has reached a server.
    with grpc.insecure_channel(f"127.0.0.1:{switch.port}") as channel:
        threads = [threading.Thread(target=asking.run, args=(channel, infer)) for infer in (True, True, True, False)]
        for thread in threads:
            thread.start()
        try:
            yield asking
        finally:
            asking.stop.set()
            for thread in threads:
                thread.join()


def test_a_channel_outlives_its_connections_and_loses_no_call(calls: Calls, switch: Switch) -> None:
    until(lambda: switch.opened >= 8)
    calls.more(10)
    assert calls.failures == []


def test_switch_drain_wait_and_end_lose_no_call(two: tuple[Server, Server], switch: Switch, calls: Calls) -> None:
    blue, green = two
    calls.more(100)
    switch.target = green.run.grpc_port
    drain_state(blue, "POST")
    until(lambda: drain_state(blue).open_connections == 0)
    calls.more(100)
    assert calls.answers["1.1.0"] >= 90
    blue.terminate()
    assert blue.process.wait(20) == 0, blue.log
    calls.more(100)
    assert calls.failures == []


def test_an_end_without_a_drain_waits_for_connections_to_come_of_age(
    two: tuple[Server, Server], switch: Switch, calls: Calls
) -> None:
    blue, green = two
    calls.more(100)
    switch.target = green.run.grpc_port
    blue.terminate()
    assert blue.process.wait(20) == 0, blue.log
    calls.more(100)
    assert calls.failures == []
    assert calls.answers["1.1.0"] >= 100


def test_the_open_connections_are_counted(serve: Serve, published: Published) -> None:
    server = serve(published, grpc_connection_age_seconds=60).wait_ready()
    before = drain_state(server).open_connections
    with grpc.insecure_channel(server.grpc) as channel:
        GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest())
        assert drain_state(server).open_connections == before + 1
    until(lambda: drain_state(server).open_connections == before)


def test_a_connection_that_stays_does_not_hold_up_the_end_beyond_the_grace_period(
    serve: Serve, published: Published
) -> None:
    server = serve(published, lame_duck_seconds=0.0, grace_seconds=1.0, grpc_connection_age_seconds=60).wait_ready()
    with grpc.insecure_channel(server.grpc) as channel:
        GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest())
        began = time.monotonic()
        server.terminate()
        assert server.process.wait(10) == 0
        assert time.monotonic() - began >= 1.0


def test_a_port_that_is_taken_is_told(serve: Serve, published: Published) -> None:
    first = serve(published).wait_ready()
    code, failure = serve(published, grpc_port=first.run.grpc_port).failure()
    assert (code, failure.reason) == (Reason.INVALID_RUN.code, "InvalidRun")
    assert f"port {first.run.grpc_port} cannot be listened on" in failure.message
