"""The server's own endpoints of the Open Inference Protocol, version 2: what it is, and whether it lives and is ready.

https://github.com/open-inference/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

NAME = "modelwright-server"


def build_app(version: str) -> Starlette:
    """The application; `version` is what the server's metadata says."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.ready = True
        yield
        app.state.ready = False

    async def metadata(_: Request) -> JSONResponse:
        return JSONResponse({"name": NAME, "version": version, "extensions": []})

    async def live(_: Request) -> JSONResponse:
        return JSONResponse({"live": True})

    async def ready(request: Request) -> JSONResponse:
        is_ready = bool(request.app.state.ready)
        return JSONResponse({"ready": is_ready}, status_code=200 if is_ready else 503)

    routes = [Route("/v2", metadata), Route("/v2/health/live", live), Route("/v2/health/ready", ready)]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.state.ready = False
    return app
