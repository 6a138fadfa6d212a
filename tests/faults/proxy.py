"""A proxy between one process and the API server, at which things go wrong on order.

Plain HTTP towards the process (its kubeconfig is generated), the real server's TLS and credentials behind. It runs in a
thread with an event loop of its own, so that tests stay as they like, with or without asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import json
import threading
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import aiohttp
from aiohttp import web
from modelwright.kube.credentials import Credentials

T = TypeVar("T")

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host", "content-length"}


@dataclasses.dataclass(frozen=True)
class Request:
    """What the process asked for. `resource` is the plural; `name` is empty for a collection."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes

    def _parts(self) -> list[str]:
        parts = self.path.strip("/").split("/")
        parts = parts[2:] if parts[0] == "api" else parts[3:]
        return parts[2:] if parts[:1] == ["namespaces"] and len(parts) > 2 else parts

    @property
    def resource(self) -> str:
        return next(iter(self._parts()), "")

    @property
    def name(self) -> str:
        return "".join(self._parts()[1:2])

    @property
    def subresource(self) -> str:
        return "".join(self._parts()[2:3])

    @property
    def is_watch(self) -> bool:
        return self.query.get("watch") in ("1", "true")

    @property
    def is_write(self) -> bool:
        return self.method in ("POST", "PUT", "PATCH", "DELETE") and self.query.get("dryRun") != "All"

    def __str__(self) -> str:
        name = self.name
        if not name and self.body:
            with contextlib.suppress(ValueError, AttributeError):
                metadata = json.loads(self.body).get("metadata", {})
                name = metadata.get("name") or f"{metadata.get('generateName', '')}*"
        return " ".join(filter(None, (self.method, "/".join(filter(None, (self.resource, self.subresource))), name)))


Matches = Callable[[Request], bool]


def _any(_: Request) -> bool:
    return True


# Reviews are questions that are asked by POST; Leases and Events are no part of what is left.
_NO_STATE = {"leases", "events", "subjectaccessreviews", "selfsubjectaccessreviews", "tokenreviews"}


def counts_as_write(request: Request) -> bool:
    return request.is_write and request.resource not in _NO_STATE


Label = Callable[[Request], str | None]
"""What a request is called among the writes, None where it is none. A write is found again in another run by its label
and by how many of that label came before it: so the order of independent writes may differ from run to run."""


def label_of_write(request: Request) -> str | None:
    return str(request) if counts_as_write(request) else None


class Moment(enum.Enum):
    """What befalls a write. Of the kills the process lives to see no answer; the rest it must cope with alive."""

    BEFORE = "killed before"
    AFTER = "killed after"
    LOST = "answer lost"
    CONFLICT = "answered 409"
    BUSY = "answered 429"
    ERROR = "answered 500"


KILLS = (Moment.BEFORE, Moment.AFTER)
_ANSWERS = {
    Moment.CONFLICT: (409, "Conflict", None),
    Moment.BUSY: (429, "TooManyRequests", 1),
    Moment.ERROR: (500, "InternalError", None),
}


@dataclasses.dataclass
class Write:
    """A write that came by, the `occurrence`-th (from 1) of its label; `code` is the server's answer, None where it got
    none."""

    label: str
    occurrence: int
    request: Request
    code: int | None = None


@dataclasses.dataclass
class Fault:
    """What happens to the next `times` requests that match (None: to all of them).

    `delay` in seconds comes first, and then the wait for `until` to hold, as of a request that is long under way. Then
    either `answer` is given in the server's stead (an HTTP code, with `reason` in the Status, and Retry-After where
    set), or the connection is dropped before or after the server has got the request.
    """

    matches: Matches
    times: int | None = 1
    delay: float = 0.0
    until: Callable[[], bool] | None = None
    answer: int | None = None
    reason: str = ""
    retry_after: int | None = None
    drop: Literal["before", "after"] | None = None
    met: int = 0


@dataclasses.dataclass
class _Due:
    label: str
    occurrence: int
    moment: Moment
    reached: Callable[[], None]


