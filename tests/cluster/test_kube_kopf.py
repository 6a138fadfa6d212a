"""Kopf works on a session of ours, so that both prove who they are in one way."""

from __future__ import annotations

import asyncio

import kopf
from modelwright.kube import kopfsettings
from modelwright.kube.client import Client
from modelwright.kube.resources import CONFIGMAPS

from devcluster.light import LightCluster
from tests.cluster.kube import config, namespace, until


def test_kopf_watches_on_a_session_of_ours_and_ends_it_with_itself(light: LightCluster) -> None:
    async def story() -> None:
        async with await Client.connect(light.kubeconfig) as client:
            space = await namespace(client)
            registry = kopf.OperatorRegistry()
            seen: list[tuple[str | None, str]] = []
            session = client.credentials.session(limit=0)

            @kopf.on.login(registry=registry)
            def login(**_: object) -> kopf.AiohttpSession:
                return kopf.AiohttpSession(server=client.credentials.server, aiohttp_session=session)

            @kopf.on.event("v1", "configmaps", registry=registry)
            async def event(type: str | None, name: str, **_: object) -> None:
                seen.append((type, name))

            stop = asyncio.Event()
            settings = kopfsettings.settings()
            task = asyncio.create_task(
                kopf.operator(registry=registry, settings=settings, standalone=True, namespaces=[space], stop_flag=stop)
            )
            await client.create(CONFIGMAPS, config(space, "a"))
            await until("Kopf tells of it", lambda: any(name == "a" for _, name in seen))
            await client.patch(CONFIGMAPS, "a", {"data": {"k": "v"}}, space)
            await until("and of its change", lambda: ("MODIFIED", "a") in seen)
            stop.set()
            await asyncio.wait_for(task, 20)
            # The client's own sessions are not Kopf's to close.
            found = await client.get(CONFIGMAPS, "a", space)
            assert found["data"] == {"k": "v"}
            assert not found["metadata"].keys() & {"annotations", "finalizers"}, "Kopf wrote to it"
            await session.close()

    asyncio.run(story())
