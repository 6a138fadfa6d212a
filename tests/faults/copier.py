"""A controller small enough to be right: two copies of every ConfigMap that is labelled `copier=source`.

It is what the harness is tried on, and the shape of a controller on `modelwright.kube`: reflector → queue → pure plan →
writes. `--wrong` breaks it in ways that only a crash brings to light.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
from pathlib import Path
from typing import Any

from modelwright.kube.client import Client
from modelwright.kube.queue import WorkQueue
from modelwright.kube.reflector import Reflector
from modelwright.kube.resources import CONFIGMAPS, Key, Object, key_of, owner_reference

FINALIZER = "test.modelwright.dev/copier"
COPIES = ("a", "b")
PHASE = "copier/phase"


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    uid: str
    version: str
    deleting: bool
    finalized: bool
    done: bool
    data: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Copy:
    name: str
    uid: str
    source: Key
    data: tuple[tuple[str, str], ...]


def _data(obj: Object) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((obj.get("data") or {}).items()))


def _source(obj: Object) -> Source:
    metadata = obj["metadata"]
    return Source(
        metadata["uid"],
        metadata["resourceVersion"],
        "deletionTimestamp" in metadata,
        FINALIZER in metadata.get("finalizers", ()),
        (metadata.get("annotations") or {}).get(PHASE) == "Copied",
        _data(obj),
    )


def _copy(obj: Object) -> Copy:
    metadata = obj["metadata"]
    key = Key(metadata["namespace"], metadata["ownerReferences"][0]["name"])
    return Copy(metadata["name"], metadata["uid"], key, _data(obj))


class Copier:
    """`wrong` is "" or "doubles" (new names for each copy, and done when two were made by this process) or "orphans"
    (lets the source go before its copies)."""

    def __init__(self, client: Client, namespace: str, wrong: str) -> None:
        self.client, self.namespace, self.wrong = client, namespace, wrong
        self.queue: WorkQueue[Key] = WorkQueue(self.reconcile, name="copier", workers=2)
        self.sources = Reflector(
            client, CONFIGMAPS, _source, lambda key, *_: self.queue.add(key),
            namespace=namespace, selector={"copier": "source"},
        )  # fmt: skip
        self.copies = Reflector(client, CONFIGMAPS, _copy, self._wake, namespace=namespace, selector={"copier": "copy"})
        self.made: dict[str, int] = {}

    def _wake(self, _: Key, *known: Copy | None) -> None:
        for copy in filter(None, known):
            self.queue.add(copy.source)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for reflector in (self.sources, self.copies):
                group.create_task(reflector.run())
            await asyncio.gather(self.sources.synced(), self.copies.synced())
            group.create_task(self.queue.run())

    async def reconcile(self, key: Key) -> None:
        source = self.sources.get(key)
        if source is None:
            return
        copies = self.copies.owned_by(source.uid)
        if source.deleting:
            await self._clean(key, source, copies)
            return
        if not source.finalized:
            await self._mark(key, source, {"finalizers": [FINALIZER]})
            return
        raw = await self.client.get(CONFIGMAPS, key.name, key.namespace)
        if self.wrong == "doubles":
            while self.made.get(source.uid, 0) < len(COPIES) and not source.done:
                await self.client.create(CONFIGMAPS, self._made(raw, {"generateName": f"{key.name}-"}))
                self.made[source.uid] = self.made.get(source.uid, 0) + 1
        else:
            for suffix in COPIES:
                name = f"{key.name}-{suffix}"
                if not any(copy.name == name and copy.data == source.data for copy in copies):
                    await self.client.apply(CONFIGMAPS, self._made(raw, {"name": name}))
        if not source.done:
            await self._mark(key, source, {"annotations": {PHASE: "Copied"}})

    async def _clean(self, key: Key, source: Source, copies: list[Copy]) -> None:
        if self.wrong == "orphans":
            await self._mark(key, source, {"finalizers": []})
        for copy in copies:
            await self.client.delete(CONFIGMAPS, copy.name, key.namespace, uid=copy.uid)
        if source.finalized and self.wrong != "orphans":
            await self._mark(key, source, {"finalizers": []})

    async def _mark(self, key: Key, source: Source, metadata: dict[str, Any]) -> None:
        patch = {"metadata": {**metadata, "resourceVersion": source.version}}
        await self.client.patch(CONFIGMAPS, key.name, patch, key.namespace)

    def _made(self, raw: Object, named: dict[str, str]) -> Object:
        metadata = {
            **named,
            "namespace": key_of(raw).namespace,
            "labels": {"copier": "copy"},
            "ownerReferences": [owner_reference(CONFIGMAPS, raw)],
        }
        return {"metadata": metadata, "data": raw.get("data") or {}}


async def _main(kubeconfig: Path, namespace: str, wrong: str) -> None:
    async with await Client.connect(kubeconfig) as client:
        await Copier(client, namespace, wrong).run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kubeconfig", type=Path)
    parser.add_argument("namespace")
    parser.add_argument("--wrong", default="", choices=["", "doubles", "orphans"])
    given = parser.parse_args()
    asyncio.run(_main(given.kubeconfig, given.namespace, given.wrong))
