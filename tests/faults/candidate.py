"""One candidate for a Lease: while it leads, it counts up in a ConfigMap, guarded as the operator's writes are.

It prints `leads`, and `lost` when it has lost the Lease. `--freeze-in-flight` stops the process itself (SIGSTOP)
between a write's guard and the write, after three writes: the gap that no check can close. That write is not cancelled
with the work, so that the server is sure to see it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
from pathlib import Path

from modelwright.kube import errors
from modelwright.kube.client import Client
from modelwright.kube.lease import Lease, LeaseLost, Timing
from modelwright.kube.resources import CONFIGMAPS

TIMING = Timing(duration=2.0, renew_deadline=1.3, retry_period=0.3)


async def _main(kubeconfig: Path, namespace: str, name: str, freeze_in_flight: bool) -> int:
    async with await Client.connect(kubeconfig, user_agent=name) as client:
        lease = Lease(client, namespace, "leader", name, timing=TIMING)
        client.guard = lease.check
        writes = 0
        write: asyncio.Future[object] | None = None

        def check_and_freeze() -> None:
            lease.check()
            if writes == 3:
                os.kill(os.getpid(), signal.SIGSTOP)

        async def work() -> None:
            nonlocal write, writes
            print("leads", flush=True)
            if freeze_in_flight:
                client.guard = check_and_freeze
            while True:
                found = await client.get(CONFIGMAPS, "counter", namespace)
                count = int(found["data"]["count"]) + 1
                version = found["metadata"]["resourceVersion"]
                patch = {"metadata": {"resourceVersion": version}, "data": {"count": str(count), "by": name}}
                write = asyncio.ensure_future(client.patch(CONFIGMAPS, "counter", patch, namespace))
                await asyncio.shield(write)
                writes += 1
                await asyncio.sleep(0.05)

        try:
            await lease.lead(work)
        except LeaseLost:
            if write is not None:
                with contextlib.suppress(errors.Conflict, LeaseLost):
                    await write
            print("lost", flush=True)
            return 3
        return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kubeconfig", type=Path)
    parser.add_argument("namespace")
    parser.add_argument("name")
    parser.add_argument("--freeze-in-flight", action="store_true")
    given = parser.parse_args()

    async def until_terminated() -> int:
        task = asyncio.ensure_future(_main(given.kubeconfig, given.namespace, given.name, given.freeze_in_flight))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        try:
            return await task
        except asyncio.CancelledError:
            return 0

    raise SystemExit(asyncio.run(until_terminated()))
