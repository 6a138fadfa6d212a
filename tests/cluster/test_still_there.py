"""Whether an owner is there still, as a real API server says."""

from __future__ import annotations

import asyncio

from modelwright.controllers.shell import still_there
from modelwright.kube.client import Client
from modelwright.kube.resources import CONFIGMAPS

from devcluster.light import LightCluster
from tests.cluster.kube import config, namespace


def test_an_object_is_there_until_it_is_deleted_or_replaced(light: LightCluster) -> None:
    async def story() -> None:
        async with await Client.connect(light.kubeconfig, user_agent="test") as client:
            space = await namespace(client)
            held = config(space, "held")
            held["metadata"]["finalizers"] = ["example.org/hold"]
            for obj in (config(space, "plain"), held):
                made = await client.create(CONFIGMAPS, obj)
                assert await still_there(client, CONFIGMAPS, made)
                await client.delete(CONFIGMAPS, made["metadata"]["name"], space)
                assert not await still_there(client, CONFIGMAPS, made)
            gone = await client.create(CONFIGMAPS, config(space, "again"))
            await client.delete(CONFIGMAPS, "again", space)
            await client.create(CONFIGMAPS, config(space, "again"))
            assert not await still_there(client, CONFIGMAPS, gone)

    asyncio.run(story())
