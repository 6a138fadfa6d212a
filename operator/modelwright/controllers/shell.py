"""The effects that controllers share: what they know of their own objects, children made once, status written once."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import NamedTuple

import orjson

from modelwright.api.base import StatusModel
from modelwright.kube import conditions, errors
from modelwright.kube.client import Client
from modelwright.kube.events import EventRecorder, Regarding
from modelwright.kube.resources import Key, Object, Resource, controller_uid_of, key_of, resource_version_of
from modelwright.kube.status import write_status

Clock = Callable[[], datetime.datetime]


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class NameTaken(Exception):  # noqa: N818 - it reads as what happened
    """A child cannot be made: its name belongs to an object of somebody else."""


class _Known(NamedTuple):
    """An object as JSON: a finished TrainingJob is 2 KiB so, and 25 to 33 KiB as the dict that it is read as."""

    uid: str
    version: int
    content: bytes


class Objects:
    """One of our kinds as the watch tells of it, with our own writes folded in.

    Of its metadata who manages which field is left out: half of the object, and the API server's business alone.
    """

    def __init__(self, resource: Resource, client: Client, events: EventRecorder, clock: Clock = now) -> None:
        self.resource = resource
        self._client = client
        self._events = events
        self._clock = clock
        self._known: dict[Key, _Known] = {}

    def get(self, key: Key) -> Object | None:
        """The caller's own copy."""
        known = self._known.get(key)
        if known is None:
            return None
        obj: Object = orjson.loads(known.content)
        return obj

    def observe(self, obj: Object) -> None:
        """Takes in an object as it was told of; an older version than the known one is dropped."""
        key, uid, version = key_of(obj), str(obj["metadata"]["uid"]), resource_version_of(obj)
        known = self._known.get(key)
        if known is not None and known.uid == uid and known.version >= version:
            return
        metadata = {name: value for name, value in obj["metadata"].items() if name != "managedFields"}
        # A copy, since what orjson returns keeps the 8 KiB that it was written in.
        content = bytes(memoryview(orjson.dumps({**obj, "metadata": metadata})))
        self._known[key] = _Known(uid, version, content)

    def forget(self, key: Key) -> None:
        self._known.pop(key, None)

    async def put_status(self, obj: Object, status: StatusModel, state: conditions.State) -> None:
        """Writes the status with the conditions that say `state`, where that is anything new.

        Raises Conflict where the object has changed meanwhile: the change wakes another pass.
        """
        metadata, current = obj["metadata"], obj.get("status") or {}
        merged = conditions.merge_dicts(
            current.get("conditions") or (), state, generation=metadata.get("generation", 0), now=self._clock()
        )
        try:
            written = await write_status(
                self._client,
                self.resource,
                metadata["name"],
                metadata["namespace"],
                resource_version=metadata["resourceVersion"],
                current=current,
                wanted={**status.to_object(), "conditions": merged},
            )
        except errors.NotFound:
            # Its deletion was not told of, as happens where a watch was lost.
            self.forget(key_of(obj))
            return
        if written is not None:
            self.observe(written)

    def tell(self, obj: Object, reason: str, note: str, *, warning: bool) -> None:
        """Records an Event about the object."""
        metadata = obj["metadata"]
        regarding = Regarding(self.resource, metadata["namespace"], metadata["name"], metadata["uid"])
        self._events.record(regarding, reason, note, type="Warning" if warning else "Normal")


async def still_there(client: Client, resource: Resource, obj: Object) -> bool:
    """Whether an object is there and not about to go, as the API server says right now.

    Where children are missing, the watch may only be late to tell that their owner was deleted, and they with it.
    """
    metadata = obj["metadata"]
    try:
        found = (await client.get(resource, metadata["name"], metadata["namespace"]))["metadata"]
    except errors.NotFound:
        return False
    return bool(found["uid"] == metadata["uid"] and not found.get("deletionTimestamp"))


async def create_once(client: Client, resource: Resource, obj: Object) -> Object:
    """Creates a child under its deterministic name; one that is there already, of the same owner, is as good.

    So a crash between two children, or a second operator that does not know of the first's work, changes nothing.
    Raises NameTaken.
    """
    try:
        return await client.create(resource, obj)
    except errors.AlreadyExists:
        name, namespace = obj["metadata"]["name"], obj["metadata"]["namespace"]
        there = await client.get(resource, name, namespace)
        if controller_uid_of(there) != controller_uid_of(obj):
            raise NameTaken(
                f"{resource.kind} {name} exists and is not ours; delete it, or name this object otherwise"
            ) from None
        return there