class Proxy:
    """Use as a context manager. `kubeconfig` leads a process here; `writes` holds what it wrote so far.

    With `impersonate` the process has that user's rights and no more, e.g. `system:serviceaccount:ns:name`.
    """

    def __init__(
        self,
        upstream: Path,
        folder: Path,
        *,
        label: Label = label_of_write,
        impersonate: str | None = None,
    ) -> None:
        self.kubeconfig = folder / "proxy.kubeconfig"
        self.url = ""
        self.writes: list[Write] = []
        self.faults: list[Fault] = []
        self._upstream = upstream
        self._label = label
        self._impersonate = impersonate
        self._due: _Due | None = None
        self._in_flight = 0
        self._last_write_at = 0.0
        self._watches: dict[asyncio.Transport, tuple[Request, asyncio.Task[Any] | None]] = {}
        self._frozen = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.call(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # What tests order

    def disturb_at(self, label: str, occurrence: int, moment: Moment, reached: Callable[[], None]) -> None:
        """Lets it befall a write, once: the `occurrence`-th of that label since the start. For a kill `reached` is
        called at the moment, and is what ends the process; otherwise it is called as the write comes in."""
        self._due = _Due(label, occurrence, moment, reached)

    def add(self, fault: Fault) -> Fault:
        self.faults.append(fault)
        return fault

    def cut_watches(self, matches: Matches = _any) -> int:
        """Breaks the connections of all open watches that match, in the midst of what they say. Returns how many."""
        return self.call(self._cut_watches(matches))

    def freeze_watches(self, frozen: bool = True) -> None:
        """While frozen, watches stay open and say nothing: as behind a load balancer that has forgotten them."""
        self._frozen = frozen

    def open_watches(self, matches: Matches = _any) -> int:
        return sum(matches(request) for request, _ in list(self._watches.values()))

    def quiet_for(self) -> float:
        """Seconds since the last counted write ended; 0 while one is in flight."""
        return 0.0 if self._in_flight else self._loop.time() - self._last_write_at

    def ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Asks the real server itself, as the administrator, past all faults and counts. Raises RuntimeError."""

        async def once() -> tuple[int, dict[str, Any]]:
            content_type = "application/merge-patch+json" if method == "PATCH" else "application/json"
            async with self._session.request(
                method,
                self._credentials.server + path,
                data=None if body is None else json.dumps(body),
                headers={"Content-Type": content_type},
            ) as response:
                return response.status, dict(await response.json(content_type=None))

        async def ask() -> dict[str, Any]:
            code, answer = await once()
            # As of a kind whose CRD was changed a moment ago: the server did nothing, and asks for patience.
            while code == 429:
                await asyncio.sleep(0.2)
                code, answer = await once()
            if code >= 400:
                raise RuntimeError(f"{method} {path}: {code} {answer.get('message')}")
            return answer

        return self.call(ask())

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    # The thread's own part

    async def _start(self) -> None:
        self._credentials = await Credentials.load(self._upstream)
        self._session = self._credentials.session(limit=0)
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = "http://{}:{}".format(*self._runner.addresses[0])
        self.kubeconfig.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "proxy",
                    "clusters": [{"name": "proxy", "cluster": {"server": self.url}}],
                    "users": [{"name": "proxy", "user": {}}],
                    "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
                }
            )
        )
        self._last_write_at = self._loop.time()

    async def _stop(self) -> None:
        await self._cut_watches(_any)
        await self._runner.cleanup()
        # What still waits for the real server, on behalf of a process that was killed.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._session.close()

    async def _cut_watches(self, matches: Matches) -> int:
        cut = [(transport, task) for transport, (request, task) in self._watches.items() if matches(request)]
        for transport, task in cut:
            transport.abort()
            self._watches.pop(transport, None)
            if task is not None:
                task.cancel()
        return len(cut)

    async def _handle(self, raw: web.BaseRequest) -> web.StreamResponse:
        request = Request(raw.method, raw.path, dict(raw.query), await raw.read())
        write = None
        label = self._label(request)
        if label is not None:
            write = Write(label, 1 + sum(one.label == label for one in self.writes), request)
            self.writes.append(write)
        counts = counts_as_write(request)
        self._in_flight += counts
        try:
            return await self._disturbed(raw, request, write)
        except ConnectionResetError:
            _drop(raw)
            return web.Response(status=502)
        finally:
            if counts:
                self._in_flight -= 1
                self._last_write_at = self._loop.time()

    async def _disturbed(self, raw: web.BaseRequest, request: Request, write: Write | None) -> web.StreamResponse:
        due = self._take_due(write)
        moment = None if due is None else due.moment
        if due is not None and moment is not Moment.AFTER:
            due.reached()
        if moment is Moment.BEFORE:
            raise ConnectionResetError
        fault = self._fault(request, moment)
        if fault is not None:
            fault.met += 1
            await asyncio.sleep(fault.delay)
            while fault.until is not None and not fault.until():
                await asyncio.sleep(0.02)
            if fault.answer is not None:
                if write is not None:
                    write.code = fault.answer
                return _status(fault)
            if fault.drop == "before":
                raise ConnectionResetError
        response = await self._forward(raw, request, write)
        if due is not None and moment is Moment.AFTER:
            due.reached()
            raise ConnectionResetError
        if fault is not None and fault.drop == "after":
            raise ConnectionResetError
        return response

    def _take_due(self, write: Write | None) -> _Due | None:
        due = self._due
        if due is None or write is None or (due.label, due.occurrence) != (write.label, write.occurrence):
            return None
        self._due = None
        return due

    def _fault(self, request: Request, moment: Moment | None) -> Fault | None:
        if moment is Moment.LOST:
            return Fault(_any, drop="after")
        if moment in _ANSWERS:
            code, reason, retry_after = _ANSWERS[moment]
            return Fault(_any, answer=code, reason=reason, retry_after=retry_after)
        for fault in self.faults:
            if (fault.times is None or fault.met < fault.times) and fault.matches(request):
                return fault
        return None

    async def _forward(self, raw: web.BaseRequest, request: Request, write: Write | None) -> web.StreamResponse:
        headers = {name: value for name, value in raw.headers.items() if name.lower() not in _HOP_BY_HOP}
        headers["Accept-Encoding"] = "identity"
        if self._impersonate is not None:
            headers["Impersonate-User"] = self._impersonate
        try:
            async with self._session.request(
                request.method,
                self._credentials.server + raw.raw_path,
                data=request.body or None,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            ) as answer:
                passed = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
                if request.is_watch and answer.status == 200:
                    return await self._stream(raw, request, answer, passed)
                body = await answer.read()
                if write is not None:
                    write.code = answer.status
                return web.Response(status=answer.status, body=body, headers=passed)
        except aiohttp.ClientError as error:
            raise ConnectionResetError from error

    async def _stream(
        self, raw: web.BaseRequest, request: Request, answer: aiohttp.ClientResponse, headers: dict[str, str]
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=200, headers=headers)
        await response.prepare(raw)
        transport = raw.transport
        if transport is None:
            raise ConnectionResetError
        self._watches[transport] = (request, asyncio.current_task())
        try:
            async for chunk in answer.content.iter_any():
                if not self._frozen:
                    await response.write(chunk)
            while self._frozen and not transport.is_closing():
                await asyncio.sleep(0.05)
            await response.write_eof()
        finally:
            self._watches.pop(transport, None)
        return response


def _drop(raw: web.BaseRequest) -> None:
    if raw.transport is not None:
        raw.transport.abort()  # type: ignore[attr-defined]


def _status(fault: Fault) -> web.Response:
    status = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": f"a fault on order: {fault.answer} {fault.reason}".strip(),
        "reason": fault.reason,
        "code": fault.answer,
    }
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    return web.json_response(status, status=fault.answer or 500, headers=headers)
