"""The keyed work queue: what is to be looked at again, and when.

After client-go's workqueue. A key is in it once, however often it is added; a key that is added during its pass gets
another one afterwards; no two workers are ever on one key. Retries are the queue's: a pass that raises comes back after
a back-off of its own key, and the others are not held up.

The promise: after `add(key, after=d)` at time t, a pass over the key begins later than t, and no later than t + d plus
the wait for a worker. A pass that begins fulfils all adds before it, delayed ones too: it sees the same world that they
would have seen and says itself when to look next.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from modelwright.kube import errors
from modelwright.kube.backoff import Backoff
from modelwright.kube.metrics import Metrics

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

# Does one pass over a key and returns the seconds until it wants the next one, or None for only when something happens.
Reconcile = Callable[[K], Awaitable[float | None]]


class WorkQueue(Generic[K]):
    """Keys, and `workers` that call `reconcile` with them. All methods belong to one event loop, whose time it uses.

    A pass that takes longer than `deadline` seconds is cancelled and counts as failed, so that a hung request cannot
    hold its key for ever.
    """

    def __init__(
        self,
        reconcile: Reconcile[K],
        *,
        name: str = "",
        workers: int = 8,
        backoff: Backoff = Backoff(first=0.25, most=300.0),  # noqa: B008 - frozen
        deadline: float | None = 600.0,
        metrics: Metrics | None = None,
    ) -> None:
        self._reconcile = reconcile
        self._name = name
        self._workers = workers
        self._backoff = backoff
        self._deadline = deadline
        self._metrics = metrics or Metrics()
        # In order of arrival. A key is in `_due` from its add until its pass begins, but in `_ready` only while it is
        # not in a pass.
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._due: dict[K, float] = {}
        self._busy: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._closed = False
        self._at_rest = asyncio.Event()

    def __len__(self) -> int:
        """Keys that wait for a worker now; delayed ones do not count."""
        return len(self._due)

    @property
    def idle(self) -> bool:
        """No key waits and none is in a pass; delayed ones may still come."""
        return not self._due and not self._busy

    def add(self, key: K, *, after: float = 0.0) -> None:
        """Asks for a pass over the key, after so many seconds. Of several delays the shortest counts."""
        if self._closed:
            return
        loop = asyncio.get_running_loop()
        if after <= 0.0:
            self._add_now(key, loop.time())
            return
        when = loop.time() + after
        pending = self._timers.get(key)
        if pending is None or when < pending.when():
            if pending is not None:
                pending.cancel()
            self._timers[key] = loop.call_at(when, self._ripen, key)

    def forget(self, key: K) -> None:
        """Drops what is known of the key's failures and its delayed adds: its object is gone. A pass that is due stays,
        to see just that."""
        self._failures.pop(key, None)
        self._drop_timer(key)

    async def run(self) -> None:
        """Works until it is cancelled; then no pass is begun, and those in hand are cancelled. See `stop`."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._work())

    async def stop(self, grace: float = 10.0) -> None:
        """Takes no more adds, begins no more passes, and gives those in hand `grace` seconds to end. `run` is then
        cancelled by whoever started it."""
        self._closed = True
        for key in list(self._timers):
            self._drop_timer(key)
        # What waits is not lost: the next leader lists everything.
        while not self._ready.empty():
            self._due.pop(self._ready.get_nowait(), None)
        self._metrics.queue_depth.labels(self._name).set(len(self._due))
        self._at_rest.clear()
        if self._busy:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._at_rest.wait(), grace)

    def _ripen(self, key: K) -> None:
        del self._timers[key]
        self._add_now(key, asyncio.get_running_loop().time())

    def _add_now(self, key: K, now: float) -> None:
        if key in self._due:
            return
        self._due[key] = now
        if key not in self._busy:
            self._ready.put_nowait(key)
        self._metrics.queue_depth.labels(self._name).set(len(self._due))

    def _drop_timer(self, key: K) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    async def _work(self) -> None:
        while True:
            key = await self._ready.get()
            now = asyncio.get_running_loop().time()
            self._metrics.queue_latency.labels(self._name).observe(now - self._due.pop(key))
            self._metrics.queue_depth.labels(self._name).set(len(self._due))
            self._drop_timer(key)
            self._busy.add(key)
            self._metrics.busy_workers.labels(self._name).set(len(self._busy))
            try:
                await self._pass(key)
            finally:
                self._busy.discard(key)
                self._metrics.busy_workers.labels(self._name).set(len(self._busy))
                if not self._busy:
                    self._at_rest.set()
                if key in self._due and not self._closed:
                    self._ready.put_nowait(key)

    async def _pass(self, key: K) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(self._deadline):
                next_look = await self._reconcile(key)
        except Exception as error:
            self._retry(key, error)
        else:
            self._failures.pop(key, None)
            self._metrics.reconciles.labels(self._name, "success").inc()
            if next_look is not None:
                # Never at once: a plan that always wants the next look now would leave no room for others.
                self.add(key, after=max(next_look, self._backoff.first))
        finally:
            self._metrics.reconcile_duration.labels(self._name).observe(clock() - began)

    def _retry(self, key: K, error: Exception) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay = self._backoff.delay(failures)
        if isinstance(error, errors.ApiError):
            # A conflict is the ordinary end of a pass over a view that was too old. None of these is ours to debug, so
            # that their traceback would only hide their message.
            conflict = isinstance(error, errors.Conflict | errors.AlreadyExists)
            self._metrics.reconciles.labels(self._name, "conflict" if conflict else "error").inc()
            log.log(
                logging.DEBUG if conflict else logging.WARNING,
                "%s %s: %s; again in %.1f s", self._name, key, error, delay,
            )  # fmt: skip
            delay = max(delay, error.retry_after or 0.0)
        else:
            self._metrics.reconciles.labels(self._name, "error").inc()
            log.error("%s %s: again in %.1f s", self._name, key, delay, exc_info=error)
        self._metrics.queue_retries.labels(self._name).inc()
        self.add(key, after=delay)
