"""HTTP/1.1 for the model server: an asyncio protocol over httptools' parser (llhttp), without tasks and without layers.

A general server framework gives no say over three things that a blue-green upgrade stands on: an answer that closes
its connection at a moment's notice (drain), a listener that goes on accepting after SIGTERM (uvicorn refuses 0.3 s
later), and the count of connections that are still open. So it is done here, with the limits that a server on an open
port needs: on the size of head and body, and on the time that a request, a reader of answers or an idle connection may
take.

A handler is called with each whole request and a function that takes its answer, at once or later, on the loop's
thread. Requests of one connection are answered in their order, one at a time.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import email.utils
import errno
import http
import logging
import socket
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httptools
import orjson

log = logging.getLogger(__name__)

JSON = (b"content-type", b"application/json")
_HEAD_BYTES = 64 * 1024
# What is read and thrown away of a request that was refused: closing at once would reset the connection, and the client
# would never see the answer.
_LINGER_BYTES = 256 * 1024 * 1024
_LINGER_SECONDS = 10.0
# A request has this long to arrive, and a second more for each so many bytes that came.
_ARRIVAL_SECONDS = 30.0
_ARRIVAL_BYTES_PER_SECOND = 16 * 1024
_UNREAD_ANSWER_SECONDS = 60.0
# How long a connection that was accepted late may take to send its first request, when the server ends.
_FIRST_REQUEST_SECONDS = 1.0
_SWEEP_SECONDS = 0.5
_BACKLOG = 1024
_STATUS_LINES = {
    one.value: f"HTTP/1.1 {one.value} {one.phrase}\r\n".encode() for one in http.HTTPStatus if one.value >= 200
}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Request:
    """A whole request. `path` is decoded and without the query; header names are in lower case; `arrived` is when its
    last byte came (`time.perf_counter`)."""

    __slots__ = ("arrived", "body", "headers", "keep_alive", "method", "path", "query")

    def __init__(self, method: str, target: bytes, headers: Mapping[bytes, bytes], body: bytes, keep_alive: bool):
        path, _, self.query = target.partition(b"?")
        self.method = method
        self.path = urllib.parse.unquote(path.decode("latin-1")) if b"%" in path else path.decode("latin-1")
        self.headers = headers
        self.body = body
        self.keep_alive = keep_alive
        self.arrived = time.perf_counter()


@dataclasses.dataclass(frozen=True, slots=True)
class Response:
    """An answer; its body is the parts' bytes, one after the other."""

    status: int
    body: Sequence[bytes | memoryview]
    headers: Sequence[tuple[bytes, bytes]] = (JSON,)


def json_response(content: Any, status: int = 200, headers: Sequence[tuple[bytes, bytes]] = ()) -> Response:
    return Response(status, (orjson.dumps(content),), (JSON, *headers))


