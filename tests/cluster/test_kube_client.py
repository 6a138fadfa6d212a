"""The client against a real API server: what it writes, and what it makes of refusals."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from modelwright.kube import errors
from modelwright.kube.client import Client
from modelwright.kube.events import EventRecorder, Regarding
from modelwright.kube.resources import CONFIGMAPS, DEPLOYMENTS, EVENTS, JOBS, LEASES, SECRETS, Object
from modelwright.kube.status import write_status

from devcluster.light import LightCluster
from tests.cluster.kube import config, namespace, until
from tests.faults.proxy import Fault, Proxy, Request

Story = Callable[[Client, str], Awaitable[Any]]


@pytest.fixture
def proxy(light: LightCluster, tmp_path: Path) -> Iterator[Proxy]:
    with Proxy(light.kubeconfig, tmp_path) as made:
        yield made


def _tell(kubeconfig: Path, story: Story, user_agent: str = "test") -> Any:
    async def tell() -> Any:
        async with await Client.connect(kubeconfig, user_agent=user_agent) as client:
            return await story(client, await namespace(client))

    return asyncio.run(tell())


def _job(space: str, name: str) -> Object:
    pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "none"}]}
    return {"metadata": {"namespace": space, "name": name}, "spec": {"template": {"spec": pod}}}


def _deployment(space: str, **spec: Any) -> Object:
    pod = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "none"}]}}
    whole = {"selector": {"matchLabels": {"a": "b"}}, "template": pod, **spec}
    return {"metadata": {"namespace": space, "name": "d"}, "spec": whole}


def test_refusals_are_typed(light: LightCluster) -> None:
    async def story(client: Client, space: str) -> None:
        with pytest.raises(errors.NotFound, match='configmaps "none" not found'):
            await client.get(CONFIGMAPS, "none", space)
        await client.create(CONFIGMAPS, config(space, "a"))
        with pytest.raises(errors.AlreadyExists):
            await client.create(CONFIGMAPS, config(space, "a"))
        broken = _job(space, "j")
        broken["spec"]["template"]["spec"]["containers"] = []
        with pytest.raises(errors.Invalid) as refused:
            await client.create(JOBS, broken, dry_run=True)
        assert "spec.template.spec.containers: Required value" in [str(cause) for cause in refused.value.causes]
        with pytest.raises(errors.Conflict):
            await client.patch(CONFIGMAPS, "a", {"metadata": {"resourceVersion": "1"}, "data": {"k": "v"}}, space)
        with pytest.raises(errors.Conflict, match="UID"):
            await client.delete(CONFIGMAPS, "a", space, uid="another")
        assert await client.delete(CONFIGMAPS, "a", space)
        assert not await client.delete(CONFIGMAPS, "a", space)
        with pytest.raises(ValueError, match="by name only"):
            await client.list(SECRETS, space)

    _tell(light.kubeconfig, story)


def test_what_is_forbidden_says_so(light: LightCluster, tmp_path: Path) -> None:
    async def story(client: Client, space: str) -> None:
        with Proxy(light.kubeconfig, tmp_path, impersonate="mallory") as proxy:
            async with await Client.connect(proxy.kubeconfig) as mallory:
                with pytest.raises(errors.Forbidden, match='User "mallory" cannot list resource "configmaps"'):
                    await mallory.list(CONFIGMAPS, space)

    _tell(light.kubeconfig, story)


def test_apply_gives_up_what_it_no_longer_says_and_scale_leaves_replicas_to_others(light: LightCluster) -> None:
    async def story(client: Client, space: str) -> None:
        made = await client.apply(DEPLOYMENTS, _deployment(space, minReadySeconds=5))
        assert {one["manager"] for one in made["metadata"]["managedFields"]} == {"modelwright"}
        scaled = await client.scale(DEPLOYMENTS, "d", 3, space)
        assert scaled["spec"]["replicas"] == 3
        again = await client.apply(DEPLOYMENTS, _deployment(space))
        assert again["spec"]["replicas"] == 3
        assert "minReadySeconds" not in again["spec"]

    _tell(light.kubeconfig, story)


def test_a_read_is_tried_again_and_a_write_is_not(proxy: Proxy) -> None:
    async def story(client: Client, space: str) -> None:
        for fault in (Fault(_named("a"), answer=500), Fault(_named("a"), drop="before")):
            proxy.add(fault)
            with pytest.raises((errors.ServerError, errors.Unreachable)):
                await client.create(CONFIGMAPS, config(space, "a"))
        made = await client.create(CONFIGMAPS, config(space, "a"))
        failing = proxy.add(Fault(_named("a"), times=2, answer=503))
        dropped = proxy.add(Fault(_named("a"), drop="after"))
        assert (await client.get(CONFIGMAPS, "a", space))["metadata"]["uid"] == made["metadata"]["uid"]
        assert (failing.met, dropped.met) == (2, 1)

    _tell(proxy.kubeconfig, story)


def test_429_is_waited_out_for_writes_too(proxy: Proxy) -> None:
    async def story(client: Client, space: str) -> None:
        proxy.add(Fault(_named("a"), answer=429, reason="TooManyRequests", retry_after=1))
        began = time.monotonic()
        await client.create(CONFIGMAPS, config(space, "a"))
        assert time.monotonic() - began >= 1.0

    _tell(proxy.kubeconfig, story)


def test_no_more_than_16_requests_are_under_way_and_a_lease_is_not_held_up(proxy: Proxy) -> None:
    async def story(client: Client, space: str) -> None:
        await client.create(CONFIGMAPS, config(space, "a"))
        slow = proxy.add(Fault(_named("a"), times=None, delay=1.0))
        reads = [asyncio.create_task(client.get(CONFIGMAPS, "a", space)) for _ in range(20)]
        await until("the pool is full", lambda: slow.met >= 16)
        with pytest.raises(errors.NotFound):
            await client.get(LEASES, "none", space)
        assert slow.met == 16
        await asyncio.gather(*reads)
        assert slow.met == 20

    _tell(proxy.kubeconfig, story)


def test_no_write_goes_out_against_the_guard(proxy: Proxy) -> None:
    async def story(client: Client, space: str) -> None:
        await client.create(CONFIGMAPS, config(space, "a"))
        before = len(proxy.writes)

        def refuse() -> None:
            raise PermissionError("not the leader")

        client.guard = refuse
        with pytest.raises(PermissionError):
            await client.patch(CONFIGMAPS, "a", {"data": {"k": "v"}}, space)
        with pytest.raises(PermissionError):
            await client.delete(CONFIGMAPS, "a", space)
        assert (await client.get(CONFIGMAPS, "a", space)).get("data") is None
        assert len(proxy.writes) == before

    _tell(proxy.kubeconfig, story)


def test_a_status_is_written_when_it_changes_and_only_then(light: LightCluster) -> None:
    async def story(client: Client, space: str) -> None:
        job = await client.create(JOBS, _job(space, "j"))
        stale = job["metadata"]["resourceVersion"]
        wanted = {"active": 1, "ready": 0, "failed": None}
        for _ in range(3):
            written = await write_status(
                client, JOBS, "j", space,
                resource_version=job["metadata"]["resourceVersion"], current=job["status"], wanted=wanted,
            )  # fmt: skip
            job = written or job
        assert job["status"]["active"] == 1
        with pytest.raises(errors.Conflict):
            await write_status(
                client, JOBS, "j", space, resource_version=stale, current=job["status"], wanted={"active": 2}
            )

    _tell(light.kubeconfig, story, user_agent="status-test")
    writes = [
        (event["verb"], event["objectRef"]["subresource"], event["responseStatus"]["code"])  # type: ignore[index]
        for event in light.audit_events()
        if event.get("userAgent") == "status-test" and event["objectRef"].get("subresource")  # type: ignore[attr-defined]
    ]
    assert writes == [("patch", "status", 200), ("patch", "status", 409)]


def test_events_are_counted_rather_than_repeated(light: LightCluster) -> None:
    async def story(client: Client, space: str) -> None:
        made = await client.create(CONFIGMAPS, config(space, "a"))
        regarding = Regarding(CONFIGMAPS, space, "a", made["metadata"]["uid"])

        async def record(times: int) -> None:
            recorder = EventRecorder(client, window=60.0)
            writing = asyncio.create_task(recorder.run())
            for _ in range(times):
                recorder.record(regarding, "Trained", "accuracy 0.97")
            recorder.record(regarding, "Published", "version 1.0.0")
            await recorder.drain()
            recorder.record(regarding, "Trained", "accuracy 0.97")
            await recorder.drain()
            writing.cancel()

        await record(times=3)
        await record(times=1)  # as after a restart
        events = {event["reason"]: event for event in await client.list(EVENTS, space)}
        assert events["Trained"]["series"]["count"] == 6
        assert events["Published"]["series"]["count"] == 2
        assert events["Trained"]["note"] == "accuracy 0.97"

    _tell(light.kubeconfig, story)
    told = light.kubectl("get", "events", "--all-namespaces")
    assert "accuracy 0.97" in told


def test_events_never_fail_the_pass(proxy: Proxy) -> None:
    proxy.add(Fault(lambda request: request.resource == "events", times=None, answer=500))

    async def story(client: Client, space: str) -> None:
        recorder = EventRecorder(client)
        for number in range(2000):
            recorder.record(Regarding(CONFIGMAPS, space, "a", "u"), "Reason", f"{number}")
        await recorder.drain(0.5)

    _tell(proxy.kubeconfig, story)


def _named(name: str) -> Callable[[Request], bool]:
    return lambda request: name in (request.name, *([] if not request.body else [str(request).split()[-1]]))
