"""Leader election on a Lease, as client-go does it: one replica works, the others wait.

The holder renews in a task of its own. It counts itself as the holder for `renew_deadline` seconds from the moment it
*sent* the last renewal that succeeded; the others wait for the longer `duration` from the moment they *saw* it, by
their own clocks, so that clocks need not agree. In between nobody holds it.

**A Lease does not fence.** A process that is stopped after `check` and before its request leaves writes late when it
goes on, whatever it checked. `check` before each write makes that window small; that a late write does no harm is up to
the write, which carries the object's uid and resourceVersion, or creates under a name that any leader would choose.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import logging
import random
import socket
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from modelwright.kube import errors
from modelwright.kube.client import Client
from modelwright.kube.metrics import Metrics
from modelwright.kube.resources import LEASES, Object

log = logging.getLogger(__name__)

R = TypeVar("R")


class LeaseLost(Exception):  # noqa: N818 - it is an event of the protocol; `LostLeaseError` is nobody's word
    """This replica does not, or no longer, hold the Lease. The process has nothing left to do and should end."""


class Clock(Protocol):
    """Two clocks in seconds, either of which can be the one that tells that time has passed."""

    def elapsed(self) -> float: ...

    def wall(self) -> float: ...


class SystemClock:
    """CLOCK_BOOTTIME goes on while the machine sleeps, where CLOCK_MONOTONIC stands still. A virtual machine that was
    paused sees neither move, but its wall clock is set right when it wakes: hence both."""

    def elapsed(self) -> float:
        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

    def wall(self) -> float:
        return time.time()


def identity() -> str:
    """This process as a holder: the pod's name, for people, and what makes it this very start of it."""
    return f"{socket.gethostname()}_{uuid.uuid4()}"


@dataclasses.dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. The defaults are client-go's. Raises ValueError where a holder could believe in a Lease that others may
    already take."""

    duration: float = 15.0
    renew_deadline: float = 10.0
    retry_period: float = 2.0

    def __post_init__(self) -> None:
        if not self.duration > self.renew_deadline > self.retry_period > 0:
            raise ValueError(f"a Lease needs duration > renew_deadline > retry_period > 0, not {self}")

    @classmethod
    def of(cls, duration: float) -> Timing:
        """The defaults' proportions, for another duration."""
        usual = cls()
        times = duration / usual.duration
        return cls(duration, usual.renew_deadline * times, usual.retry_period * times)


@dataclasses.dataclass(frozen=True, slots=True)
class _Seen:
    """A holder's record as this replica first saw it, at that time by its own clock."""

    resource_version: str
    at: float


