"""When a replica may believe that it leads, by clocks that the test holds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from modelwright.kube.errors import Conflict, NotFound, Unreachable
from modelwright.kube.lease import Lease, LeaseLost, Timing

from tests import clock


class Clocks:
    """`elapsed` follows the loop; the wall can be put forward, as after a machine's sleep."""

    def __init__(self) -> None:
        self.jump = 0.0

    def elapsed(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        return 1_000_000.0 + self.elapsed() + self.jump


class Server:
    """One Lease, with versions. `takes` are the seconds to its answer, `down` whether there is one."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.takes = 0.0
        self.down = False

    async def _answer(self) -> None:
        await asyncio.sleep(self.takes)
        if self.down:
            raise Unreachable("down")

    def _store(self, obj: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.lease = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version)}}
        return self.lease

    async def get(self, *_: object) -> dict[str, Any]:
        await self._answer()
        if self.lease is None:
            raise NotFound("none")
        return self.lease

    async def create(self, _: object, obj: dict[str, Any]) -> dict[str, Any]:
        await self._answer()
        return self._store(obj)

    async def replace(self, _: object, obj: dict[str, Any]) -> dict[str, Any]:
        # The server does it, and then perhaps the answer is lost.
        assert self.lease is not None
        if obj["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise Conflict("changed")
        stored = self._store(obj)
        await self._answer()
        return stored


def _lease(server: Server, holder: str = "a", clocks: Clocks | None = None) -> Lease:
    return Lease(server, "ns", "leader", holder, timing=Timing(15, 10, 2), clock=clocks or Clocks())  # type: ignore[arg-type]


def test_it_holds_from_the_sending_of_the_request_and_not_from_its_answer() -> None:
    async def story() -> None:
        server = Server()
        lease = _lease(server)
        server.takes = 3.0
        await lease.acquire()  # a get of 3 s, and a create from 3 to 6
        assert lease.holds()
        await asyncio.sleep(6.9)
        assert lease.holds()
        await asyncio.sleep(0.2)
        assert not lease.holds()
        with pytest.raises(LeaseLost):
            lease.check()

    clock.run(story())


def test_a_wall_clock_that_jumped_ends_it() -> None:
    async def story() -> None:
        clocks = Clocks()
        lease = _lease(Server(), clocks=clocks)
        await lease.acquire()
        clocks.jump = 60.0
        assert not lease.holds()

    clock.run(story())


def test_another_waits_for_the_whole_duration_since_it_saw_the_last_renewal() -> None:
    async def story() -> None:
        server = Server()
        await _lease(server).acquire()
        await asyncio.sleep(5)
        began = asyncio.get_running_loop().time()
        await _lease(server, "b").acquire()
        assert 15.0 <= asyncio.get_running_loop().time() - began <= 15.0 + 2 * 1.2
        assert server.lease is not None
        assert server.lease["spec"]["holderIdentity"] == "b"
        assert server.lease["spec"]["leaseTransitions"] == 1

    clock.run(story())


def test_work_is_ended_when_the_lease_cannot_be_renewed() -> None:
    async def story() -> None:
        server = Server()
        ended: list[float] = []

        async def work() -> None:
            try:
                await asyncio.sleep(21)
                server.down = True
                await asyncio.sleep(1000)
            finally:
                ended.append(asyncio.get_running_loop().time())

        with pytest.raises(LeaseLost):
            await _lease(server).lead(work)
        # Renewed last at 20 s.
        assert 30.0 <= ended[0] <= 32.0

    clock.run(story())


def test_a_renewal_whose_answer_was_lost_does_not_cost_the_lease() -> None:
    async def story() -> None:
        server = Server()

        async def work() -> str:
            await asyncio.sleep(5)
            server.down = True
            await asyncio.sleep(2)
            server.down = False
            await asyncio.sleep(100)
            return "done"

        assert await _lease(server).lead(work) == "done"
        assert server.lease is not None
        assert server.lease["spec"]["holderIdentity"] == ""

    clock.run(story())


def test_timing_in_which_two_could_lead_is_refused() -> None:
    with pytest.raises(ValueError, match="duration > renew_deadline"):
        Timing(duration=10, renew_deadline=10, retry_period=2)


def test_timing_of_another_duration_keeps_the_proportions() -> None:
    assert Timing.of(15.0) == Timing()
    assert Timing.of(3.0) == Timing(duration=3.0, renew_deadline=2.0, retry_period=0.4)
