"""Kubernetes Events (events.k8s.io/v1) in the user's words.

`record` only notes down; a task of its own writes, at a bounded rate, so that no pass waits for an Event or fails with
it. The same words about the same object are one Event with a count: within this process by memory, and across restarts
by its name, which is a hash of them.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import datetime
import hashlib
import logging
from typing import Literal

from modelwright.kube import errors
from modelwright.kube.client import Client
from modelwright.kube.metrics import Metrics
from modelwright.kube.resources import EVENTS, Object, Resource

log = logging.getLogger(__name__)

EventType = Literal["Normal", "Warning"]
# The API's bounds.
_LONGEST_NOTE = 1024
_LONGEST_NAME = 253
_MOST_WAITING = 1000
_MOST_REMEMBERED = 5000


@dataclasses.dataclass(frozen=True, slots=True)
class Regarding:
    """The object that an Event is about."""

    resource: Resource
    namespace: str
    name: str
    uid: str

    def to_dict(self) -> Object:
        return {
            "apiVersion": self.resource.api_version,
            "kind": self.resource.kind,
            "namespace": self.namespace,
            "name": self.name,
            "uid": self.uid,
        }


@dataclasses.dataclass(frozen=True, slots=True)
class _Words:
    """What makes two Events the same one."""

    regarding: Regarding
    type: EventType
    reason: str
    action: str
    note: str

    @property
    def name(self) -> str:
        said = "\0".join((self.regarding.uid, self.type, self.reason, self.action, self.note))
        digest = hashlib.sha256(said.encode()).hexdigest()[:16]
        return f"{self.regarding.name[: _LONGEST_NAME - 17]}.{digest}"


@dataclasses.dataclass(slots=True)
class _Told:
    """What the server has of an Event: how often it knows of it, and when it was told."""

    count: int
    unsaid: int
    last: datetime.datetime
    written_at: float


class EventRecorder:
    """Records Events as `controller`, of the replica `instance`.

    At most `rate` writes per second after a burst of `burst`. Repetitions within `window` seconds are counted, and the
    count is written once at the window's end.
    """

    def __init__(
        self,
        client: Client,
        *,
        controller: str = "modelwright.dev/operator",
        instance: str = "modelwright",
        window: float = 60.0,
        rate: float = 10.0,
        burst: int = 50,
        metrics: Metrics | None = None,
    ) -> None:
        self._client = client
        self._controller = controller
        self._instance = instance[:128]
        self._window = window
        self._rate = rate
        self._burst = float(burst)
        self._metrics = metrics or Metrics()
        # In the order of their first word, with how often they were said since, and when last.
        self._waiting: dict[_Words, tuple[int, datetime.datetime]] = {}
        self._told: collections.OrderedDict[_Words, _Told] = collections.OrderedDict()
        # Those of them that have something unsaid: few, where all that was told are thousands.
        self._repeated: dict[_Words, _Told] = {}
        self._something = asyncio.Event()

    def record(
        self,
        regarding: Regarding,
        reason: str,
        note: str,
        *,
        type: EventType = "Normal",
        action: str = "Reconcile",
    ) -> None:
        """Notes an Event down. Never raises and never waits; what is too much is dropped, and counted as such."""
        note = note if len(note) <= _LONGEST_NOTE else note[: _LONGEST_NOTE - 1] + "…"
        words = _Words(regarding, type, reason[:128], action[:128], note)
        now = datetime.datetime.now(datetime.UTC)
        told = self._told.get(words)
        if told is not None:
            told.unsaid += 1
            told.last = now
            self._repeated[words] = told
            self._metrics.events.labels("counted").inc()
            self._something.set()
        elif words in self._waiting or len(self._waiting) < _MOST_WAITING:
            self._waiting[words] = (self._waiting.get(words, (0, now))[0] + 1, now)
            self._something.set()
        else:
            self._metrics.events.labels("dropped").inc()

    async def run(self) -> None:
        """Writes what was recorded, until it is cancelled. See `drain`."""
        loop = asyncio.get_running_loop()
        tokens, at = self._burst, loop.time()
        while True:
            self._something.clear()
            self._take_ripe(loop.time())
            if not self._waiting:
                await self._rest(loop.time())
                continue
            tokens, at = min(self._burst, tokens + (loop.time() - at) * self._rate), loop.time()
            if tokens < 1.0:
                await asyncio.sleep((1.0 - tokens) / self._rate)
                continue
            tokens -= 1.0
            await self._write_first()

    async def drain(self, seconds: float = 2.0) -> None:
        """Writes what waits, for at most so long: the last words of a process that ends."""
        try:
            async with asyncio.timeout(seconds):
                self._take_ripe(float("inf"))
                while self._waiting:
                    await self._write_first()
        except TimeoutError:
            self._metrics.events.labels("dropped").inc(len(self._waiting))

    async def _rest(self, now: float) -> None:
        ends = [told.written_at + self._window for told in self._repeated.values()]
        try:
            async with asyncio.timeout(max(0.01, min(ends) - now) if ends else None):
                await self._something.wait()
        except TimeoutError:
            pass

    def _take_ripe(self, now: float) -> None:
        """Repetitions whose window has ended become something to write."""
        for words, told in list(self._repeated.items()):
            if now >= told.written_at + self._window and words not in self._waiting:
                self._waiting[words] = (told.unsaid, told.last)
                told.unsaid = 0
                del self._repeated[words]

    async def _write_first(self) -> None:
        words = next(iter(self._waiting))
        times, last = self._waiting.pop(words)
        try:
            count = await self._write(words, times, last)
        except Exception as error:
            # Also where it is no ApiError: the words of one Event are not worth the operator.
            self._metrics.events.labels("failed").inc()
            log.debug("event %s of %s: %s", words.reason, words.regarding.name, error)
            return
        self._metrics.events.labels("written").inc()
        # Some may have been said while this was on its way.
        known = self._told.get(words)
        unsaid = 0 if known is None else known.unsaid
        told = self._told[words] = _Told(count, unsaid, last, asyncio.get_running_loop().time())
        self._told.move_to_end(words)
        if unsaid:
            self._repeated[words] = told
        if len(self._told) > _MOST_REMEMBERED:
            oldest, _ = self._told.popitem(last=False)
            self._repeated.pop(oldest, None)

    async def _write(self, words: _Words, times: int, last: datetime.datetime) -> int:
        """Returns how often the server now knows it to have been said."""
        told = self._told.get(words)
        if told is None:
            try:
                await self._client.create(EVENTS, self._event(words, times, last))
            except errors.AlreadyExists:
                # Said before this process was born.
                found = await self._client.get(EVENTS, words.name, words.regarding.namespace)
                told = _Told(int((found.get("series") or {}).get("count", 1)), 0, last, 0.0)
            else:
                return times
        count = told.count + times
        series = {"series": {"count": max(2, count), "lastObservedTime": _micro_time(last)}}
        try:
            await self._client.patch(EVENTS, words.name, series, words.regarding.namespace)
        except errors.NotFound:
            # The server keeps Events for an hour.
            await self._client.create(EVENTS, self._event(words, times, last))
            return times
        return count

    def _event(self, words: _Words, times: int, last: datetime.datetime) -> Object:
        event: Object = {
            "metadata": {"namespace": words.regarding.namespace, "name": words.name},
            "eventTime": _micro_time(last),
            "reportingController": self._controller,
            "reportingInstance": self._instance,
            "regarding": words.regarding.to_dict(),
            "type": words.type,
            "reason": words.reason,
            "action": words.action,
            "note": words.note,
        }
        if times > 1:
            event["series"] = {"count": times, "lastObservedTime": _micro_time(last)}
        return event


def _micro_time(at: datetime.datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
