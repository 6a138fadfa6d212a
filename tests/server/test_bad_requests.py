"""What a client does wrong is a 4xx that names it; never a 5xx, never a crash."""

from __future__ import annotations

import copy
import json
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.server.artifacts import FEATURES
from tests.server.processes import Server

GOOD: dict[str, Any] = {
    "inputs": [{"name": "features", "shape": [1, FEATURES], "datatype": "FP32", "data": [0.5] * FEATURES}]
}


def changed(**fields: Any) -> dict[str, Any]:
    """The good request with other fields of its only input; None takes one away."""
    request = copy.deepcopy(GOOD)
    for name, value in fields.items():
        request["inputs"][0][name] = value
        if value is None:
            del request["inputs"][0][name]
    return request


BAD: list[tuple[Any, str]] = [
    ([], "the request is a JSON object with the field inputs"),
    ({}, "inputs: it is a list of tensors"),
    ({"inputs": {}}, "inputs: it is a list of tensors"),
    ({"inputs": []}, "inputs: 'features' is missing"),
    ({"inputs": [3]}, "inputs[0]: it is an object"),
    (changed(name=None), "inputs[0]: name is a text"),
    (changed(name="petals"), "inputs[0]: the model has no input 'petals'; its inputs are features"),
    ({"inputs": GOOD["inputs"] * 2}, "inputs[1]: 'features' is given twice"),
    (changed(shape=None), "input 'features': shape is a list of lengths, here [-1, 8] where -1 is any"),
    (changed(shape=[1, 8.0]), "shape is a list of lengths"),
    (changed(shape=[True, 8]), "shape is a list of lengths"),
    (changed(shape=[-1, 8]), "shape is a list of lengths"),
    (changed(shape=[10**30, 8]), "shape is a list of lengths"),
    (changed(shape=[1] * 40), "shape is a list of lengths"),
    (changed(shape=[1, 7]), "input 'features': the shape is [-1, 8] where -1 is any, and [1, 7] is given"),
    (changed(shape=[8]), "input 'features': the shape is [-1, 8] where -1 is any, and [8] is given"),
    (changed(datatype="FP64"), "input 'features': the datatype is FP32, not FP64"),
    (changed(datatype=None), "datatype 'None' is none of the protocol; it is FP32"),
    (changed(datatype="FLOAT"), "datatype 'FLOAT' is none of the protocol; it is FP32"),
    (changed(data=None), "input 'features': it has no data"),
    (changed(data=0.5), "its data is a list, nested or flat, not the number 0.5"),
    (changed(data=[0.5] * 7), "input 'features': its data has 7 elements, its shape [1, 8] has 8"),
    (changed(shape=[10**9, 8]), "input 'features': its data has 8 elements"),
    (changed(data=[[0.5] * 4, [0.5] * 4]), "its data is nested as [2, 4], its shape is [1, 8]"),
    (changed(data=[[0.5] * 4, [0.5] * 3]), "its data is not nested evenly"),
    (changed(data=["0.5"] * 8), "the data of FP32 are numbers, and here is the text '0.5'"),
    (changed(data=[None] * 8), "the data of FP32 are numbers, and here is null"),
    (changed(data=[True] * 8), "the data of FP32 are numbers, and here is true"),
    (changed(data=[{}] * 8), "the data of FP32 are numbers, and here is an object"),
    (changed(data=[1e39] * 8), "input 'features': a value is too large for FP32"),
    (changed(parameters={"binary_data_size": 32}), "it has both data and binary_data_size"),
    (changed(data=None, parameters={"binary_data_size": 32}), "needs the header Inference-Header-Content-Length"),
    (changed(data=None, parameters={"binary_data_size": -1}), "binary_data_size is a number of bytes"),
    (changed(parameters=[]), "input 'features': parameters is an object"),
    ({**GOOD, "id": 7}, "id: it is a text"),
    ({**GOOD, "parameters": 7}, "the request: parameters is an object"),
    ({**GOOD, "parameters": {"binary_data_output": 1}}, "the request: binary_data_output is true or false"),
    ({**GOOD, "outputs": {}}, "outputs: it is a list of outputs"),
    ({**GOOD, "outputs": ["logits"]}, "outputs[0]: it is an object with the text name"),
    ({**GOOD, "outputs": [{"name": "x"}]}, "the model has no output 'x'; its outputs are logits, probabilities"),
    ({**GOOD, "outputs": [{"name": "logits"}] * 2}, "outputs[1]: 'logits' is asked for twice"),
    ({**GOOD, "outputs": [{"name": "logits", "parameters": {"classification": 2}}]}, "does not have classification"),
    ({**GOOD, "outputs": [{"name": "logits", "parameters": {"binary_data": "yes"}}]}, "binary_data is true or false"),
]


