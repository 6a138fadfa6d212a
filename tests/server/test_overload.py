"""More than a server can do: what it takes on is answered, the rest is refused at once, and told when to come again."""

from __future__ import annotations

import concurrent.futures
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub
from tritonclient.utils import InferenceServerException

from tests.server import artifacts, processes
from tests.server.artifacts import FEATURES, Published
from tests.server.conftest import Serve
from tests.server.processes import Server, until
from tests.server.test_end import drain_state
from tests.server.test_grpc import typed
from tests.server.test_inference import asked

ROW = np.ones((1, FEATURES), np.float32)
MANY = np.ones((20_000, FEATURES), np.float32)
AT_ONCE = 16


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes long for many rows, and lets two requests wait."""
    place = tmp_path_factory.mktemp("narrow")
    one = processes.serve(artifacts.publish(place, hidden=4096), place / "server", max_waiting=2)
    try:
        yield one.wait_ready()
    finally:
        one.kill()


def many() -> tuple[bytes, dict[str, str]]:
    tensor = {"name": "features", "shape": MANY.shape, "datatype": "FP32"}
    head = json.dumps({
        "inputs": [{**tensor, "parameters": {"binary_data_size": MANY.nbytes}}], "outputs": [{"name": "logits"}],
    }).encode()  # fmt: skip
    return head + MANY.tobytes(), {"Inference-Header-Content-Length": str(len(head))}


def flood(server: Server) -> list[httpx.Response]:
    content, headers = many()

    def ask(_: int) -> httpx.Response:
        return httpx.post(f"{server.model_url}/infer", content=content, headers=headers, timeout=120)

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(ask, range(AT_ONCE)))


def errors(server: Server, kind: str) -> float:
    return server.metrics()[f'modelwright_serving_errors_total{{kind="{kind}",model="iris",version="1.0.0"}}']


def test_what_does_not_find_room_is_refused_and_told_when_to_come_again(narrow: Server) -> None:
    before = errors(narrow, "Overloaded")
    answers = flood(narrow)
    refused = [one for one in answers if one.status_code == 429]
    assert {one.status_code for one in answers} == {200, 429}
    assert {one.headers["Retry-After"] for one in refused} == {"1"}
    assert refused[0].json()["error"].startswith("2 requests wait already, the most that this server lets wait")
    assert errors(narrow, "Overloaded") - before == len(refused)
    assert httpx.post(f"{narrow.model_url}/infer", json=asked(ROW)).status_code == 200
    assert narrow.metrics()['modelwright_serving_waiting{model="iris",version="1.0.0"}'] == 0


def test_grpc_says_so_too(narrow: Server) -> None:
    request = pb.ModelInferRequest(model_name="iris", raw_input_contents=[MANY.tobytes()])
    request.inputs.add(name="features", datatype="FP32", shape=MANY.shape)
    with grpc.insecure_channel(narrow.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        calls = [stub.ModelInfer.future(request) for _ in range(AT_ONCE)]
        codes = {call.code().name for call in calls}
        refused = next(call for call in calls if call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert codes == {"OK", "RESOURCE_EXHAUSTED"}
    assert dict(refused.trailing_metadata()) == {"modelwright-version": "1.0.0", "grpc-retry-pushback-ms": "1000"}


def test_one_that_has_waited_for_too_long_is_not_computed(tmp_path: Path, serve: Serve) -> None:
    server = serve(artifacts.publish(tmp_path, hidden=4096), max_wait_seconds=0.02).wait_ready()
    answers = flood(server)
    late = [one for one in answers if one.status_code == 429]
    assert late
    assert late[0].json()["error"] == "the request waited for more than 0.02 s: try again, or add replicas"
    assert len(late) < AT_ONCE


def test_one_whose_client_does_not_wait_any_more_is_not_computed(server: Server) -> None:
    answer = httpx.post(f"{server.model_url}/infer", json=asked(ROW, parameters={"timeout": 1}))
    assert answer.status_code == 504
    assert "time was over before it could be computed" in answer.json()["error"]
    request = typed(ROW)
    request.parameters["timeout"].int64_param = 1
    with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError) as raised:
        GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    tensor = triton.InferInput("features", [1, FEATURES], "FP32")
    tensor.set_data_from_numpy(ROW)
    with pytest.raises(InferenceServerException, match="time was over"):
        client.infer("iris", [tensor], timeout=1)
    client.infer("iris", [tensor], timeout=30_000_000)


@pytest.mark.parametrize("wrong", ["soon", -1, True, 1.5])
def test_a_timeout_that_is_no_number_of_microseconds_is_told(server: Server, wrong: Any) -> None:
    answer = httpx.post(f"{server.model_url}/infer", json=asked(ROW, parameters={"timeout": wrong}))
    assert (answer.status_code, "timeout is a number of microseconds" in answer.json()["error"]) == (400, True)


def test_bodies_that_do_not_end_are_held_up_to_a_bound_and_given_up_with_their_connections(
    serve: Serve, published: Published
) -> None:
    server = serve(published, max_request_bytes=1024 * 1024).wait_ready()
    head = b"POST /v2/models/iris/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\n"
    connections = [socket.create_connection(("127.0.0.1", server.run.port), timeout=20) for _ in range(5)]
    for connection in connections[:4]:
        connection.sendall(head + b"x" * 1000 * 1024)
    until(lambda: drain_state(server).open_connections == 5)
    connections[4].sendall(head + b"x" * 1000 * 1024)
    answer = connections[4].recv(4096)
    assert answer.startswith(b"HTTP/1.1 429")
    assert b"retry-after: 1" in answer
    for connection in connections:
        connection.close()
    until(lambda: drain_state(server).open_connections == 0)
    content = json.dumps(asked(np.ones((8000, FEATURES), np.float32))).encode()
    for _ in range(20):
        assert httpx.post(f"{server.model_url}/infer", content=content).status_code == 200
