"""Drain and end: whoever was connected is sent elsewhere, and nobody's request is lost."""

from __future__ import annotations

import dataclasses
import http.client
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from modelwright.serving import DrainState

from tests.server import artifacts
from tests.server.artifacts import FEATURES, Published
from tests.server.conftest import Serve
from tests.server.processes import Server, until

BODY = b'{"inputs":[{"name":"features","shape":[1,8],"datatype":"FP32","data":[0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8]}]}'


def drain_state(server: Server, method: str = "GET") -> DrainState:
    return DrainState.model_validate_json(httpx.request(method, f"{server.admin}/drain").content)


def test_a_drain_closes_connections_after_their_answer_and_can_be_taken_back(
    serve: Serve, published: Published
) -> None:
    server = serve(published).wait_ready()
    idle, active = (http.client.HTTPConnection("127.0.0.1", server.run.port) for _ in range(2))

    def ask(connection: http.client.HTTPConnection) -> str | None:
        connection.request("POST", "/v2/models/iris/infer", BODY)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        return answer.headers["Connection"]

    assert (ask(idle), ask(active)) == ("keep-alive", "keep-alive")
    assert drain_state(server) == DrainState(draining=False, open_connections=2, in_flight=0)
    assert drain_state(server, "POST") == DrainState(draining=True, open_connections=2, in_flight=0)
    assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200
    assert ask(active) == "close"
    assert active.sock is None
    until(lambda: drain_state(server).open_connections == 1)
    metric = 'modelwright_serving_draining{model="iris",version="1.0.0"}'
    assert server.metrics()[metric] == 1
    # The connection on which nothing was asked is still good, and its client is told at its next request.
    first = idle.sock
    assert ask(idle) == "close"
    assert first is not None
    until(lambda: drain_state(server).open_connections == 0)
    assert not drain_state(server, "DELETE").draining
    assert (ask(active), server.metrics()[metric]) == ("keep-alive", 0)


def test_the_private_port_knows_only_its_own_paths(server: Server) -> None:
    assert httpx.get(f"{server.admin}/v2").status_code == 404
    assert httpx.put(f"{server.admin}/drain").status_code == 405
    assert httpx.post(f"{server.admin}/metrics").status_code == 405
    assert httpx.get(f"{server.url}/drain").status_code == 404
    assert httpx.get(f"{server.url}/metrics").status_code == 404