def error_response(status: int, message: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> Response:
    """An error in the protocol's form."""
    return json_response({"error": message}, status, headers)


Answer = Callable[[Response], None]
Handler = Callable[[Request, Answer], None]


class HttpServer:
    """The connections of one port.

    `headers` are on each answer. While `closing` is set, each answer says `Connection: close` and its connection is
    closed after it; connections on which nothing is asked stay open. `max_body` bounds a request's body, `max_held`
    those of all requests together that are arriving or being answered, in bytes.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        headers: Sequence[tuple[bytes, bytes]] = (),
        max_body: int = 1024 * 1024,
        max_held: int = 16 * 1024 * 1024,
        keep_alive_seconds: float = 120.0,
    ) -> None:
        self.handler = handler
        self.max_body = max_body
        self.max_held = max_held
        self.held = 0
        self.keep_alive_seconds = keep_alive_seconds
        self.closing = False
        self.connections: set[_Connection] = set()
        self.in_flight = 0
        self._headers = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self._listener: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._no_connections = asyncio.Event()
        self._no_connections.set()
        self.head = b""
        self._say_time()

    async def listen(self, port: int) -> int:
        """Accepts connections on all addresses from now on; returns the port. Raises OSError."""
        loop = asyncio.get_running_loop()
        sock = _listening(port)
        self._listener = await loop.create_server(lambda: _Connection(self), sock=sock, backlog=_BACKLOG)
        self._sweeper = asyncio.create_task(self._sweep())
        return int(sock.getsockname()[1])

    async def end(self, grace_seconds: float) -> bool:
        """Stops accepting, answers what has been asked, then closes each connection; whether all that was done within
        `grace_seconds`. Connections whose clients ask nothing are closed at once, but for those that were accepted a
        moment ago: their first request may be on its way."""
        self.closing = True
        if self._listener:
            self._listener.close()
        for connection in list(self.connections):
            connection.end_if_idle(time.monotonic() - _FIRST_REQUEST_SECONDS)
        try:
            await asyncio.wait_for(self._all_closed(), grace_seconds)
        except TimeoutError:
            return False
        finally:
            if self._sweeper:
                self._sweeper.cancel()
            for connection in list(self.connections):
                connection.abort()
        return True

    async def _all_closed(self) -> None:
        while self.connections:
            try:
                await asyncio.wait_for(self._no_connections.wait(), 0.05)
            except TimeoutError:
                for connection in list(self.connections):
                    connection.end_if_idle(time.monotonic() - _FIRST_REQUEST_SECONDS)

    def opened(self, connection: _Connection) -> None:
        self.connections.add(connection)
        self._no_connections.clear()

    def closed(self, connection: _Connection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self._no_connections.set()

    async def _sweep(self) -> None:
        """One timer for all connections: one for each request would cost more than the request."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self._say_time()
            now = time.monotonic()
            for connection in list(self.connections):
                connection.check_time(now)

    def _say_time(self) -> None:
        # RFC 9110, 6.6.1: an origin server with a clock says the date.
        self.head = self._headers + b"date: " + email.utils.formatdate(usegmt=True).encode() + b"\r\n"


def _listening(port: int) -> socket.socket:
    """A socket for IPv6 and IPv4, or for IPv4 alone in a pod without IPv6."""
    try:
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise
        return socket.create_server(("", port), backlog=_BACKLOG)


class _Connection(asyncio.Protocol):
    """One connection: parses, hands requests to the handler in turn, writes answers."""

    __slots__ = (
        "_answers", "_arrived_bytes", "_beginning", "_body", "_body_bytes", "_discarded", "_half_closed", "_head_bytes",
        "_headers", "_in_head", "_lingering", "_parser", "_reading_paused", "_refused", "_since", "_target",
        "_transport", "_waiting", "_writing_paused_since", "busy", "receiving", "server",
    )  # fmt: skip

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self._transport: asyncio.Transport = None  # type: ignore[assignment] # until connection_made
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: collections.deque[Request] = collections.deque()
        self.busy = False
        self.receiving = False
        self._beginning = False
        self._answers = 0
        self._in_head = True
        self._head_bytes = 0
        self._arrived_bytes = 0
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._refused = False
        self._lingering = False
        self._discarded = 0
        self._half_closed = False
        self._reading_paused = False
        self._writing_paused_since = 0.0
        self._since = time.monotonic()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # of a TCP server it is a Transport
        self.server.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the transport calls it so
        self._give_up()
        self.server.closed(self)

    def eof_received(self) -> bool:
        """The client sends no more; one that still waits for answers gets them."""
        self._half_closed = True
        return (self.busy or bool(self._waiting)) and not self._lingering

    def pause_writing(self) -> None:
        self._writing_paused_since = time.monotonic()

    def resume_writing(self) -> None:
        self._writing_paused_since = 0.0
        self._since = time.monotonic()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            self._discarded += len(data)
            if self._discarded > _LINGER_BYTES:
                self._transport.abort()
            return
        if not self.receiving and not self.busy:
            self._since = time.monotonic()
        self._arrived_bytes += len(data)
        if self._in_head:
            self._head_bytes += len(data)
        self._parse(data)
        if self._in_head and self._head_bytes > _HEAD_BYTES and not self._refused:
            self._refuse(error_response(431, f"the request's head is larger than {_HEAD_BYTES} bytes"))

    def _parse(self, data: bytes) -> None:
        while data and not self._refused:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self._parser.get_method() == b"CONNECT":
                    self._refuse(error_response(405, "this server is no proxy: CONNECT is not for it"))
                    return
                # An offer that is declined by answering in HTTP/1.1 (RFC 9110, 7.8): Java's client makes it (h2c) with
                # its first request. The parser takes what follows the head for another protocol, the request's body,
                # too: so a new one reads the same head, without the offer, and goes on.
                data = self._without_offer() + data[upgrade.args[0] :]
                self._parser = httptools.HttpRequestParser(self)
            except httptools.HttpParserError as error:
                if not self._refused:
                    self._refuse(error_response(400, f"this is no HTTP/1.1 request: {error}"))
                return
            else:
                return

    def _without_offer(self) -> bytes:
        kept = (pair for pair in self._headers.items() if pair[0] not in (b"upgrade", b"http2-settings", b"connection"))
        connection = self._headers.get(b"connection", b"").lower()
        ends = b"close" if b"close" in connection else b"keep-alive"
        lines = (name + b": " + value + b"\r\n" for name, value in (*kept, (b"connection", ends)))
        return b"".join((self._parser.get_method(), b" ", self._target, b" HTTP/1.1\r\n", *lines, b"\r\n"))

    # What the parser calls.

    def on_message_begin(self) -> None:
        self.receiving = True
        self._in_head = True
        self._target = b""
        self._headers = {}
        self._body = []
        self._body_bytes = 0

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        if self._refused or self._parser.should_upgrade():
            return
        length = self._headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.server.max_body:
            self._refuse_size()
        elif self._headers.get(b"expect", b"").lower() == b"100-continue" and not self.busy and not self._waiting:
            self._transport.write(_CONTINUE)

    def on_body(self, part: bytes) -> None:
        if self._refused:
            return
        self._body_bytes += len(part)
        self.server.held += len(part)
        if self._body_bytes > self.server.max_body:
            self._refuse_size()
        elif self.server.held > self.server.max_held:
            words = f"requests of {self.server.max_held} bytes are in memory already, the most that this server holds"
            self._refuse(error_response(429, f"{words}: try again in 1 s, or add replicas", ((b"retry-after", b"1"),)))
        else:
            self._body.append(part)

    def on_message_complete(self) -> None:
        self.receiving = False
        self._in_head = True
        self._arrived_bytes = 0
        if self._refused or self._parser.should_upgrade():
            return
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        method, keep_alive = self._parser.get_method().decode(), self._parser.should_keep_alive()
        request = Request(method, self._target, self._headers, body, keep_alive)
        self._body = []
        self._body_bytes = 0
        self._waiting.append(request)
        self._begin_next()
        if self._waiting:  # a client that sends ahead of the answers waits in its own buffers, not in ours
            self._pause_reading(True)

    # Requests and answers.

    def _begin_next(self) -> None:
        """Begins what waits, one after the other. A loop, since an answer may come within `_begin`, and a client may
        send thousands of requests in one packet."""
        if self._beginning:
            return
        self._beginning = True
        while self._waiting and not self.busy:
            self._begin(self._waiting.popleft())
        self._beginning = False

    def _begin(self, request: Request) -> None:
        self.busy = True
        self.server.in_flight += 1
        answered = False

        def answer(response: Response) -> None:
            nonlocal answered
            if not answered:
                answered = True
                self.server.in_flight -= 1
                self.server.held -= len(request.body)
                self._answer(request, response)

        try:
            self.server.handler(request, answer)
        except Exception:
            log.exception("%s %s", request.method, request.path)
            answer(error_response(500, "the server failed on this request; its log says why"))

    def _answer(self, request: Request, response: Response) -> None:
        self.busy = False
        self._answers += 1
        if self._transport.is_closing():
            return
        after = bool(self._waiting) or self.receiving
        # Of a client that sends no more, a request that has begun will not end.
        more = bool(self._waiting) or not self._half_closed
        keep = request.keep_alive and not self.server.closing and not self._refused and more
        self._write(response, keep=keep, with_body=request.method != "HEAD")
        self._since = time.monotonic()
        if not keep:
            self._close(unread=after or self._refused)
            return
        self._begin_next()
        if not self._waiting:
            self._pause_reading(False)

    def _write(self, response: Response, *, keep: bool, with_body: bool = True) -> None:
        length = sum(map(len, response.body))
        head = b"".join((
            _STATUS_LINES[response.status],
            self.server.head,
            *(name + b": " + value + b"\r\n" for name, value in response.headers),
            # HTTP/1.0 keeps a connection only where it is said.
            b"connection: keep-alive\r\n" if keep else b"connection: close\r\n",
            b"content-length: %d\r\n\r\n" % length,
        ))  # fmt: skip
        if not with_body:
            self._transport.write(head)
        elif length <= 64 * 1024:
            self._transport.write(b"".join((head, *response.body)))
        else:
            self._transport.writelines([head, *response.body])

    def _refuse_size(self) -> None:
        limit = self.server.max_body
        self._refuse(error_response(413, f"the request's body is larger than {limit} bytes, this server's limit"))

    def _refuse(self, response: Response) -> None:
        """Answers what is no whole request, after which the connection is of no more use."""
        self._refused = True
        self.receiving = False
        self._give_up()
        if self.busy:  # an answer is owed first, and is then the last
            return
        self._write(response, keep=False)
        self._close(unread=True)

    def _give_up(self) -> None:
        """Forgets what has come and is not being answered."""
        self.server.held -= self._body_bytes + sum(len(request.body) for request in self._waiting)
        self._waiting.clear()
        self._body = []
        self._body_bytes = 0

    def _close(self, *, unread: bool) -> None:
        """Closes when what is written has left. With `unread` input a plain close would send a reset, which may
        overtake the answer: so the client closes first, or time runs out."""
        self._give_up()
        if unread and not self._half_closed and self._transport.can_write_eof():
            self._refused = self._lingering = True
            self._since = time.monotonic()
            self._transport.write_eof()
            self._pause_reading(False)
        else:
            self._transport.close()

    def _pause_reading(self, pause: bool) -> None:
        if pause != self._reading_paused and not self._transport.is_closing():
            self._reading_paused = pause
            (self._transport.pause_reading if pause else self._transport.resume_reading)()

    # Time.

    @property
    def idle(self) -> bool:
        return not (self.busy or self.receiving or self._waiting or self._lingering)

    def end_if_idle(self, accepted_before: float) -> None:
        if self.idle and (self._answers or self._since < accepted_before):
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def check_time(self, now: float) -> None:
        """Ends a connection that takes too long: idle, sending, reading, or closing."""
        waited = now - self._since
        if self._writing_paused_since and now - self._writing_paused_since > _UNREAD_ANSWER_SECONDS:
            self._transport.abort()
        elif self._lingering:
            if waited > _LINGER_SECONDS:
                self._transport.abort()
        elif self.receiving and not self.busy:
            if waited > _ARRIVAL_SECONDS + self._arrived_bytes / _ARRIVAL_BYTES_PER_SECOND:
                self._refuse(error_response(408, f"the request took more than {waited:.0f} s to arrive"))
        elif self.idle and waited > self.server.keep_alive_seconds:
            self._transport.close()
