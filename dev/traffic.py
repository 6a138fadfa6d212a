"""Real clients of an InferenceService, in pods and on the node, for as long as something else goes on."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dev import load
from dev.target import Target
from devcluster.progress import StepFailed, wait_for

_LABEL = "modelwright-traffic=client"
_END = "import os, signal; os.kill(1, signal.SIGTERM)"


@dataclasses.dataclass(frozen=True)
class Client:
    """`on_node`: in the node's own network, as a process of the node; else in a pod's."""

    name: str
    mode: load.Mode
    on_node: bool


CLIENTS = (
    Client("pod-keepalive", "keepalive", on_node=False),
    Client("pod-new", "new", on_node=False),
    Client("node-keepalive", "keepalive", on_node=True),
    Client("node-new", "new", on_node=True),
)
GRPC_CLIENTS = (Client("pod-grpc", "grpc", on_node=False), Client("node-grpc", "grpc", on_node=True))


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of a client's requests. `spans` are by worker, in order."""

    client: str
    sent: int
    failed: int
    why: Mapping[str, int]
    p99_ms: float
    spans: Sequence[Sequence[load.Span]]

    @property
    def answers(self) -> Counter[str]:
        """Answers of 200, by version."""
        return Counter({v: n for v, n in self._counted().items() if n})

    def _counted(self) -> Counter[str]:
        counted: Counter[str] = Counter()
        for row in self.spans:
            for span in row:
                if span.status == 200:
                    counted[span.version] += span.count
        return counted

    @property
    def order(self) -> list[list[str]]:
        """The versions that each worker met, one after the other."""
        made = []
        for row in self.spans:
            versions = [span.version for span in row if span.version]
            made.append([one for at, one in enumerate(versions) if at == 0 or versions[at - 1] != one])
        return made

    def first(self, version: str) -> float | None:
        """When the first answer of the version was asked for."""
        return min((span.first for row in self.spans for span in row if span.version == version), default=None)

    def last(self, version: str) -> float | None:
        """When the last answer of the version was asked for."""
        return max((span.last for row in self.spans for span in row if span.version == version), default=None)


class Traffic:
    """Clients as a context: they send from its start to its end; `results` are there after it."""

    def __init__(
        self,
        target: Target,
        namespace: str,
        image: str,
        *,
        url: str,
        model: str,
        bodies: Sequence[Mapping[str, Any]],
        clients: Sequence[Client] = CLIENTS,
        workers: int = 2,
        pause: float = 0.02,
    ) -> None:
        self._target, self._namespace, self._image = target, namespace, image
        self._url, self._model, self._bodies = url, model, bodies
        self._clients, self._workers, self._pause = clients, workers, pause
        self.results: dict[str, Result] = {}

    def _place(self, client: Client) -> str:
        return f"{self._namespace}-host" if client.on_node else self._namespace

    def __enter__(self) -> Traffic:
        self._remove()
        files = {"load.py": Path(load.__file__).read_text(), "bodies.json": json.dumps(self._bodies)}
        for place in {self._place(client) for client in self._clients}:
            made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "traffic", "namespace": place}}
            # Not by kubectl apply, whose annotation holds the whole again and may be no longer than 256 KiB.
            text = json.dumps({**made, "data": files})
            self._target.kubectl("delete", "configmap", "traffic", "--namespace", place, "--ignore-not-found")
            self._target.kubectl("create", "--filename", "-", stdin=text)
        for client in self._clients:
            self._target.apply(
                "traffic",
                {
                    "name": f"traffic-{client.name}", "namespace": self._place(client), "image": self._image,
                    "url": self._url, "model": self._model, "mode": client.mode, "workers": str(self._workers),
                    "pause": str(self._pause), "host_network": "true" if client.on_node else "false",
                    "dns_policy": "ClusterFirstWithHostNet" if client.on_node else "ClusterFirst",
                },
            )  # fmt: skip
        for client in self._clients:
            self._until_sent(client, 1, 60)
        return self

    def _until_sent(self, client: Client, count: int, seconds: float) -> None:
        wait_for(
            f"client {client.name} has sent {count} requests",
            lambda: self._sent(client) >= count,
            seconds=seconds,
            every=0.5,
        )

    def _told(self, client: Client) -> dict[str, Any]:
        job = f"job/traffic-{client.name}"
        try:
            text = self._target.kubectl("logs", job, "--namespace", self._place(client), "--tail=1")
            said: dict[str, Any] = json.loads(text)
        except (StepFailed, ValueError):
            return {}
        return said

    def _sent(self, client: Client) -> int:
        return int(self._told(client).get("sent", 0))

    def sent(self) -> tuple[int, int]:
        """How many were sent so far, and of these how many failed, over all clients."""
        with concurrent.futures.ThreadPoolExecutor(len(self._clients)) as pool:
            told = list(pool.map(self._told, self._clients))
        return sum(int(one.get("sent", 0)) for one in told), sum(int(one.get("failed", 0)) for one in told)

    def until_sent(self, count: int, *, seconds: float = 300) -> None:
        """Waits until each client has sent as many."""
        for client in self._clients:
            self._until_sent(client, count, seconds)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            with concurrent.futures.ThreadPoolExecutor(len(self._clients)) as pool:
                for result in pool.map(self._end, self._clients):
                    self.results[result.client] = result
        except StepFailed:
            # What went wrong first tells more.
            if kind is None:
                raise
        finally:
            self._remove()

    def _end(self, client: Client) -> Result:
        job, place = f"job/traffic-{client.name}", self._place(client)
        # The container may end before the command that asks it to, which is then killed with it: whether it has ended
        # well is told by the Job.
        with contextlib.suppress(StepFailed):
            self._target.kubectl("exec", job, "--namespace", place, "--", "python3", "-c", _END)
        self._target.kubectl("wait", "--for=condition=Complete", job, "--namespace", place, "--timeout=60s")
        said = self._told(client)
        if "spans" not in said:
            raise StepFailed(f"client {client.name} told no result")
        return Result(
            client=client.name,
            sent=said["sent"],
            failed=said["failed"],
            why=said["why"],
            p99_ms=said["p99Ms"],
            spans=[[load.Span(**span) for span in row] for row in said["spans"]],
        )

    def _remove(self) -> None:
        for place in {self._place(client) for client in self._clients}:
            self._target.kubectl(
                "delete", "job", "--selector", _LABEL, "--namespace", place, "--cascade=foreground", "--wait",
                timeout=60,
            )  # fmt: skip


def table(results: Mapping[str, Result]) -> str:
    """A line for each client, for people."""
    lines = [f"{'client':<16}{'sent':>8}{'failed':>8}{'p99 ms':>9}  answers by version"]
    for one in results.values():
        versions = ", ".join(f"{version} {count}" for version, count in sorted(one.answers.items()))
        lines.append(f"{one.client:<16}{one.sent:>8}{one.failed:>8}{one.p99_ms:>9.1f}  {versions}")
    return "\n".join(lines)


def clock(at: float | None) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(at)) if at else "never"
