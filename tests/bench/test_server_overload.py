"""The model server with five times the clients that it lets wait, who ask again at once when they are refused.

    OVERLOAD_SECONDS=60 .venv/bin/python -m pytest tests/bench/test_server_overload.py -s

Told: how long the accepted took, against the same server with as many clients as it lets wait; memory; and whether the
server answers as before when it is over. Clients and server share the machine, so that each refusal takes of the CPU
that the accepted need, twice.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil

from tests.bench import test_server_speed as speed
from tests.bench.http_load import Load
from tests.server import artifacts, processes
from tests.server.processes import Server

SECONDS = float(os.environ.get("OVERLOAD_SECONDS", "60"))
USUAL, TIMES = 64, 5


def rss_mib(server: Server) -> float:
    return float(psutil.Process(server.process.pid).memory_info().rss / 1024**2)


def told(what: str, load: Load, server: Server) -> None:
    print(
        f"{what}: {load.per_second:.0f} answers/s, {load.refused / load.seconds:.0f} refused/s,"
        f" p50 {load.p50_ms:.2f} ms, p99 {load.p99_ms:.2f} ms, {rss_mib(server):.0f} MiB"
    )


def test_five_times_too_much(tmp_path: Path) -> None:
    published = artifacts.publish(tmp_path, hidden=speed.HIDDEN["large"])
    server = processes.serve(published, tmp_path / "server", max_waiting=USUAL)
    try:
        server.wait_ready()
        usual, _ = speed.asked(server, USUAL, binary=True)
        told("\nusual", usual, server)
        before = rss_mib(server)
        over, _ = speed.asked(server, USUAL * TIMES, binary=True, seconds=SECONDS)
        told(f"{TIMES} times as many, {SECONDS:.0f} s", over, server)
        ended = time.monotonic()
        after, _ = speed.asked(server, USUAL, binary=True)
        told(f"after it, measured within {time.monotonic() - ended:.1f} s", after, server)
        assert over.refused > 0
        assert rss_mib(server) - before < 100
        print(f"p99 of the accepted: {over.p99_ms / usual.p99_ms:.1f} times the usual")
        assert after.refused == 0
    finally:
        server.kill()
