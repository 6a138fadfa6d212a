"""What is known of the objects of one resource: small records, never older than what was known before.

Versions of one resource are compared as integers (KEP-5504). `horizon` is the version up to which everything has been
told, by a list, an event or a bookmark. It decides what an answer to a write of ours may still add: at or below the
horizon the watch has told of it already, perhaps of the object's deletion too, and adding it would bring back the dead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from modelwright.kube.resources import Key

T = TypeVar("T")

# (key, what was known, what is known now); None where it did not, or does no longer, exist.
OnChange = Callable[[Key, T | None, T | None], None]
Index = Callable[[T], Iterable[Hashable]]


@dataclasses.dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """A record with what the cache itself needs to know of its object."""

    key: Key
    uid: str
    version: int
    owner_uid: str | None
    record: T


class Cache(Generic[T]):
    """Objects by key, by the uid of the owner that controls them, and by the named `indexes` of their records.

    `on_change` is not called where the record is equal to the one before: a change that the projection drops wakes
    nobody. A projection that keeps the resourceVersion gives that up.
    """

    def __init__(self, on_change: OnChange[T], indexes: Mapping[str, Index[T]] | None = None) -> None:
        self.horizon = 0
        self._on_change = on_change
        self._entries: dict[Key, Entry[T]] = {}
        self._keys: dict[str, Key] = {}
        # Objects that we know to be gone and of whose end the watch has yet to tell: what it tells of them until then
        # is older.
        self._gone: set[str] = set()
        self._by_owner: dict[str, set[Key]] = {}
        self._indexes = {name: (index, _Buckets()) for name, index in (indexes or {}).items()}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[T]:
        return (entry.record for entry in self._entries.values())

    def get(self, key: Key) -> T | None:
        entry = self._entries.get(key)
        return None if entry is None else entry.record

    def owned_by(self, uid: str) -> list[T]:
        """In the order of their keys, so that a plan over them is the same each time."""
        return self._records(self._by_owner.get(uid, ()))

    def by_index(self, name: str, value: Hashable) -> list[T]:
        """Raises KeyError for an index that was not declared."""
        return self._records(self._indexes[name][1].get(value, ()))

    def _records(self, keys: Iterable[Key]) -> list[T]:
        return [self._entries[key].record for key in sorted(keys)]

    def observe(self, entry: Entry[T]) -> None:
        """An ADDED or MODIFIED event."""
        self._put(entry)
        self.horizon = max(self.horizon, entry.version)

    def observe_deletion(self, key: Key, uid: str, version: int) -> None:
        """A DELETED event, whose object carries the version of its deletion."""
        self._gone.discard(uid)
        known = self._entries.get(key)
        # A newer one is another object of that name, folded in before the watch told of the death of the first.
        if known is not None and known.version <= version:
            self._remove(known)
        self.horizon = max(self.horizon, version)

    def fold(self, entry: Entry[T]) -> None:
        """The answer to a write of ours, ahead of the watch's echo."""
        if entry.version > self.horizon:
            known = self._entries.get(entry.key)
            if known is not None and known.uid != entry.uid:
                self._gone.add(known.uid)
            self._put(entry)

    def fold_end(self, uid: str) -> None:
        """A write of ours has ended the object of this uid."""
        key = self._keys.get(uid)
        if key is not None:
            self._gone.add(uid)
            self._remove(self._entries[key])

    def reach(self, version: int) -> None:
        """A bookmark: all changes up to this version have been told."""
        self.horizon = max(self.horizon, version)

    def replace(self, entries: Iterable[Entry[T]], version: int) -> None:
        """All objects that there were at `version`. Others are gone, but for those folded in since."""
        listed = {entry.key: entry for entry in entries}
        self._gone &= {entry.uid for entry in listed.values()}
        for known in list(self._entries.values()):
            if known.key not in listed and known.version <= version:
                self._remove(known)
        for entry in listed.values():
            self._put(entry)
        self.horizon = max(self.horizon, version)

    def _put(self, entry: Entry[T]) -> None:
        known = self._entries.get(entry.key)
        if entry.uid in self._gone or (known is not None and known.version >= entry.version):
            return
        # Another object of the same name is a death and a birth: whoever follows the first must hear of its end.
        if known is not None and known.uid != entry.uid:
            self._remove(known)
            known = None
        self._entries[entry.key] = entry
        self._keys[entry.uid] = entry.key
        if known is None or known.owner_uid != entry.owner_uid or known.record != entry.record:
            if known is not None:
                self._unindex(known)
            self._index(entry)
            self._on_change(entry.key, None if known is None else known.record, entry.record)

    def _remove(self, known: Entry[T]) -> None:
        del self._entries[known.key]
        del self._keys[known.uid]
        self._unindex(known)
        self._on_change(known.key, known.record, None)

    def _index(self, entry: Entry[T]) -> None:
        if entry.owner_uid is not None:
            self._by_owner.setdefault(entry.owner_uid, set()).add(entry.key)
        for index, buckets in self._indexes.values():
            for value in index(entry.record):
                buckets.setdefault(value, set()).add(entry.key)

    def _unindex(self, entry: Entry[T]) -> None:
        if entry.owner_uid is not None:
            _discard(self._by_owner, entry.owner_uid, entry.key)
        for index, buckets in self._indexes.values():
            for value in index(entry.record):
                _discard(buckets, value, entry.key)


class _Buckets(dict[Hashable, set[Key]]):
    """Keys by an index's value; empty buckets are not kept."""


H = TypeVar("H", bound=Hashable)


def _discard(buckets: dict[H, set[Key]], value: H, key: Key) -> None:
    bucket = buckets.get(value)
    if bucket is not None:
        bucket.discard(key)
        if not bucket:
            del buckets[value]
