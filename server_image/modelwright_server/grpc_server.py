"""The Open Inference Protocol V2 over gRPC, on grpcio's asyncio server, for the version that a pod serves.

Messages of inferences come and go as bytes: they are read and written on the executor's threads, not on the loop.

gRPC keeps one connection for a client's whole life, and proxies of Services do not move open ones. So each connection
has an age from the start, after which the server says GOAWAY: calls on their way are answered, new ones go to a new
connection, and so to wherever the Service then points. A blue-green switch, a drain and the end of a pod need nothing
else, and clients spread over added replicas. `server.stop(grace)`, which seems made for it, cancels calls that arrive
while it waits; an age cancels none.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import grpc.aio
from modelwright.serving import VERSION_HEADER

from modelwright_server import grpc_codec
from modelwright_server import open_inference_pb2 as pb
from modelwright_server.executor import RETRY_SECONDS, Job
from modelwright_server.inference import Inference
from modelwright_server.outcomes import Kind, Refused
from modelwright_server.served import SERVER_NAME, Served

log = logging.getLogger(__name__)

_SERVICE = "inference.GRPCInferenceService"
_LOOK_SECONDS = 0.1
# For what is still being answered when the time for connections is over.
_LAST_SECONDS = 0.5
# How clients that retry by a policy of their own are told to wait, as by Retry-After (gRPC proposal A6).
_PUSH_BACK = (("grpc-retry-pushback-ms", str(RETRY_SECONDS * 1000)),)
_ESTABLISHED = "01"

Context: TypeAlias = grpc.aio.ServicerContext


class GrpcServer:
    """Answers on `port`. `in_flight` counts calls that are being answered."""

    def __init__(self, served: Served, *, max_bytes: int, age_seconds: float) -> None:
        self._served = served
        self._loop = asyncio.get_running_loop()
        self._metadata = ((VERSION_HEADER.lower(), served.version),)
        self._port = 0
        self.in_flight = 0
        self._server = grpc.aio.server(
            options=(
                # A port that somebody has is an error, not to be shared with him.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", max_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_connection_age_ms", round(age_seconds * 1000)),
                # Clients that keep connections alive ask more often than gRPC's default allows, which is five minutes.
                ("grpc.http2.min_ping_interval_without_data_ms", 5000),
            )
        )
        self._server.add_generic_rpc_handlers((self._handlers(),))

    def _handlers(self) -> grpc.GenericRpcHandler:
        def told(request: Any, response: Any, method: Callable[[Any], Any]) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(
                functools.partial(self._answered, functools.partial(_at_once, method)),
                request_deserializer=request.FromString, response_serializer=response.SerializeToString,
            )  # fmt: skip

        return grpc.method_handlers_generic_handler(_SERVICE, {
            "ServerLive": told(pb.ServerLiveRequest, pb.ServerLiveResponse, self._live),
            "ServerReady": told(pb.ServerReadyRequest, pb.ServerReadyResponse, self._ready),
            "ServerMetadata": told(pb.ServerMetadataRequest, pb.ServerMetadataResponse, self._tell),
            "ModelReady": told(pb.ModelReadyRequest, pb.ModelReadyResponse, self._model_ready),
            "ModelMetadata": told(pb.ModelMetadataRequest, pb.ModelMetadataResponse, self._tell_of_model),
            "ModelInfer": grpc.unary_unary_rpc_method_handler(functools.partial(self._answered, self._infer)),
        })  # fmt: skip

    async def listen(self, port: int) -> int:
        """Accepts connections on all addresses from now on; returns the port. Raises OSError."""
        try:
            self._port = self._server.add_insecure_port(f"[::]:{port}")
        except RuntimeError as error:
            raise OSError(0, str(error)) from error
        await self._server.start()
        return self._port

    async def end(self, grace_seconds: float) -> bool:
        """Waits until each connection has come of age and is closed, accepting new ones meanwhile, then stops; whether
        all had gone within `grace_seconds`."""
        ends = time.monotonic() + grace_seconds
        while (gone := not (self.in_flight or self.connections())) is False and time.monotonic() < ends:
            await asyncio.sleep(_LOOK_SECONDS)
        await self._server.stop(_LAST_SECONDS)
        return gone

    def connections(self) -> int:
        """How many are open: by the kernel's table, since grpcio does not tell."""
        return sum(_established(Path("/proc/net") / table, self._port) for table in ("tcp", "tcp6"))

    # The methods.

    async def _answered(self, method: Callable[[Any, Context], Awaitable[Any]], request: Any, context: Context) -> Any:
        self.in_flight += 1
        context.set_trailing_metadata(self._metadata)
        try:
            return await method(request, context)
        except Refused as refused:
            trailing = (*self._metadata, *(_PUSH_BACK if refused.kind is Kind.OVERLOADED else ()))
            return await context.abort(grpc.StatusCode[refused.kind.code], str(refused), trailing)
        finally:
            self.in_flight -= 1

    def _live(self, _: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    def _ready(self, _: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._served.ready)

    def _tell(self, _: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=self._served.server_version)

    def _model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        self._served.check_name(request.name, request.version)
        return pb.ModelReadyResponse(ready=self._served.ready)

    def _tell_of_model(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        self._served.check_name(request.name, request.version)
        told = self._served.loaded().metadata()
        return pb.ModelMetadataResponse(
            name=told["name"], versions=told["versions"], platform=told["platform"], inputs=told["inputs"],
            outputs=told["outputs"], properties=told["parameters"],
        )  # fmt: skip

    async def _infer(self, body: bytes, context: Context) -> bytes:
        arrived = time.perf_counter()
        metrics = self._served.metrics
        status = 200
        try:
            outcome = await self._inferred(body, arrived, context.time_remaining())
            if isinstance(outcome, Refused):
                raise outcome
        except Refused as refused:
            status = refused.kind.status
            metrics.refused(refused.kind)
            raise
        finally:
            metrics.answered(status, time.perf_counter() - arrived)
        return outcome

    def _inferred(self, body: bytes, arrived: float, seconds: float | None) -> asyncio.Future[bytes | Refused]:
        """Raises Refused."""
        model = self._served.loaded()
        future: asyncio.Future[bytes | Refused] = self._loop.create_future()

        def done(outcome: bytes | Refused) -> None:
            if not future.done():  # else its client has gone
                future.set_result(outcome)

        def parse() -> Inference:
            request = grpc_codec.read(body)
            self._served.check_name(request.model_name, request.model_version)
            return grpc_codec.parse(request, model.inputs, model.outputs)

        answer = functools.partial(grpc_codec.answer, model.name, model.version)
        deadline = None if seconds is None else arrived + seconds
        self._served.executor.submit(Job(parse, answer, done, arrived, len(body), deadline))
        return future


async def _at_once(method: Callable[[Any], Any], request: Any, _: Context) -> Any:
    return method(request)


def _established(table: Path, port: int) -> int:
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return 0
    rows = (line.split() for line in lines)
    return sum(row[3] == _ESTABLISHED and int(row[1].rpartition(":")[2], 16) == port for row in rows)
