"""A reflector's cache is what the API server has, whatever happens to its watch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from modelwright.kube.client import Client
from modelwright.kube.metrics import Metrics
from modelwright.kube.reflector import Reflector
from modelwright.kube.resources import CONFIGMAPS, Key, Object
from prometheus_client import CollectorRegistry

from devcluster.light import LightCluster
from tests.cluster.kube import config, namespace, running, until
from tests.faults.proxy import Fault, Proxy, Request

Record = tuple[str, str | None]


def _project(obj: Object) -> Record:
    return obj["metadata"]["name"], (obj.get("data") or {}).get("k")


def _is_watch(request: Request) -> bool:
    return request.is_watch


def _is_list(request: Request) -> bool:
    return request.method == "GET" and not request.is_watch and not request.name


class Story:
    """A reflector behind the proxy, and a client past it that makes the changes."""

    def __init__(self, direct: Client, client: Client, space: str) -> None:
        self.direct, self.space = direct, space
        self.told: list[tuple[str, Record | None, Record | None]] = []
        self.registry = CollectorRegistry()
        self.reflector = Reflector(
            client, CONFIGMAPS, _project, lambda key, old, new: self.told.append((key.name, old, new)),
            namespace=space, selector={"test": None}, metrics=Metrics(self.registry),
        )  # fmt: skip

    async def put(self, name: str, value: str) -> None:
        await self.direct.apply(CONFIGMAPS, config(self.space, name, labels={"test": "x"}, k=value))

    async def delete(self, name: str) -> None:
        assert await self.direct.delete(CONFIGMAPS, name, self.space)

    def has(self, **values: str) -> bool:
        return sorted(self.reflector.all()) == sorted(values.items())

    def restarts(self, reason: str) -> float:
        labels = {"resource": "configmaps", "reason": reason}
        return self.registry.get_sample_value("modelwright_watch_restarts_total", labels) or 0.0


@pytest.fixture
def proxy(light: LightCluster, tmp_path: Path) -> Iterator[Proxy]:
    with Proxy(light.kubeconfig, tmp_path) as made:
        yield made


@asynccontextmanager
async def _story(light: LightCluster, proxy: Proxy) -> AsyncIterator[Story]:
    async with await Client.connect(light.kubeconfig) as direct, await Client.connect(proxy.kubeconfig) as client:
        yield Story(direct, client, await namespace(direct))


def test_it_sees_creates_updates_and_deletes(light: LightCluster, proxy: Proxy) -> None:
    async def story() -> None:
        async with _story(light, proxy) as it:
            await it.put("before", "1")
            async with running(it.reflector):
                assert it.has(before="1")
                await it.put("a", "1")
                await it.put("a", "2")
                await it.delete("before")
                await it.direct.create(CONFIGMAPS, config(it.space, "unlabelled", k="1"))
                await it.put("last", "1")
                await until("all is told", lambda: it.has(a="2", last="1"))
            assert it.told == [
                ("before", None, ("before", "1")),
                ("a", None, ("a", "1")),
                ("a", ("a", "1"), ("a", "2")),
                ("before", ("before", "1"), None),
                ("last", None, ("last", "1")),
            ]

    asyncio.run(story())


def test_it_misses_nothing_across_cut_watches(light: LightCluster, proxy: Proxy) -> None:
    async def story() -> None:
        async with _story(light, proxy) as it, running(it.reflector):
            for round_ in range(4):
                await until("watching", lambda: proxy.open_watches())
                assert proxy.cut_watches() == 1
                await it.put("a", str(round_))
                await it.put(f"b{round_}", "1")
                if round_:
                    await it.delete(f"b{round_ - 1}")
            await until("all is told", lambda: it.has(a="3", b3="1"))
            assert it.restarts("unreachable") == 4
            assert [name for name, _, new in it.told if new is None] == ["b0", "b1", "b2"]
            # It went on from where it was: no list but the first.
            assert it.registry.get_sample_value("modelwright_lists_total", {"resource": "configmaps"}) == 1

    asyncio.run(story())


def test_after_a_410_the_next_list_tells_of_deletions(light: LightCluster, proxy: Proxy) -> None:
    async def story() -> None:
        async with _story(light, proxy) as it:
            await it.put("stays", "1")
            await it.put("goes", "1")
            async with running(it.reflector):
                gone = proxy.add(Fault(_is_watch, answer=410, reason="Expired"))
                # While nobody watches: until the deletion is done, each new watch is refused by the server's 500.
                hold = proxy.add(Fault(_is_watch, times=None, answer=500))
                gone.met = 1
                proxy.cut_watches()
                await it.delete("goes")
                await it.put("new", "1")
                gone.met = 0
                hold.times = 0
                await until("the deletion is told", lambda: it.has(stays="1", new="1"))
                assert it.restarts("gone") == 1
                assert ("goes", ("goes", "1"), None) in it.told
                assert len([name for name, *_ in it.told if name == "stays"]) == 1

    asyncio.run(story())


def test_a_list_whose_pages_expire_begins_again(light: LightCluster, proxy: Proxy) -> None:
    proxy.add(Fault(lambda request: "continue" in request.query, answer=410, reason="Expired"))

    async def story() -> None:
        async with _story(light, proxy) as it:
            await asyncio.gather(*(it.put(f"c{n}", "1") for n in range(501)))
            async with running(it.reflector):
                assert len(it.reflector) == 501
                assert it.restarts("gone") == 1

    asyncio.run(story())


def test_a_watch_that_is_silently_dead_is_noticed(
    light: LightCluster, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelwright.kube.client._WATCH_GRACE_SECONDS", 0.5)

    async def story() -> None:
        async with _story(light, proxy) as it:
            it.reflector._watch_timeout = 1.5
            async with running(it.reflector):
                await until("watching", lambda: proxy.open_watches())
                proxy.freeze_watches()
                await it.put("a", "1")
                await until("noticed", lambda: it.restarts("unreachable"))
                assert it.has()
                proxy.freeze_watches(False)
                await until("told all the same", lambda: it.has(a="1"))

    asyncio.run(story())


def test_synced_waits_for_the_whole_list(light: LightCluster, proxy: Proxy) -> None:
    refused = proxy.add(Fault(_is_list, times=None, answer=403, reason="Forbidden"))

    async def story() -> None:
        async with _story(light, proxy) as it:
            await it.put("a", "1")
            task = asyncio.create_task(it.reflector.run())
            barrier = asyncio.create_task(it.reflector.synced())
            await until("refused twice", lambda: refused.met >= 2)
            assert not barrier.done()
            refused.times = 0
            await barrier
            assert it.has(a="1")
            task.cancel()

    asyncio.run(story())


def test_writes_of_ours_are_in_the_cache_before_their_echo(light: LightCluster, proxy: Proxy) -> None:
    async def story() -> None:
        async with await Client.connect(proxy.kubeconfig) as client:
            space = await namespace(client)
            told: list[tuple[str, Record | None, Record | None]] = []
            reflector = Reflector(
                client, CONFIGMAPS, _project, lambda key, old, new: told.append((key.name, old, new)),
                namespace=space, selector={"test": None},
            )  # fmt: skip
            async with running(reflector):
                await until("watching", lambda: proxy.open_watches())
                proxy.freeze_watches()
                made = config(space, "a", labels={"test": "x"}, k="1")
                made["metadata"]["finalizers"] = ["test.modelwright.dev/f"]
                await client.create(CONFIGMAPS, made)
                await client.create(CONFIGMAPS, config(space, "not-ours", k="1"))
                await client.create(CONFIGMAPS, config(space, "dry", labels={"test": "x"}), dry_run=True)
                assert reflector.all() == [("a", "1")]
                await client.patch(CONFIGMAPS, "a", {"data": {"k": "2"}}, space)
                assert reflector.get(Key(space, "a")) == ("a", "2")
                await client.delete(CONFIGMAPS, "a", space)
                assert reflector.all() == [("a", "2")]
                await client.patch(CONFIGMAPS, "a", {"metadata": {"finalizers": None}}, space)
                assert reflector.all() == []
                await client.create(CONFIGMAPS, config(space, "b", labels={"test": "x"}, k="1"))
                await client.delete(CONFIGMAPS, "b", space)
                assert reflector.all() == []
                await client.create(CONFIGMAPS, config(space, "c", labels={"test": "x"}, k="1"))
                proxy.freeze_watches(False)
                proxy.cut_watches()
                before = list(told)
                await client.patch(CONFIGMAPS, "c", {"data": {"k": "2"}}, space)
                await until("the echo of all has come", lambda: proxy.open_watches())
                assert told == [*before, ("c", ("c", "1"), ("c", "2"))]

    asyncio.run(story())


def test_5000_objects_come_in_pages(light: LightCluster, proxy: Proxy) -> None:
    async def story() -> None:
        async with await Client.connect(light.kubeconfig) as direct, await Client.connect(proxy.kubeconfig) as client:
            space = await namespace(direct)
            gate = asyncio.Semaphore(16)

            async def make(number: int) -> None:
                async with gate:
                    await direct.create(CONFIGMAPS, config(space, f"c{number:04}", k="x" * 1000))

            await asyncio.gather(*(make(number) for number in range(5000)))
            pages = [len(page.items) async for page in client.pages(CONFIGMAPS, space)]
            assert pages == [500] * 10
            reflector = Reflector(direct, CONFIGMAPS, _project, namespace=space)
            began, cpu = time.monotonic(), time.process_time()
            async with running(reflector):
                wall, cpu = time.monotonic() - began, time.process_time() - cpu
                assert len(reflector) == 5000
            print(f"\n5,000 ConfigMaps of 1.3 KiB: synced in {wall:.2f} s, {cpu / 5000 * 1e6:.0f} µs of CPU each")

    asyncio.run(story())
