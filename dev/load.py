"""Clients that send predictions all along, and tell exactly what became of each.

They never send a request twice: what a client with retries would hide is counted as failed. It needs nothing but
Python, so that the same file runs here and, mounted, in a pod: `python load.py --url … --model … --bodies FILE`.

`keepalive`: each worker has one connection and keeps it until the server says `Connection: close`, as HTTP/1.1 clients
do. `new`: each request has a connection of its own. `grpc`: all workers share one channel of gRPC for their whole life,
by which they ask for predictions and for metadata in turn; that needs the server's own image.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import signal
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

Mode = Literal["keepalive", "new", "grpc"]
_GRPC_PORT = 8081
_SECONDS = 10.0
_KEPT_FAILURES = 50
# Linux's struct tcp_info, as far as tcpi_total_retrans.
_TCP_INFO = struct.Struct("8B24I")
# The kernel asks again for a connection after 1 s without an answer. It also does at once where the answer is of
# another time: as far as is known, of a port that the node gave a connection before, and that the server still
# remembers. Nobody was away then.
_RETRY_SECONDS = 0.9
NO_CONNECTION = "no connection: "
"""So begins why a request failed that was never sent, since nobody took it."""


@dataclasses.dataclass
class Span:
    """Answers of one version, one after the other, as one worker got them; times in seconds since the epoch (Unix).
    Status 0: there was no answer."""

    version: str
    status: int
    first: float
    last: float
    count: int = 1


@dataclasses.dataclass
class Tally:
    """What became of the requests. `spans` are by worker, in order."""

    mode: str
    sent: int = 0
    failures: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    failed: Counter[str] = dataclasses.field(default_factory=Counter)
    spans: list[list[Span]] = dataclasses.field(default_factory=list)
    milliseconds: list[float] = dataclasses.field(default_factory=list)
    connections: int = 0
    tried_again: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """Connections that nobody took at first, and the kernel asked for again: with patience, a request that is late by a
    second or more; without, a lost one. When each was wanted, and how long it took."""

    def answered(self, worker: int, began: float, seconds: float, status: int, version: str) -> None:
        self.sent += 1
        self.milliseconds.append(seconds * 1000)
        row = self.spans[worker]
        if row and (row[-1].version, row[-1].status) == (version, status):
            row[-1].last, row[-1].count = began, row[-1].count + 1
        else:
            row.append(Span(version, status, began, began))
        if status != 200:
            self._fail(began, version, f"status {status}")

    def unanswered(self, worker: int, began: float, why: str) -> None:
        self.sent += 1
        self.spans[worker].append(Span("", 0, began, began))
        self._fail(began, "", why)

    def _fail(self, began: float, version: str, why: str) -> None:
        self.failed[f"{version or 'no answer'}: {why}"] += 1
        if len(self.failures) < _KEPT_FAILURES:
            self.failures.append({"at": began, "version": version, "why": why})

    def to_object(self) -> dict[str, Any]:
        ordered = sorted(self.milliseconds)

        def at(share: float) -> float | None:
            return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) if ordered else None

        return {
            "mode": self.mode,
            "sent": self.sent,
            "failed": sum(self.failed.values()),
            "why": dict(self.failed),
            "failures": self.failures,
            "connections": self.connections,
            "triedAgain": len(self.tried_again),
            "triedAgainAt": self.tried_again,
            "p50Ms": at(0.5),
            "p99Ms": at(0.99),
            "maxMs": ordered[-1] if ordered else None,
            "spans": [[dataclasses.asdict(span) for span in row] for row in self.spans],
        }


class _Connection:
    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def usable(self) -> bool:
        """Open, as far as the client can tell: a pool looks before it takes a connection out."""
        return self._reader is not None and not self._reader.at_eof()

    async def open(self) -> None:
        await self.close()
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._reader = self._writer = None

    def tried_again(self) -> bool:
        """Whether the kernel had to ask more than once until somebody took it."""
        if self._writer is None:
            return False
        info = self._writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        return bool(_TCP_INFO.unpack(info)[-1])

    async def ask(self, request: bytes) -> tuple[int, Mapping[str, str], bytes]:
        if self._reader is None or self._writer is None:
            raise ValueError("the connection is not open")
        self._writer.write(request)
        await self._writer.drain()
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return int(first.split()[1]), headers, body


async def _worker(
    number: int, host: str, port: int, requests: Sequence[bytes], tally: Tally, stop: asyncio.Event, pause: float
) -> None:
    connection, turn = _Connection(host, port), number
    while not stop.is_set():
        began, clock = time.time(), time.monotonic()
        request = requests[turn % len(requests)]
        turn += 1
        connected = connection.usable
        try:
            async with asyncio.timeout(_SECONDS):
                if not connected:
                    await connection.open()
                    tally.connections += 1
                    took = time.monotonic() - clock
                    if connection.tried_again() and took >= _RETRY_SECONDS:
                        tally.tried_again.append({"at": began, "seconds": round(took, 3)})
                    connected = True
                status, headers, body = await connection.ask(request)
            if status == 200 and b'"outputs"' not in body:
                tally.unanswered(number, began, "an answer without outputs")
            else:
                tally.answered(number, began, time.monotonic() - clock, status, headers.get("modelwright-version", ""))
            if tally.mode == "new" or headers.get("connection", "").lower() == "close":
                await connection.close()
        except (OSError, EOFError, TimeoutError, ValueError, asyncio.LimitOverrunError) as error:
            tally.unanswered(number, began, f"{'' if connected else NO_CONNECTION}{type(error).__name__}: {error}")
            await connection.close()
        await asyncio.sleep(pause)
    await connection.close()


async def _calls(
    number: int, channel: Any, model: str, bodies: Sequence[bytes], tally: Tally, stop: asyncio.Event, pause: float
) -> None:
    import grpc
    from modelwright_server import open_inference_pb2 as pb

    def method(name: str) -> Any:
        request, answer = getattr(pb, f"{name}Request"), getattr(pb, f"{name}Response")
        whole = f"/inference.GRPCInferenceService/{name}"
        return channel.unary_unary(
            whole, request_serializer=request.SerializeToString, response_deserializer=answer.FromString
        )

    infer, metadata = method("ModelInfer"), method("ModelMetadata")
    turn = number
    while not stop.is_set():
        began, clock = time.time(), time.monotonic()
        turn += 1
        try:
            if turn % 2:
                call = infer(_message(pb, model, json.loads(bodies[turn % len(bodies)])), timeout=_SECONDS)
            else:
                call = metadata(pb.ModelMetadataRequest(name=model), timeout=_SECONDS)
            answer = await call
            version = str(dict(await call.trailing_metadata()).get("modelwright-version", ""))
            if answer.outputs:
                tally.answered(number, began, time.monotonic() - clock, 200, version)
            else:
                tally.unanswered(number, began, "an answer without outputs")
        except grpc.aio.AioRpcError as error:
            tally.unanswered(number, began, f"{error.code().name}: {error.details()}")
        await asyncio.sleep(pause)


def _message(pb: Any, model: str, body: Mapping[str, Any]) -> Any:
    """The JSON request as a message, its tensors typed."""
    message = pb.ModelInferRequest(model_name=model)
    for one in body["inputs"]:
        tensor = message.inputs.add(name=one["name"], datatype=one["datatype"], shape=one["shape"])
        values = one["data"]
        while values and isinstance(values[0], list):
            values = [value for row in values for value in row]
        tensor.contents.fp32_contents.extend(values)
    return message


async def _run_grpc(
    host: str, port: int, model: str, bodies: Sequence[bytes], workers: int, tally: Tally, stop: asyncio.Event,
    pause: float,
) -> None:  # fmt: skip
    import grpc

    async with grpc.aio.insecure_channel(f"{host}:{port}") as channel:
        await asyncio.gather(*(_calls(number, channel, model, bodies, tally, stop, pause) for number in range(workers)))


def request_bytes(host: str, model: str, body: bytes, *, close: bool) -> bytes:
    lines = [
        f"POST /v2/models/{model}/infer HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"Connection: {'close' if close else 'keep-alive'}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def run(
    url: str,
    model: str,
    bodies: Sequence[bytes],
    *,
    mode: Mode,
    workers: int,
    pause: float,
    stop: asyncio.Event,
    tally: Tally | None = None,
) -> Tally:
    """Sends until `stop` is set. Each worker waits `pause` seconds between its requests."""
    split = urlsplit(url)
    host, port = split.hostname or "", split.port or 80
    tally = tally or Tally(mode)
    tally.spans = [[] for _ in range(workers)]
    if mode == "grpc":
        await _run_grpc(host, split.port or _GRPC_PORT, model, bodies, workers, tally, stop, pause)
        return tally
    requests = [request_bytes(split.netloc, model, body, close=mode == "new") for body in bodies]
    await asyncio.gather(*(_worker(number, host, port, requests, tally, stop, pause) for number in range(workers)))
    return tally


async def _main(chosen: argparse.Namespace) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    if chosen.seconds:
        loop.call_later(chosen.seconds, stop.set)
    bodies = [json.dumps(body).encode() for body in json.loads(Path(chosen.bodies).read_text())]
    tally = Tally(chosen.mode)
    running = asyncio.create_task(
        run(
            chosen.url, chosen.model, bodies, mode=chosen.mode, workers=chosen.workers, pause=chosen.pause,
            stop=stop, tally=tally,
        )
    )  # fmt: skip
    while not running.done():
        await asyncio.wait([running], timeout=0.5)
        if not running.done():
            # Progress for whoever reads along; the last line is the whole.
            print(json.dumps({"sent": tally.sent, "failed": sum(tally.failed.values())}), flush=True)
    print(json.dumps((await running).to_object()), flush=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Send predictions all along, and tell what became of each.")
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--bodies", required=True, help="a file with a JSON list of inference requests")
    parser.add_argument("--mode", choices=("keepalive", "new", "grpc"), default="keepalive")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between a worker's requests")
    parser.add_argument("--seconds", type=float, default=0, help="end after so long; 0: at SIGTERM")
    return asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
