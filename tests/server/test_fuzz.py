"""Whatever bytes come, the server answers with a 4xx or rightly, stays up, and does not grow.

FUZZ_SECONDS=600 .venv/bin/python -m pytest tests/server/test_fuzz.py
"""

from __future__ import annotations

import json
import os
import random
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import httpx
import numpy as np
import psutil
import pytest

from tests.server import processes
from tests.server.artifacts import FEATURES, Published
from tests.server.processes import Server
from tests.server.test_grpc import raw, typed

SECONDS = float(os.environ.get("FUZZ_SECONDS", "4"))
ROWS = np.linspace(-1, 1, 3 * FEATURES, dtype=np.float32).reshape(3, FEATURES)
GROWTH_MIB = 64
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
# What is odd to a reader of numbers, lengths and nestings.
_ODD = (
    b"0", b"-1", b"NaN", b"1e999", b"99999999999999999999", b"null", b"[" * 3000, b'{"a":' * 3000, b'"', b"\\ud800",
    b"\x00", b"\xff\xfe", b"true", b"[[[]]]", b"{}", b"", b"2147483648", b"1.5", b"\r\n\r\n", b"chunked",
)  # fmt: skip


@pytest.fixture(scope="module")
def fuzzed(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    one = processes.serve(published, tmp_path_factory.mktemp("fuzzed"), max_request_bytes=256 * 1024)
    try:
        yield one.wait_ready()
    finally:
        one.kill()


def requests() -> list[tuple[str, bytes, int]]:
    """Good ones: path, body, and the length of its JSON where bytes follow it."""
    tensor = {"name": "features", "shape": list(ROWS.shape), "datatype": "FP32"}
    head = json.dumps({
        "id": "1", "inputs": [{**tensor, "parameters": {"binary_data_size": ROWS.nbytes}}],
        "outputs": [{"name": "logits", "parameters": {"binary_data": True}}], "parameters": {"timeout": 10_000_000},
    }).encode()  # fmt: skip
    plain = json.dumps({"inputs": [{**tensor, "data": ROWS.tolist()}]}).encode()
    records = [dict(zip([f"f{index}" for index in range(FEATURES)], row, strict=True)) for row in ROWS.tolist()]
    return [
        ("/v2/models/iris/infer", head + ROWS.tobytes(), len(head)),
        ("/v2/models/iris/infer", plain, 0),
        ("/v2/models/iris/predict", json.dumps({"records": records}).encode(), 0),
        ("/v1/models/iris:predict", json.dumps({"instances": ROWS.tolist()}).encode(), 0),
    ]


def mutated(content: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.randint(0, 3)):
        begin = chance.randrange(len(content) + 1)
        end = min(len(content), begin + chance.choice((0, 1, 2, 8, 100)))
        new = chance.choice((*_ODD, chance.randbytes(chance.randint(1, 8)), content[begin:end] * 2))
        content = content[:begin] + new + content[end:]
        if chance.random() < 0.1:
            content = content[:end]
    return content


def over_http(chance: random.Random) -> bytes:
    path, body, json_length = chance.choice(requests())
    body = mutated(body, chance)
    # Half of the time lengths are of what is sent, else they lie.
    lie = chance.choice((0, 0, 0, 1, -1, 100, 10**6, -(10**3)))
    header = f"Inference-Header-Content-Length: {json_length + chance.choice((0, 0, 0, 1, -1, 10**9, -5))}\r\n"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\n{header if json_length or chance.random() < 0.1 else ''}"
        f"Content-Length: {len(body) + lie}\r\n\r\n"
    ).encode()
    return (mutated(head, chance) if chance.random() < 0.2 else head) + body


def answered(port: int, content: bytes) -> list[int]:
    """The statuses of all answers to what is sent over one connection, which the client then ends."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        got = b""
        try:
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(65536):
                got += data
        except (ConnectionResetError, BrokenPipeError):
            pass
    return [int(status) for status in _STATUS.findall(got)]


def rss_mib(server: Server) -> float:
    return float(psutil.Process(server.process.pid).memory_info().rss / 1024**2)


def check_sane(server: Server, attempt: Callable[[random.Random], None]) -> None:
    chance = random.Random(int(time.time()))  # noqa: S311 - no secret hangs on it
    for _ in range(200):
        attempt(chance)
    before, ends = rss_mib(server), time.monotonic() + SECONDS
    while time.monotonic() < ends:
        attempt(chance)
    assert server.process.poll() is None, server.log
    assert rss_mib(server) - before < GROWTH_MIB
    assert "Traceback" not in server.log
    for path, body, json_length in requests():
        headers = {"Inference-Header-Content-Length": str(json_length)} if json_length else {}
        assert httpx.post(server.url + path, content=body, headers=headers).status_code == 200


def test_no_bytes_over_http_are_the_servers_error(fuzzed: Server, tmp_path: Path) -> None:
    seen: set[int] = set()

    def attempt(chance: random.Random) -> None:
        content = over_http(chance)
        statuses = answered(fuzzed.run.port, content)
        if any(status >= 500 and status != 504 for status in statuses):
            (tmp_path / "content").write_bytes(content)
            raise AssertionError(f"{statuses}: {content[:2000]!r}")
        seen.update(statuses)

    check_sane(fuzzed, attempt)
    assert {200, 400} <= seen


def test_no_bytes_over_grpc_are_the_servers_error(fuzzed: Server) -> None:
    seen: set[str] = set()
    with grpc.insecure_channel(fuzzed.grpc) as channel:
        method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        def attempt(chance: random.Random) -> None:
            content = mutated(chance.choice((raw, typed))(ROWS).SerializeToString(), chance)
            code = method.future(content).code().name
            assert code in ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "DEADLINE_EXCEEDED"), content
            seen.add(code)

        check_sane(fuzzed, attempt)
    assert {"OK", "INVALID_ARGUMENT"} <= seen
