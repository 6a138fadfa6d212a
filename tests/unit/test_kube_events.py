"""The recorder's rate and its counts, in jumping time."""

from __future__ import annotations

import asyncio
from typing import Any

from modelwright.kube.events import EventRecorder, Regarding
from modelwright.kube.resources import CONFIGMAPS

from tests import clock

A = Regarding(CONFIGMAPS, "ns", "a", "u")


class Server:
    """Notes when what was written."""

    def __init__(self) -> None:
        self.created: list[tuple[float, str]] = []
        self.counts: list[tuple[float, int]] = []

    async def create(self, _: object, event: dict[str, Any]) -> None:
        self.created.append((asyncio.get_running_loop().time(), event["reason"]))

    async def patch(self, _: object, __: str, patch: dict[str, Any], ___: str) -> None:
        self.counts.append((asyncio.get_running_loop().time(), patch["series"]["count"]))


def _recorder(server: Server, **settings: float) -> EventRecorder:
    return EventRecorder(server, **settings)  # type: ignore[arg-type]


def test_repetitions_are_written_once_at_the_end_of_their_window() -> None:
    async def story() -> Server:
        server = Server()
        recorder = _recorder(server, window=60.0)
        writing = asyncio.create_task(recorder.run())
        for _ in range(30):
            recorder.record(A, "Restarted", "worker 1 exited with 137")
            await asyncio.sleep(5)
        await asyncio.sleep(300)
        writing.cancel()
        return server

    server = clock.run(story())
    assert server.created == [(0.0, "Restarted")]
    # Said at 0, 5, …, 145 s.
    assert [count for _, count in server.counts] == [13, 25, 30]
    assert [round(at) for at, _ in server.counts] == [60, 120, 180]


def test_after_a_burst_they_are_written_at_the_rate() -> None:
    async def story() -> Server:
        server = Server()
        recorder = _recorder(server, rate=2.0, burst=5)
        writing = asyncio.create_task(recorder.run())
        for number in range(25):
            recorder.record(A, f"Reason{number}", "")
        await asyncio.sleep(100)
        writing.cancel()
        return server

    times = [at for at, _ in clock.run(story()).created]
    assert times[:5] == [0.0] * 5
    assert 9.5 <= times[-1] <= 10.5
    assert len(times) == 25