class Lease:
    """One replica's part in the election. `lead` is the whole of it; the rest is for guards and tests."""

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        holder: str,
        *,
        timing: Timing = Timing(),
        clock: Clock | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.holder = holder
        self._client = client
        self._namespace = namespace
        self._name = name
        self._timing = timing
        self._clock = clock or SystemClock()
        self._metrics = metrics or Metrics()
        self._seen: _Seen | None = None
        # The Lease as we wrote it last, and until when that lasts by either clock.
        self._held: Object | None = None
        self._until_elapsed = self._until_wall = float("-inf")

    def holds(self) -> bool:
        """Whether this replica may write now."""
        return (
            self._held is not None
            and self._clock.elapsed() < self._until_elapsed
            and self._clock.wall() < self._until_wall
        )

    def check(self) -> None:
        """The client's guard. Raises LeaseLost where `holds` is false."""
        if not self.holds():
            raise LeaseLost(f"{self.holder} does not hold the Lease {self._namespace}/{self._name}")

    async def lead(self, work: Callable[[], Awaitable[R]]) -> R:
        """Waits for the Lease, then does the work while renewing it, and gives it up when the work ends in any way.

        Raises LeaseLost, after cancelling the work, where it cannot be renewed in time.
        """
        await self.acquire()
        working = asyncio.ensure_future(work())
        renewing = asyncio.create_task(self.keep())
        try:
            await asyncio.wait({working, renewing}, return_when=asyncio.FIRST_COMPLETED)
            if renewing.done():
                renewing.result()
            return await working
        finally:
            # The work ends before the Lease is given up; of work that hangs, the Lease is left to expire.
            for task in (working, renewing):
                task.cancel()
            await asyncio.wait({working, renewing}, timeout=self._timing.renew_deadline)
            if working.done():
                await self.release()
            self._drop()

    async def acquire(self) -> None:
        """Returns as soon as this replica holds the Lease. Errors of the server are waited out."""
        while True:
            try:
                if await self._try_acquire():
                    log.info("%s leads", self.holder)
                    self._metrics.leader.set(1)
                    return
            except errors.ApiError as error:
                log.warning("the Lease %s/%s: %s", self._namespace, self._name, error)
            await asyncio.sleep(self._timing.retry_period * random.uniform(1.0, 1.2))  # noqa: S311

    async def keep(self) -> None:
        """Renews until the Lease is lost, and then raises LeaseLost."""
        while True:
            await asyncio.sleep(self._timing.retry_period)
            if self.holds():
                try:
                    # A renewal that is under way when the deadline comes is too late.
                    async with asyncio.timeout(self._until_elapsed - self._clock.elapsed()):
                        await self._renew()
                except (errors.ApiError, TimeoutError) as error:
                    log.warning(
                        "the Lease %s/%s was not renewed: %s", self._namespace, self._name, error or "timed out"
                    )
            if not self.holds():
                self._drop()
                raise LeaseLost(f"{self.holder} lost the Lease {self._namespace}/{self._name}: another took it, or it "
                                f"was not renewed within {self._timing.renew_deadline:g} s")  # fmt: skip

    async def release(self) -> None:
        """Gives the Lease up at once, so that the next leader need not wait. Does nothing where it is not held."""
        held, holds = self._held, self.holds()
        self._drop()
        if held is not None and holds:
            spec = {**held["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
            with contextlib.suppress(errors.ApiError):
                await self._client.replace(LEASES, {**held, "spec": spec})

    async def _try_acquire(self) -> bool:
        now = self._clock.elapsed()
        try:
            found = await self._client.get(LEASES, self._name, self._namespace)
        except errors.NotFound:
            made = {"metadata": {"namespace": self._namespace, "name": self._name}, "spec": self._spec(transitions=0)}
            with contextlib.suppress(errors.AlreadyExists):
                await self._hold(self._client.create(LEASES, made))
                return True
            return False
        spec = found.get("spec") or {}
        version = found["metadata"]["resourceVersion"]
        if self._seen is None or self._seen.resource_version != version:
            self._seen = _Seen(version, now)
        other = spec.get("holderIdentity")
        if other and other != self.holder and now < self._seen.at + float(spec.get("leaseDurationSeconds") or 0):
            return False
        transitions = int(spec.get("leaseTransitions") or 0) + (other != self.holder)
        with contextlib.suppress(errors.Conflict):
            await self._hold(self._client.replace(LEASES, {**found, "spec": self._spec(transitions)}))
            return True
        return False

    async def _renew(self) -> None:
        assert self._held is not None  # noqa: S101 - told to mypy
        spec = {**self._held["spec"], "renewTime": self._now()}
        try:
            await self._hold(self._client.replace(LEASES, {**self._held, "spec": spec}))
        except (errors.Conflict, errors.NotFound):
            # Either another took it, or the answer to an earlier renewal of ours was lost and only the version is
            # another. Then the next renewal starts from what is there.
            found = await self._client.get(LEASES, self._name, self._namespace)
            self._held = found if found["spec"].get("holderIdentity") == self.holder else None

    async def _hold(self, write: Awaitable[Object]) -> None:
        # Before the request, not after its answer: the others may see the renewal at once, and count from there.
        elapsed, wall = self._clock.elapsed(), self._clock.wall()
        self._held = await write
        self._until_elapsed = elapsed + self._timing.renew_deadline
        self._until_wall = wall + self._timing.renew_deadline

    def _drop(self) -> None:
        self._held = None
        self._metrics.leader.set(0)

    def _spec(self, transitions: int) -> dict[str, Any]:
        now = self._now()
        return {
            "holderIdentity": self.holder,
            # A whole number by the API's schema; rounded up, so that nobody takes it earlier than we believe.
            "leaseDurationSeconds": max(1, -int(-self._timing.duration // 1)),
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": transitions,
        }

    def _now(self) -> str:
        now = datetime.datetime.fromtimestamp(self._clock.wall(), datetime.UTC)
        return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
