"""784-2048-2048-10 at half width and in 8 bits against the dense float32: rows per second in ONNX Runtime, and through
our server with binary tensors, in blocks of calls that take turns.

    setsid --wait nice .venv-trainer/bin/python -m pytest tests/bench/test_compress_latency.py -q -s
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modelwright.derivation import DerivationSummary
from modelwright.serving import ServingRun
from modelwright_trainer.onnxgraph import Session

from tests.bench.compression import digits
from tests.server.processes import free_port
from tests.trainer.compression import World, published

BATCH, BLOCKS, CALLS = 32, 25, 20
SCHEMES = ("Int8Static", "Int8Dynamic")
HALF = {
    "prune": {
        "granularity": "Structured", "sparsity": 0.5, "method": "Gradient",
        "finetune": {"epochs": 3, "distillation": 0.5},
    }
}  # fmt: skip
SERVER = Path(__file__).parents[2] / ".venv" / "bin" / "python"
_ENTRY = "import sys; from modelwright_server.__main__ import main; sys.exit(main(['serve']))"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("wide")
    return published(folder, digits(), "mlp", hiddenSizes="2048,2048", epochs="4")


@pytest.fixture(scope="module")
def made(world: World) -> dict[str, DerivationSummary]:
    """By scheme the publication's summary, within the gate."""
    gates = [{"metric": "accuracy", "maxRegression": 0.01}]
    found = {}
    for scheme in SCHEMES:
        *_, last = world.all(
            HALF, {"quantize": {"scheme": scheme}}, variant=scheme.lower(), evaluation={"gates": gates}
        )
        assert last.outcome == "Succeeded", last.failure
        found[scheme] = last
    return found


def in_turns(calls: Mapping[str, Callable[[], Any]]) -> dict[str, np.ndarray]:
    """Seconds of each call, in blocks of one model after the other, over and over: as in a server, a model's weights
    are in the cache as far as they fit, and what else runs on the machine slows all of them."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(BLOCKS):
        for name, call in calls.items():
            call()
            for _ in range(CALLS):
                began = time.perf_counter()
                call()
                taken[name].append(time.perf_counter() - began)
    return {name: np.array(each) for name, each in taken.items()}


def told(where: str, taken: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Prints the table; how many times the rows per second of the dense one, by the median."""
    dense = taken["dense float32"]
    ratios = {}
    for name, each in taken.items():
        ratios[name] = float(np.median(dense) / np.median(each))
        quick = float(np.percentile(dense, 5) / np.percentile(each, 5))
        print(
            f"{where}: {name}: {BATCH / np.median(each):,.0f} rows/s, {1e3 * np.median(each):.3f} ms a batch of"
            f" {BATCH}: {ratios[name]:.1f}× (of the quickest twentieth {quick:.1f}×)",
            flush=True,
        )
    return ratios


def test_half_width_in_8_bits_is_ten_times_as_fast_in_the_runtime(
    world: World, made: dict[str, DerivationSummary], tmp_path: Path
) -> None:
    rows = digits().features[:BATCH]
    sessions = {"dense float32": Session(world.folder / "made")}
    for scheme, last in made.items():
        onnx = world.fetched(last, tmp_path / scheme).formats.onnx
        sessions[f"half width, {scheme}"] = Session(tmp_path / scheme, onnx)
        print(f"{scheme}: {'; '.join(last.notes)}", flush=True)
    ratios = told("ONNX Runtime, 1 thread", in_turns({
        name: (lambda one=one: one.run(rows, only=["logits"])) for name, one in sessions.items()
    }))  # fmt: skip
    assert max(ratios.values()) >= 10


def test_half_width_in_8_bits_is_four_times_as_fast_through_the_server(
    world: World, made: dict[str, DerivationSummary], tmp_path: Path
) -> None:
    served = {"dense float32": (world.parent.uri, world.parent.digest, None)}
    for scheme, last in made.items():
        assert last.artifact is not None
        served[f"half width, {scheme}"] = (last.artifact.uri, last.artifact.digest, scheme.lower())
    rows = digits().features[:BATCH]
    head = json.dumps(
        {
            "inputs": [{"name": "features", "shape": list(rows.shape), "datatype": "FP32",
                        "parameters": {"binary_data_size": rows.nbytes}}],
            "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
        }
    ).encode()  # fmt: skip
    headers = {"Inference-Header-Content-Length": str(len(head))}
    processes, calls = [], {}
    try:
        for number, (name, (uri, digest, variant)) in enumerate(served.items()):
            run = ServingRun.model_validate(
                {
                    "namespace": "team-a", "service": "digits", "revision": "r1", "model": "digits",
                    "version": "1.0.0", "variant": variant, "manifest_uri": uri, "digest": digest,
                    "store": world.access, "port": free_port(), "grpc_port": free_port(), "admin_port": free_port(),
                    "threads": 1, "warmup_requests": 5,
                }
            )  # fmt: skip
            scratch = tmp_path / f"server-{number}"
            scratch.mkdir()
            environment = {**os.environ, "MODELWRIGHT_SERVING": run.to_json(), "TMPDIR": str(scratch)}
            with (scratch / "log").open("wb") as log:
                processes.append(
                    subprocess.Popen(["setpriv", "--pdeathsig", "KILL", SERVER, "-c", _ENTRY], env=environment,
                                     stdout=log, stderr=log)
                )  # fmt: skip
            calls[name] = _call(run.port, head + rows.tobytes(), headers, scratch / "log")
        ratios = told("our server, binary tensors, 1 thread", in_turns(calls))
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert max(ratios.values()) >= 4


def _call(port: int, body: bytes, headers: dict[str, str], log: Path) -> Callable[[], bytes]:
    """One request on a connection that is kept, once the server is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    deadline = time.monotonic() + 60
    while True:
        try:
            connection.request("GET", "/v2/health/ready")
            if connection.getresponse().read() and time.monotonic() < deadline:
                connection.request("GET", "/v2/health/ready")
                answer = connection.getresponse()
                answer.read()
                if answer.status == 200:
                    break
        except OSError:
            connection.close()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)

    def call() -> bytes:
        connection.request("POST", "/v2/models/digits/infer", body, headers)
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content[:300]
        return content

    return call
