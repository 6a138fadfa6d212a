"""Clients of a model server, as a process of their own: each asks over a connection that it keeps, again as soon as it
has its answer.

    .venv/bin/python -m tests.bench.http_load PORT PATH CONNECTIONS SECONDS HEADER_LENGTH <BODY

HEADER_LENGTH is the binary extension's, 0 for JSON. The last line of its output is a `Load` as JSON.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import sys
import time

import uvloop

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Load:
    """Answers of status 200 in `seconds`, others, and quantiles of the time from a request to its answer."""

    answers: int
    refused: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        return self.answers / self.seconds


class _Client(asyncio.Protocol):
    def __init__(self, request: bytes, ends: float, times: list[float]) -> None:
        self._request, self._ends, self._times = request, ends, times
        self._got = b""
        self.refused = 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment] # of TCP it is a Transport
        self._ask()

    def _ask(self) -> None:
        self._asked = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._got += data
        head = self._got.find(b"\r\n\r\n")
        if head < 0:
            return
        length = int(_LENGTH.search(self._got, 0, head).group(1))  # type: ignore[union-attr]
        if len(self._got) < head + 4 + length:
            return
        now = time.perf_counter()
        if self._got.startswith(b"HTTP/1.1 200"):
            self._times.append(now - self._asked)
        else:
            self.refused += 1
        self._got = b""
        if now < self._ends:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc:
            self.done.set_exception(exc)
        else:
            self.done.set_result(None)


async def load(port: int, request: bytes, connections: int, seconds: float) -> Load:
    loop = asyncio.get_running_loop()
    times: list[float] = []
    began = time.perf_counter()
    opened = await asyncio.gather(*(
        loop.create_connection(lambda: _Client(request, began + seconds, times), "127.0.0.1", port)
        for _ in range(connections)
    ))  # fmt: skip
    await asyncio.gather(*(client.done for _, client in opened))
    took = time.perf_counter() - began
    times.sort()
    p50, p99 = (times[int(len(times) * share)] * 1000 for share in (0.5, 0.99))
    return Load(len(times), sum(client.refused for _, client in opened), took, p50, p99)


def main(arguments: list[str]) -> None:
    port, path, connections, seconds, header_length = arguments
    body = sys.stdin.buffer.read()
    extra = f"Inference-Header-Content-Length: {header_length}\r\n" if int(header_length) else ""
    lines = (f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}")
    head = ("\r\n".join(lines) + f"\r\n{extra}\r\n").encode()
    print(json.dumps(dataclasses.asdict(uvloop.run(load(int(port), head + body, int(connections), float(seconds))))))


if __name__ == "__main__":
    main(sys.argv[1:])