@pytest.mark.parametrize(("request_", "words"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_wrong_is_named(server: Server, request_: Any, words: str) -> None:
    answer = httpx.post(f"{server.model_url}/infer", json=request_)
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\x00\x01", b'{"inputs": NaN}', b"[" * 100_000, b'{"inputs":' * 50_000, b"\xff" * 10],
    ids=["empty", "cut", "binary", "NaN", "deep lists", "deep objects", "no UTF-8"],
)  # fmt: skip
def test_a_body_that_is_no_json_is_refused(server: Server, body: bytes) -> None:
    answer = httpx.post(f"{server.model_url}/infer", content=body)
    assert answer.status_code == 400
    assert "no JSON" in answer.json()["error"]


def test_deep_data_is_refused(server: Server) -> None:
    request = json.dumps(changed(data=["here"])).replace('"here"', "[" * 900 + "]" * 900)
    answer = httpx.post(f"{server.model_url}/infer", content=request)
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize(
    ("header", "size", "data", "words"),
    [
        ("x", 32, 32, "'x' is no length"),
        ("-5", 32, 32, "'-5' is no length"),
        ("0", 32, 32, "raw requests without JSON are not served"),
        ("100000", 32, 32, "says 100000 bytes, and the body has"),
        ("10", 32, 32, "the body is no JSON"),
        (None, 31, 32, "[1, 8] of FP32 are 32 bytes, not the 31 of binary_data_size"),
        (None, 32, 31, "binary_data_size is 32, and the body has 31 bytes left"),
        (None, 32, 33, "the body has 1 bytes more than its JSON and the binary_data_size of its inputs"),
        (None, 2**60, 32, "binary_data_size is 1152921504606846976, and the body has 32 bytes left"),
    ],
)
def test_lengths_that_lie_are_refused(server: Server, header: str | None, size: int, data: int, words: str) -> None:
    head = json.dumps(changed(data=None, parameters={"binary_data_size": size})).encode()
    answer = httpx.post(
        f"{server.model_url}/infer", content=head + b"\x00" * data,
        headers={"Inference-Header-Content-Length": header or str(len(head))},
    )  # fmt: skip
    assert answer.status_code == 400
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/", 404, "the protocol's begin with /v2"),
        ("GET", "/v2/models", 404, "there is no such path"),
        ("GET", "/v2/models/tulips", 404, "there is no model 'tulips' here; this server has 'iris'"),
        ("POST", "/v2/models/tulips/infer", 404, "there is no model 'tulips' here; this server has 'iris'"),
        ("POST", "/v2/models/iris/versions/2/infer", 404, "there is no version '2' of 'iris' here; this server has"),
        ("GET", "/v2/models/iris/stats", 404, "there is no such path"),
        ("GET", "/v2/models/iris/infer", 405, "GET is not for this path; POST is"),
        ("POST", "/v2/health/live", 405, "POST is not for this path; GET, HEAD is"),
        ("DELETE", "/v2/models/iris", 405, "DELETE is not for this path"),
    ],
)
def test_paths_and_methods_that_are_none(server: Server, method: str, path: str, status: int, words: str) -> None:
    answer = httpx.request(method, f"{server.url}{path}")
    assert answer.status_code == status
    assert words in answer.json()["error"]


