"""What the tests of `modelwright.kube` share: namespaces of their own, and waiting inside an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from modelwright.kube.client import Client
from modelwright.kube.reflector import Reflector
from modelwright.kube.resources import CONFIGMAPS, Object, Resource

NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)


async def namespace(client: Client) -> str:
    made = await client.create(NAMESPACES, {"metadata": {"generateName": "kube-"}})
    return str(made["metadata"]["name"])


async def until(what: str, check: Callable[[], object], *, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        await asyncio.sleep(0.02)


def config(namespace: str, name: str, *, labels: dict[str, str] | None = None, **data: str) -> Object:
    return {"metadata": {"namespace": namespace, "name": name, "labels": labels or {}}, "data": data}


@asynccontextmanager
async def running(*reflectors: Reflector[Any]) -> AsyncIterator[None]:
    """Runs them in the background, synced."""
    tasks = [asyncio.create_task(reflector.run()) for reflector in reflectors]
    try:
        for reflector in reflectors:
            await asyncio.wait_for(reflector.synced(), 30)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


__all__ = ["CONFIGMAPS", "NAMESPACES", "config", "namespace", "running", "until"]
