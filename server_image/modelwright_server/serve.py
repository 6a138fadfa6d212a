"""The process of a serving pod: live at once, ready when the version may serve, private port, drain, graceful end."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy  # noqa: F401 - before there are threads: two that import it at once may find it half made
import uvloop
from modelwright import serving
from modelwright.serving import DrainState, Phase, Reason, ServingRun, ServingStatus, ServingWarning

from modelwright_server import failures, processor, v2
from modelwright_server.executor import Executor
from modelwright_server.failures import ServingFailed
from modelwright_server.http11 import Answer, HttpServer, Request, Response, error_response
from modelwright_server.loading import Loaded, load
from modelwright_server.metrics import CONTENT_TYPE, Metrics
from modelwright_server.served import Served

if TYPE_CHECKING:
    from modelwright_server.grpc_server import GrpcServer

log = logging.getLogger(__name__)

# Requests of the largest size that may be in memory at once; of small ones there are far more.
_HELD_BODIES = 4


class Pod:
    """The state of this process, and both of its ports."""

    def __init__(self, run: ServingRun, server_version: str) -> None:
        self.run = run
        self.phase = Phase.FETCHING
        self.warnings: tuple[ServingWarning, ...] = ()
        self.load_seconds: dict[str, float] = {}
        self.draining = False
        self.metrics = Metrics(run.model, run.version_label)
        self.threads = run.threads or processor.threads()
        executor = Executor(self.threads, self.metrics, most_waiting=run.max_waiting, most_seconds=run.max_wait_seconds)
        self.served = Served(run.model, run.version_label, server_version, self.metrics, executor)
        self.server = HttpServer(
            v2.Protocol(self.served),
            headers=((serving.VERSION_HEADER.lower().encode(), run.version_label.encode()),),
            max_body=run.max_request_bytes,
            max_held=_HELD_BODIES * run.max_request_bytes,
        )
        self.admin = HttpServer(self._administer)
        self.grpc: GrpcServer | None = None
        """None until gRPC's libraries are there."""
        self.metrics.follow(serving.IN_FLIGHT, lambda: self._in_flight)
        self.metrics.follow(serving.WAITING, lambda: executor.waiting)
        self.metrics.follow(serving.CONNECTIONS, lambda: self._connections)
        self.metrics.follow(serving.READY, lambda: float(self.served.ready))
        self.metrics.follow(serving.DRAINING, lambda: float(self.draining))

    async def serve(self) -> None:
        """Serves until SIGTERM or SIGINT, and ends gracefully. Raises ServingFailed where it cannot serve."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for one in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(one, stop.set)
        for server, port in ((self.server, self.run.port), (self.admin, self.run.admin_port)):
            await _listening(server, port)
        listening = asyncio.create_task(self._listen_grpc())
        loading: asyncio.Future[Loaded] = loop.create_future()
        threading.Thread(target=self._load, args=(loading,), name="loading", daemon=True).start()
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait((loading, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            return  # told to stop before there was anything to serve
        loaded = loading.result()
        self.warnings = loaded.warnings
        from modelwright_server.model import Model

        model = Model(self.run, loaded)
        self.served.executor.start(model)
        self.served.model = model
        if model.window:
            self.metrics.follow_drift(model.window.figures)
        if loaded.unbatched:
            log.info("each request is computed by itself: %s", loaded.unbatched)
        await listening
        self.served.ready = True
        self.phase = Phase.READY
        self._took("total", _age_seconds())
        log.info("ready: %s %s; seconds: %s", self.run.model, self.run.version_label,
                 ", ".join(f"{part} {seconds:.2f}" for part, seconds in self.load_seconds.items()))  # fmt: skip
        await stopped
        await self._end()

    async def _listen_grpc(self) -> None:
        # A sixth of a second of CPU, while the version is fetched: so the pod is live before.
        module = await asyncio.to_thread(importlib.import_module, "modelwright_server.grpc_server")
        server: GrpcServer = module.GrpcServer(
            self.served, max_bytes=self.run.max_request_bytes, age_seconds=self.run.grpc_connection_age_seconds
        )
        await _listening(server, self.run.grpc_port)
        self.grpc = server

    @property
    def _in_flight(self) -> int:
        return self.server.in_flight + (self.grpc.in_flight if self.grpc else 0)

    @property
    def _connections(self) -> int:
        return len(self.server.connections) + (self.grpc.connections() if self.grpc else 0)

    async def _end(self) -> None:
        self.served.ready = False
        self.phase = Phase.STOPPING
        self._set_draining(True)
        log.info("told to stop: answering for %g s more", self.run.lame_duck_seconds)
        await asyncio.sleep(self.run.lame_duck_seconds)
        grace = self.run.grace_seconds
        if not all(await asyncio.gather(*(one.end(grace) for one in (self.server, self.grpc) if one))):
            log.warning("some requests were not answered within %g s", self.run.grace_seconds)
        await self.admin.end(1.0)

    def _load(self, loading: asyncio.Future[Loaded]) -> None:
        """On a thread of its own, so that the pod is live and tells of itself meanwhile."""
        loop = loading.get_loop()

        def told(phase: Phase) -> None:
            self.phase = phase

        def ended(loaded: Loaded | None, failed: ServingFailed | None) -> None:
            if loading.cancelled():
                return
            if failed:
                loading.set_exception(failed)
            elif loaded:
                loading.set_result(loaded)

        result: tuple[Loaded | None, ServingFailed | None]
        try:
            result = load(self.run, self.threads, told, self._took), None
        except BaseException as error:
            if not isinstance(error, ServingFailed):
                log.exception("loading failed")
            self.phase = Phase.FAILED
            result = None, failures.of(error)
        with contextlib.suppress(RuntimeError):  # told to stop meanwhile, the loop has ended
            loop.call_soon_threadsafe(ended, *result)

    def _took(self, part: str, seconds: float) -> None:
        self.load_seconds[part] = round(seconds, 4)
        self.metrics.loaded(part, seconds)

    def _set_draining(self, draining: bool) -> None:
        self.draining = self.server.closing = draining

    # The private port.

    def _administer(self, request: Request, answer: Answer) -> None:
        answer(self._administered(request))

    def _administered(self, request: Request) -> Response:
        path, method = request.path, request.method
        if path == serving.DRAIN_PATH:
            if method in ("POST", "DELETE"):
                if self.phase is Phase.STOPPING:
                    return error_response(409, "the pod ends: its drain cannot be changed")
                self._set_draining(method == "POST")
            elif method != "GET":
                return error_response(405, f"{method} is not for {path}", ((b"allow", b"GET, POST, DELETE"),))
            state = DrainState(draining=self.draining, open_connections=self._connections, in_flight=self._in_flight)
            return Response(200, (state.to_json().encode(),))
        if path not in (serving.METRICS_PATH, serving.STATUS_PATH):
            known = ", ".join((serving.METRICS_PATH, serving.STATUS_PATH, serving.DRAIN_PATH))
            return error_response(404, f"{path[:200]}: there is no such path; there are {known}")
        if method not in ("GET", "HEAD"):
            return error_response(405, f"{method} is not for {path}", ((b"allow", b"GET, HEAD"),))
        if path == serving.METRICS_PATH:
            return Response(200, (self.metrics.text(),), ((b"content-type", CONTENT_TYPE),))
        status = ServingStatus(
            phase=self.phase.value, run=self.run, warnings=self.warnings, load_seconds=dict(self.load_seconds)
        )
        return Response(200, (status.to_json().encode(),))


async def _listening(server: HttpServer | GrpcServer, port: int) -> None:
    try:
        await server.listen(port)
    except OSError as error:
        words = os.strerror(error.errno) if error.errno else error.strerror
        raise ServingFailed(Reason.INVALID_RUN, f"port {port} cannot be listened on: {words}") from error


def _age_seconds() -> float:
    """Since this process was started, its interpreter's start included."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return uptime - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return time.process_time()


def main(run: ServingRun, server_version: str) -> None:
    """Serves until it is told to stop. Raises ServingFailed."""

    async def whole() -> None:
        await Pod(run, server_version).serve()

    uvloop.run(whole())