def test_a_compressed_body_is_refused_with_words(server: Server) -> None:
    answer = httpx.post(f"{server.model_url}/infer", content=b"x", headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415
    assert "no compressed requests" in answer.json()["error"]


def chunks() -> Any:
    for _ in range(40):
        yield b" " * 65536


@pytest.mark.parametrize("content", [lambda: b" " * 3_000_000, chunks], ids=["length", "chunks"])
def test_a_body_beyond_the_limit_is_413_and_the_client_sees_it(server: Server, content: Callable[[], Any]) -> None:
    answer = httpx.post(f"{server.model_url}/infer", content=content())
    assert answer.status_code == 413
    assert "larger than 1048576 bytes" in answer.json()["error"]


def raw(server: Server, content: bytes) -> bytes:
    """All that the server says to these bytes until it closes the connection, or has no more to say."""
    with socket.create_connection(("127.0.0.1", server.run.port), timeout=10) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        said = b""
        while part := connection.recv(65536):
            said += part
        return said


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"GARBAGE\r\n\r\n", b"400"),
        (b"GET /v2 HTTP/3.7\r\n\r\n", b"400"),
        (b"POST /v2 HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
        (b"POST /v2 HTTP/1.1\r\nContent-Length: five\r\n\r\n", b"400"),
        (b"POST /v2 HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", b"400"),
        (b"POST /v2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"GET /v2 HTTP/1.1\r\nLong: " + b"x" * 200_000 + b"\r\n\r\n", b"431"),
        (b"CONNECT example:80 HTTP/1.1\r\nHost: x\r\n\r\n", b"405"),
    ],
)  # fmt: skip
def test_what_is_no_http_is_refused(server: Server, content: bytes, status: bytes) -> None:
    said = raw(server, content)
    assert said.split(b" ", 2)[1] == status, said
    assert b"connection: close" in said


def test_requests_that_are_sent_ahead_are_all_answered_in_order(server: Server) -> None:
    body = json.dumps(GOOD).encode()
    infer = b"POST /v2/models/iris/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    live = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    said = raw(server, (infer + live) * 20 + live * 5000 + b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert said.count(b"HTTP/1.1 200 OK") == 5041
    bodies = said.split(b"\r\n\r\n")[1:]
    assert [b"outputs" in one for one in bodies[:41]] == [True, False] * 20 + [False]
    assert b"modelwright-server" in bodies[-1]


def test_an_offer_of_http2_is_declined_by_answering(server: Server) -> None:
    """As Java's client offers with its first request, and curl with --http2."""
    body = json.dumps(GOOD).encode()
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
    infer = b"POST /v2/models/iris/infer HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n" % (offer, len(body))
    said = raw(server, infer + body + b"GET /v2 HTTP/1.1\r\nHost: x\r\n%s\r\n" % offer + infer + body)
    assert [part[:3] for part in said.split(b"HTTP/1.1 ")[1:]] == [b"200"] * 3, said


def test_a_client_that_waits_to_be_told_to_send_its_body_is_told(server: Server) -> None:
    body = json.dumps(GOOD).encode()
    with socket.create_connection(("127.0.0.1", server.run.port), timeout=10) as connection:
        connection.sendall(
            b"POST /v2/models/iris/infer HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
            % len(body)
        )
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")


def test_a_body_that_comes_byte_by_byte_is_understood(server: Server) -> None:
    body = json.dumps(GOOD).encode()
    request = b"POST /v2/models/iris/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with socket.create_connection(("127.0.0.1", server.run.port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for index in range(len(request)):
            connection.sendall(request[index : index + 1])
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")


def test_an_http10_client_gets_its_answer_and_the_end(server: Server) -> None:
    said = raw(server, b"GET /v2 HTTP/1.0\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200 OK")
    assert b"connection: close" in said


def test_head_is_get_without_the_body(server: Server) -> None:
    answer = httpx.head(f"{server.url}/v2")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) == len(httpx.get(f"{server.url}/v2").content)


def test_a_client_that_ends_in_the_midst_of_its_next_request_is_not_waited_for(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.run.port), timeout=10) as connection:
        connection.sendall(b"POST /v2/models/iris/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}P")
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(4096):
            answer += data
    assert answer.startswith(b"HTTP/1.1 400")
