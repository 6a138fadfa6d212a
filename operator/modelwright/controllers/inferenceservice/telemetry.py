"""What serving pods tell of themselves: read from their private port, and summed up over a revision."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from modelwright import serving

_SECONDS = 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class Telemetry:
    """One pod's counts since it started, of the requests of clients. `buckets` are cumulative, by their upper bounds in
    seconds, as Prometheus has them."""

    draining: bool
    connections: int
    in_flight: int
    requests: int
    errors: int
    buckets: tuple[tuple[float, int], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Total:
    """Over the pods of a revision. `p99` is in seconds; None where nothing was answered."""

    requests: int
    errors: int
    p99: float | None


def parse(text: str) -> Telemetry:
    """Raises ValueError for what is no exposition of a serving pod."""
    gauges: dict[str, float] = {}
    requests = errors = 0
    buckets: dict[float, int] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == f"{serving.REQUESTS}_total":
                requests += int(sample.value)
                errors += int(sample.value) if sample.labels["code"] >= "500" else 0
            elif sample.name == f"{serving.REQUEST_SECONDS}_bucket":
                bound = float(sample.labels["le"])
                buckets[bound] = buckets.get(bound, 0) + int(sample.value)
            elif sample.name in (serving.DRAINING, serving.CONNECTIONS, serving.IN_FLIGHT):
                gauges[sample.name] = gauges.get(sample.name, 0.0) + sample.value
    if serving.DRAINING not in gauges:
        raise ValueError(f"there is no {serving.DRAINING} in it")
    return Telemetry(
        draining=gauges[serving.DRAINING] > 0,
        connections=int(gauges.get(serving.CONNECTIONS, 0)),
        in_flight=int(gauges.get(serving.IN_FLIGHT, 0)),
        requests=requests,
        errors=errors,
        buckets=tuple(sorted(buckets.items())),
    )


def total(pods: Iterable[Telemetry]) -> Total:
    requests = errors = 0
    buckets: dict[float, int] = {}
    for pod in pods:
        requests, errors = requests + pod.requests, errors + pod.errors
        for bound, count in pod.buckets:
            buckets[bound] = buckets.get(bound, 0) + count
    return Total(requests, errors, quantile(0.99, sorted(buckets.items())))


def quantile(share: float, buckets: Sequence[tuple[float, int]]) -> float | None:
    """The quantile in seconds, interpolated within its bucket as Prometheus' histogram_quantile does; beyond the last
    finite bound it is that bound. None where the buckets are empty."""
    count = buckets[-1][1] if buckets else 0
    if count == 0:
        return None
    rank, below, before = share * count, 0.0, 0
    for bound, cumulative in buckets:
        if cumulative >= rank:
            if math.isinf(bound):
                return below
            within = cumulative - before
            return below + (bound - below) * ((rank - before) / within if within else 0.0)
        below, before = bound, cumulative
    return below


class Reader:
    """Reads and asks pods, under one budget, so that a slow one costs the others nothing."""

    def __init__(self, *, budget: int = 32) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._budget = asyncio.Semaphore(budget)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_SECONDS))
        return self._session

    async def read(self, addresses: Mapping[str, str]) -> dict[str, Telemetry | None]:
        """Of pods, by name, at these addresses; None of one that does not answer."""
        names = list(addresses)
        return dict(zip(names, await asyncio.gather(*(self._read(addresses[name]) for name in names)), strict=True))

    async def _read(self, address: str) -> Telemetry | None:
        try:
            async with self._budget, self._open().get(_url(address, serving.METRICS_PATH)) as answer:
                return parse(await answer.text())
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return None

    async def drain(self, addresses: Iterable[str], *, on: bool) -> None:
        """Asks pods to close each connection after its answer, or to do so no more. One that does not answer is asked
        again in the next pass."""
        await asyncio.gather(*(self._drain(address, on=on) for address in addresses))

    async def _drain(self, address: str, *, on: bool) -> None:
        method = "POST" if on else "DELETE"
        try:
            async with self._budget, self._open().request(method, _url(address, serving.DRAIN_PATH)) as answer:
                await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            return


def _url(address: str, path: str) -> str:
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{serving.ADMIN_PORT}{path}"