@dataclasses.dataclass
class Clients:
    """Threads that ask all along: some over connections that they keep, some over a new one for each request. A
    connection goes where `port` points when it is opened, as behind a Service."""

    port: int
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)
    answers: Counter[str] = dataclasses.field(default_factory=Counter)
    failures: list[str] = dataclasses.field(default_factory=list)

    def run(self, keep: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self.stop.is_set():
            if connection.sock is None:
                connection.port = self.port
            try:
                connection.request("POST", "/v2/models/iris/infer", BODY)
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    self.failures.append(f"{answer.status}")
                self.answers[answer.headers["Modelwright-Version"]] += 1
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
            if not keep:
                connection.close()
        connection.close()

    def count(self) -> int:
        return sum(self.answers.values())


@pytest.fixture
def two(tmp_path: Path, serve: Serve) -> tuple[Server, Server]:
    """Blue and green."""
    blue = serve(artifacts.publish(tmp_path, version="1.0.0"), lame_duck_seconds=1.0)
    green = serve(artifacts.publish(tmp_path, version="1.1.0", seed=3))
    return blue.wait_ready(), green.wait_ready()


@pytest.fixture
def clients(two: tuple[Server, Server]) -> Iterator[Clients]:
    asking = Clients(two[0].run.port)
    threads = [threading.Thread(target=asking.run, args=(keep,)) for keep in (True, True, True, True, False, False)]
    for thread in threads:
        thread.start()
    try:
        yield asking
    finally:
        asking.stop.set()
        for thread in threads:
            thread.join()


def asked_more(clients: Clients, number: int) -> None:
    wanted = clients.count() + number
    until(lambda: clients.count() >= wanted)


def test_switch_drain_wait_and_end_lose_no_request(two: tuple[Server, Server], clients: Clients) -> None:
    blue, green = two
    asked_more(clients, 300)
    clients.port = green.run.port
    drain_state(blue, "POST")
    until(lambda: drain_state(blue).open_connections == 0)
    asked_more(clients, 100)
    blue.terminate()
    assert blue.process.wait(20) == 0, blue.log
    asked_more(clients, 300)
    assert clients.failures == []
    assert clients.answers["1.0.0"] >= 200
    assert clients.answers["1.1.0"] >= 300


def test_an_end_without_a_drain_loses_no_request_of_clients_that_are_sent_elsewhere(
    two: tuple[Server, Server], clients: Clients
) -> None:
    """As when a node is drained: the pod leaves the endpoints, and SIGTERM comes while clients still hold
    connections; those that ask are told to go within the lame-duck time."""
    blue, green = two
    asked_more(clients, 300)
    clients.port = green.run.port
    blue.terminate()
    assert blue.process.wait(20) == 0, blue.log
    asked_more(clients, 300)
    assert clients.failures == []
    assert clients.answers["1.1.0"] >= 300


def test_after_sigterm_it_is_not_ready_and_still_answers_new_connections(serve: Serve, published: Published) -> None:
    server = serve(published, lame_duck_seconds=6.0).wait_ready()
    began = time.monotonic()
    server.terminate()
    until(lambda: httpx.get(f"{server.url}/v2/health/ready").status_code == 503)
    assert httpx.post(f"{server.admin}/drain").status_code == 409
    asked = 0
    while asked < 20 and time.monotonic() < began + 4.0:
        answer = httpx.post(f"{server.model_url}/infer", content=BODY)
        assert (answer.status_code, answer.headers["Connection"]) == (200, "close")
        asked += 1
    assert asked >= 1
    assert server.process.wait(20) == 0
    assert time.monotonic() - began >= 6.0


def test_what_is_in_flight_at_the_end_is_answered(tmp_path: Path, serve: Serve) -> None:
    server = serve(artifacts.publish(tmp_path, hidden=4096), lame_duck_seconds=0.0).wait_ready()
    rows = np.random.default_rng(0).normal(size=(100_000, FEATURES)).astype(np.float32)
    head = (
        b'{"inputs":[{"name":"features","shape":[100000,8],"datatype":"FP32","parameters":{"binary_data_size":%d}}],'
        b'"outputs":[{"name":"logits","parameters":{"binary_data":true}}]}' % rows.nbytes
    )
    answers: list[httpx.Response] = []

    def ask() -> None:
        headers = {"Inference-Header-Content-Length": str(len(head))}
        answers.append(
            httpx.post(f"{server.model_url}/infer", content=head + rows.tobytes(), headers=headers, timeout=60)
        )

    asking = threading.Thread(target=ask)
    asking.start()
    until(lambda: drain_state(server).in_flight == 1)
    server.terminate()
    asking.join()
    assert server.process.wait(30) == 0
    (answer,) = answers
    assert (answer.status_code, answer.headers["Connection"]) == (200, "close")
    assert len(answer.content) - int(answer.headers["Inference-Header-Content-Length"]) == 100_000 * 3 * 4


def test_a_request_that_is_half_sent_at_the_end_is_answered(serve: Serve, published: Published) -> None:
    server = serve(published, lame_duck_seconds=0.1).wait_ready()
    with socket.create_connection(("127.0.0.1", server.run.port), timeout=20) as connection:
        connection.sendall(b"POST /v2/models/iris/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY))
        until(lambda: drain_state(server).open_connections == 1)
        server.terminate()
        until(lambda: "answering for" in server.log)
        time.sleep(0.5)  # past the lame-duck time, whose end shows nowhere outside
        connection.sendall(BODY)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 OK")
    assert server.process.wait(20) == 0


def test_an_idle_connection_does_not_hold_up_the_end(serve: Serve, published: Published) -> None:
    server = serve(published, lame_duck_seconds=0.0).wait_ready()
    idle = http.client.HTTPConnection("127.0.0.1", server.run.port)
    idle.request("GET", "/v2")
    idle.getresponse().read()
    server.terminate()
    assert server.process.wait(5) == 0
    assert idle.sock is not None
    assert idle.sock.recv(10) == b""


def test_a_request_that_never_ends_is_given_up_after_the_grace_period(serve: Serve, published: Published) -> None:
    server = serve(published, lame_duck_seconds=0.0, grace_seconds=0.5).wait_ready()
    with socket.create_connection(("127.0.0.1", server.run.port)) as connection:
        connection.sendall(b"POST /v2/models/iris/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
        until(lambda: drain_state(server).open_connections == 1)
        server.terminate()
        assert server.process.wait(10) == 0
    assert "not answered within 0.5 s" in server.log
