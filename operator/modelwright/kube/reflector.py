"""Keeps a cache of one resource up to date: LIST, then WATCH from there, for ever.

After client-go's reflector, with what matters to us made explicit: deletions that took place while nobody watched are
told when the next list replaces the cache; a raw object is projected to a small record and dropped; the answers to our
own writes are folded in, so that a pass never plans on what it has just changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar

from modelwright.kube import errors
from modelwright.kube.backoff import Backoff
from modelwright.kube.cache import Cache, Entry, Index, OnChange
from modelwright.kube.client import Client
from modelwright.kube.metrics import Metrics
from modelwright.kube.resources import (
    Key,
    Object,
    Resource,
    Selector,
    controller_uid_of,
    key_of,
    resource_version_of,
    selects,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

_BACKOFF = Backoff(first=0.5, most=30.0)
# A watch that lasted as long shows that the server is well; one that ends sooner, again and again, must not spin.
_HEALTHY_SECONDS = 5.0


def _ignore(key: Key, old: object, new: object) -> None:
    del key, old, new


class Reflector(Generic[T]):
    """A cache of the resource's objects, in one namespace or in all, of those that `selector` selects.

    `project` turns a raw object into a record (frozen, comparable), and must not keep parts of it alive needlessly.
    `on_change(key, old, new)` is called at once, in the event loop: it wakes queue keys and does no more. `fold` is
    registered with the client. Reads (`get`, `owned_by`, `by_index`) mean something after `await synced()`.
    """

    def __init__(
        self,
        client: Client,
        resource: Resource,
        project: Callable[[Object], T],
        on_change: OnChange[T] | None = None,
        *,
        namespace: str | None = None,
        selector: Selector | None = None,
        indexes: Mapping[str, Index[T]] | None = None,
        watch_timeout: float = 240.0,
        metrics: Metrics | None = None,
    ) -> None:
        self.resource = resource
        self._client = client
        self._project = project
        self._namespace = namespace
        self._selector = dict(selector or {})
        self._watch_timeout = watch_timeout
        self._metrics = metrics or Metrics()
        self._cache: Cache[T] = Cache(on_change or _ignore, indexes)
        # The version to watch from; none before the first list, and after a 410.
        self._resource_version: str | None = None
        self._synced = asyncio.Event()
        self._ended: BaseException | None = None
        client.on_written(resource, self.fold, self._fold_end)

    def __len__(self) -> int:
        return len(self._cache)

    def get(self, key: Key) -> T | None:
        return self._cache.get(key)

    def all(self) -> list[T]:
        return list(self._cache)

    def owned_by(self, uid: str) -> list[T]:
        """Of the objects that the owner of this uid controls, in the order of their keys."""
        return self._cache.owned_by(uid)

    def by_index(self, name: str, value: Hashable) -> list[T]:
        return self._cache.by_index(name, value)

    async def synced(self) -> None:
        """Returns once all objects that there were at some moment after the start are in the cache, and told.

        Raises RuntimeError where `run` has ended before.
        """
        await self._synced.wait()
        if self._ended is not None:
            raise RuntimeError(f"the reflector of {self.resource.plural} ended before it was synced") from self._ended

    def fold(self, obj: Object) -> None:
        """Takes in the object that the server returned for a write. The newer version wins; a late one is dropped."""
        in_scope = self._namespace is None or obj["metadata"].get("namespace", "") == self._namespace
        if in_scope and selects(self._selector, obj):
            entry = self._entry(obj)
            if entry is not None:
                self._cache.fold(entry)
                self._count()

    def _fold_end(self, uid: str) -> None:
        self._cache.fold_end(uid)
        self._count()

    async def run(self) -> None:
        """Lists and watches until it is cancelled. Errors of the server are waited out."""
        failures = 0
        clock = asyncio.get_running_loop().time
        try:
            while True:
                began = clock()
                try:
                    if self._resource_version is None:
                        await self._list()
                        began = clock()
                    await self._watch(self._resource_version)
                    reason = "ended"
                except errors.Gone:
                    self._resource_version, reason = None, "gone"
                except errors.ApiError as error:
                    reason = "unreachable" if isinstance(error, errors.Unreachable) else "error"
                    log.warning("watch of %s: %s", self.resource.plural, error)
                self._metrics.watch_restarts.labels(self.resource.plural, reason).inc()
                if clock() - began >= _HEALTHY_SECONDS:
                    failures = 0
                    continue
                # The first 410 is an answer, not a failure: list at once.
                if reason != "gone" or failures:
                    await asyncio.sleep(_BACKOFF.delay(max(failures, 1)))
                failures += 1
        except BaseException as error:
            if not self._synced.is_set():
                self._ended = error
                self._synced.set()
            raise

    async def _list(self) -> None:
        entries: list[Entry[T]] = []
        version = ""
        async for page in self._client.pages(self.resource, self._namespace, selector=self._selector):
            # Page by page, so that at most one page of raw objects is alive.
            entries.extend(entry for obj in page.items if (entry := self._entry(obj)) is not None)
            version = page.resource_version
        self._cache.replace(entries, int(version))
        self._count()
        self._metrics.lists.labels(self.resource.plural).inc()
        self._resource_version = version
        self._synced.set()

    async def _watch(self, resource_version: str | None) -> None:
        assert resource_version is not None  # noqa: S101 - told to mypy; `run` has listed
        # With jitter, so that watches begun together do not all end together.
        timeout = self._watch_timeout * random.uniform(0.75, 1.25)  # noqa: S311
        events = self._client.watch(
            self.resource,
            self._namespace,
            resource_version=resource_version,
            selector=self._selector,
            timeout=timeout,
        )
        async with contextlib.aclosing(events):
            async for event in events:
                obj = event.object
                if event.type == "BOOKMARK":
                    self._cache.reach(resource_version_of(obj))
                elif event.type == "DELETED":
                    self._cache.observe_deletion(key_of(obj), obj["metadata"]["uid"], resource_version_of(obj))
                elif (entry := self._entry(obj)) is not None:
                    self._cache.observe(entry)
                self._count()
                self._resource_version = obj["metadata"]["resourceVersion"]

    def _entry(self, obj: Object) -> Entry[T] | None:
        try:
            record = self._project(obj)
        except Exception:
            # One object that the projection cannot read must not hide all others, nor stop the operator. It stays as
            # it was known last, rather than to look deleted.
            log.exception("%s %s cannot be projected", self.resource.kind, key_of(obj))
            known = self._cache.get(key_of(obj))
            if known is None:
                return None
            record = known
        return Entry(key_of(obj), obj["metadata"]["uid"], resource_version_of(obj), controller_uid_of(obj), record)

    def _count(self) -> None:
        self._metrics.cache_objects.labels(self.resource.plural).set(len(self._cache))
