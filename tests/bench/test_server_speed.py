"""The model server under load of 1, 16 and 64 connections, beside its floor: the same graph, ONNX Runtime in a loop.

    SECONDS=5 .venv/bin/python -m pytest tests/bench/test_server_speed.py -s

Clients are a process of their own on the same machine, so that they take of the CPU that the server would have; what
the server itself takes is told as its CPU time per answer, which other work on the machine distorts least. One row a
request, in bytes (binary tensor data both ways) and as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import pytest
from modelwright import artifact

from tests.bench.http_load import Load
from tests.server import artifacts, processes
from tests.server.artifacts import FEATURES, Published
from tests.server.processes import Server

SECONDS = float(os.environ.get("SECONDS", "5"))
CONNECTIONS = (1, 16, 64)
HIDDEN = {"small": 16, "large": 65536}
ROW = np.linspace(-1, 1, FEATURES, dtype=np.float32).reshape(1, FEATURES)


def body(binary: bool) -> tuple[bytes, int]:
    """A request, and the length of its JSON where bytes follow it."""
    tensor = {"name": "features", "shape": [1, FEATURES], "datatype": "FP32"}
    if not binary:
        return json.dumps({"inputs": [{**tensor, "data": ROW.ravel().tolist()}]}).encode(), 0
    stated = {
        "inputs": [{**tensor, "parameters": {"binary_data_size": ROW.nbytes}}],
        "parameters": {"binary_data_output": True},
    }
    head = json.dumps(stated).encode()
    return head + ROW.tobytes(), len(head)


def asked(server: Server, connections: int, binary: bool, seconds: float = SECONDS) -> tuple[Load, float]:
    """What the clients saw, and the server's CPU seconds meanwhile."""
    return asked_at(server.run.port, psutil.Process(server.process.pid), connections, binary=binary, seconds=seconds)


def asked_at(
    port: int, process: psutil.Process, connections: int, *, binary: bool = False, seconds: float = SECONDS
) -> tuple[Load, float]:
    content, header_length = body(binary)
    before = sum(process.cpu_times()[:2])
    command = [sys.executable, "-m", "tests.bench.http_load", str(port), "/v2/models/iris/infer"]
    out = subprocess.run(
        [*command, str(connections), str(seconds), str(header_length)], input=content, capture_output=True, check=True
    ).stdout
    return Load(**json.loads(out.splitlines()[-1])), sum(process.cpu_times()[:2]) - before


def floor(published: Published) -> float:
    """Inferences of a row a second, by the runtime with nothing around it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(published.folder / artifact.ONNX_FILE, options)
    names = [one.name for one in session.get_outputs()]
    count, began = 0, time.perf_counter()
    while time.perf_counter() < began + SECONDS:
        session.run(names, {"features": ROW})
        count += 1
    return count / (time.perf_counter() - began)


@pytest.mark.parametrize("size", HIDDEN)
def test_speed_by_connections(tmp_path: Path, size: str) -> None:
    published = artifacts.publish(tmp_path, hidden=HIDDEN[size])
    print(f"\n{size}: floor {floor(published):.0f}/s")
    for rows in (1, 64):
        server = processes.serve(published, tmp_path / f"server-{rows}", max_batch_rows=rows)
        try:
            server.wait_ready()
            for connections in CONNECTIONS:
                for binary in (True, False):
                    seen, cpu = asked(server, connections, binary)
                    form = "binary" if binary else "json"
                    print(
                        f"{size} batches of {rows:2} {form:6} {connections:2} connections: {seen.per_second:7.0f}/s"
                        f" p50 {seen.p50_ms:6.2f} ms p99 {seen.p99_ms:7.2f} ms cpu {cpu / seen.answers * 1e6:5.0f} µs"
                    )
                    assert seen.refused == 0
            rss = psutil.Process(server.process.pid).memory_info().rss / 1024**2
            print(f"{size} batches of {rows:2}: {rss:.0f} MiB; start {server.metrics()[TOTAL]:.2f} s")
        finally:
            server.kill()


TOTAL = 'modelwright_serving_load_seconds{model="iris",part="total",version="1.0.0"}'
