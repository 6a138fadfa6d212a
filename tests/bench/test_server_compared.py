"""Ours, MLServer and the server of kserve's SDK: the same graph, one process each, JSON requests of a row, each server
by itself on the same machine.

    uv venv a && uv pip install --python a mlserver onnxruntime
    uv venv b && uv pip install --python b kserve onnxruntime
    MLSERVER=a/bin/python KSERVE=b/bin/python .venv/bin/python -m pytest tests/bench/test_server_compared.py -s

MLServer without its worker processes, else all with their own defaults.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import psutil
import pytest
from modelwright import artifact

from tests.bench import test_server_speed as speed
from tests.bench.http_load import Load
from tests.server import artifacts, processes
from tests.server.processes import free_port

_HERE = Path(__file__).parent / "compared"


@contextlib.contextmanager
def process(command: list[str], folder: Path, log: Path, **more: str) -> Iterator[psutil.Process]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | more
    with log.open("wb") as out:
        started = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out)
    try:
        yield psutil.Process(started.pid)
    finally:
        started.kill()
        started.wait()


def until_ready(port: int, log: Path) -> None:
    deadline = time.monotonic() + 90
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"http://127.0.0.1:{port}/v2/models/iris/ready").status_code == 200:
                return
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)


def measured(name: str, port: int, running: psutil.Process, began: float, log: Path) -> dict[int, Load]:
    until_ready(port, log)
    ready = time.monotonic() - began
    loads = {connections: speed.asked_at(port, running, connections) for connections in speed.CONNECTIONS}
    rss = running.memory_info().rss / 1024**2
    print(f"\n{name}: ready after {ready:.2f} s, {rss:.0f} MiB")
    for connections, (load, cpu) in loads.items():
        print(
            f"{name:9}{connections:3} connections: {load.per_second:7.0f}/s p50 {load.p50_ms:6.2f} ms"
            f" p99 {load.p99_ms:7.2f} ms cpu {cpu / load.answers * 1e6:4.0f} µs"
        )
    return {connections: load for connections, (load, _) in loads.items()}


def test_ours_is_faster_than_both(tmp_path: Path) -> None:
    pythons: Mapping[str, str | None] = {name: os.environ.get(name) for name in ("MLSERVER", "KSERVE")}
    if not all(pythons.values()):
        pytest.skip("MLSERVER and KSERVE name Pythons that have them: see above")
    mlserver, kserve = (str(Path(str(path)).absolute()) for path in pythons.values())
    published = artifacts.publish(tmp_path)
    model = str(published.folder / artifact.ONNX_FILE)
    found = {}
    began = time.monotonic()
    ours = processes.serve(published, tmp_path / "ours")
    try:
        found["ours"] = measured("ours", ours.run.port, psutil.Process(ours.process.pid), began, ours.folder / "log")
    finally:
        ours.kill()
    port, folder, log = free_port(), tmp_path / "mlserver", tmp_path / "log"
    folder.mkdir()
    ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    (folder / "settings.json").write_text(json.dumps({"parallel_workers": 0, "debug": False, **ports}))
    (folder / "model-settings.json").write_text('{"name": "iris", "implementation": "mlserver_model.Onnx"}')
    (folder / "mlserver_model.py").write_text((_HERE / "mlserver_model.py").read_text())
    began = time.monotonic()
    with process([str(Path(mlserver).parent / "mlserver"), "start", "."], folder, log, MODEL=model) as running:
        found["mlserver"] = measured("mlserver", port, running, began, log)
    port, began = free_port(), time.monotonic()
    script = str(_HERE / "kserve_model.py")
    with process([kserve, script], tmp_path, log, MODEL=model, PORT=str(port)) as running:
        found["kserve"] = measured("kserve", port, running, began, log)
    better = max(found["mlserver"][16].per_second, found["kserve"][16].per_second)
    assert found["ours"][16].per_second >= 2 * better
    assert found["ours"][16].p99_ms <= min(found["mlserver"][16].p99_ms, found["kserve"][16].p99_ms) / 2
