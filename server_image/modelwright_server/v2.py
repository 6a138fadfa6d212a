"""The paths of the Open Inference Protocol V2, over HTTP, for the one model version that a pod serves.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from modelwright.serving import ServingRun

from modelwright_server.http11 import Answer, Request, Response, error_response, json_response
from modelwright_server.metrics import Metrics
from modelwright_server.workers import Workers

if TYPE_CHECKING:
    from modelwright_server.engine import Engine
    from modelwright_server.loading import Loaded

log = logging.getLogger(__name__)

SERVER_NAME = "modelwright-server"
EXTENSIONS = ("binary_tensor_data",)
PLATFORM = "onnxruntime_onnx"


class Model:
    """A loaded version, as the protocol tells of it and asks it."""

    def __init__(self, run: ServingRun, loaded: Loaded) -> None:
        self.name, self.version = run.model, run.version_label
        self.engine: Engine = loaded.engine
        self._inputs = {one.name: one for one in loaded.engine.inputs}
        self._outputs = {one.name: one for one in loaded.engine.outputs}
        self.golden = loaded.warnings[0].reason if loaded.warnings else "Agreed"

    def metadata(self) -> dict[str, Any]:
        def told(one: Any) -> dict[str, Any]:
            return {"name": one.name, "datatype": one.datatype, "shape": one.lengths}

        return {
            "name": self.name,
            "versions": [self.version],
            "platform": PLATFORM,
            "inputs": [told(one) for one in self._inputs.values()],
            "outputs": [told(one) for one in self._outputs.values()],
            "parameters": {"golden_samples": self.golden},
        }

    def infer(self, request: Request) -> Response:
        """Never raises: what a client did wrong is a 4xx, a failing inference a 500. Called on worker threads."""
        from modelwright_server import inference
        from modelwright_server.engine import InferenceFailed

        try:
            asked = inference.parse(
                request.body, request.headers.get(inference.HEADER_LENGTH), self._inputs, self._outputs
            )
            arrays = self.engine.run(asked.inputs, [wanted.spec.name for wanted in asked.outputs])
            return inference.answer(self.name, self.version, asked, arrays)
        except inference.BadRequest as error:
            return error_response(400, str(error))
        except InferenceFailed as error:
            log.warning("an inference failed: %s", error)
            return error_response(500, f"the inference failed: {error}")
        except MemoryError:
            log.warning("memory ran out in an inference")
            return error_response(500, "the inference failed: memory ran out; send fewer rows at once")
        except Exception as error:
            log.exception("an inference failed")
            return error_response(500, f"the server failed: {type(error).__name__}; its log says why")


class Protocol:
    """The handler of the port of inference. Inferences run on `workers`, everything else on the loop."""

    def __init__(self, run: ServingRun, server_version: str, metrics: Metrics, workers: Workers) -> None:
        self.model: Model | None = None
        """None until the version may serve."""
        self.ready = False
        """So until SIGTERM, after which requests are still answered for a while."""
        self._name, self._version = run.model, run.version_label
        self._metrics = metrics
        self._workers = workers
        self._loop = asyncio.get_running_loop()
        self._server = {"name": SERVER_NAME, "version": server_version, "extensions": EXTENSIONS}
        whole = f"/v2/models/{self._name}"
        paths = (f"{whole}/infer", f"{whole}/versions/{self._version}/infer")
        self._infer_paths = {*paths, *(f"{path}/" for path in paths)}

    def __call__(self, request: Request, answer: Answer) -> None:
        if request.path in self._infer_paths:
            self._infer(request, answer)
        else:
            answer(self._told(request))

    def _infer(self, request: Request, answer: Answer) -> None:
        def answered(response: Response) -> None:
            self._metrics.answered(response.status, time.perf_counter() - request.arrived)
            answer(response)

        model = self.model
        if request.method != "POST":
            answered(_not_allowed(request, "POST"))
        elif request.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            answered(error_response(415, "this server takes no compressed requests: send it without Content-Encoding"))
        elif model is None:
            answered(error_response(503, f"model {self._name} is not ready yet"))
        else:
            loop = self._loop
            self._workers.submit(lambda: loop.call_soon_threadsafe(answered, model.infer(request)))

    def _told(self, request: Request) -> Response:
        path = request.path.rstrip("/")
        if not path.startswith("/v2"):
            return error_response(404, f"{path[:200] or '/'}: there is no such path; the protocol's begin with /v2")
        parts = path.split("/")[2:]
        if parts[:1] == ["models"] and len(parts) > 1:
            return self._told_of_model(request, parts[1], parts[2:])
        if path not in ("/v2", "/v2/health/live", "/v2/health/ready"):
            return error_response(404, f"{path[:200]}: there is no such path")
        if request.method not in ("GET", "HEAD"):
            return _not_allowed(request, "GET, HEAD")
        if path == "/v2":
            return json_response(self._server)
        if path == "/v2/health/live":
            return json_response({"live": True})
        return json_response({"ready": self.ready}, 200 if self.ready else 503)

    def _told_of_model(self, request: Request, name: str, rest: list[str]) -> Response:
        if name != self._name:
            return error_response(404, f"there is no model {name[:200]!r} here; this server has {self._name!r}")
        if rest[:1] == ["versions"] and len(rest) > 1:
            if rest[1] != self._version:
                return error_response(
                    404, f"there is no version {rest[1][:200]!r} of {name!r} here; this server has {self._version!r}"
                )
            rest = rest[2:]
        if rest not in ([], ["ready"]):
            return error_response(404, f"{request.path[:200]}: there is no such path")
        if request.method not in ("GET", "HEAD"):
            return _not_allowed(request, "GET, HEAD")
        if rest == ["ready"]:
            return json_response({"name": name, "ready": self.ready}, 200 if self.ready else 503)
        if self.model is None:
            return error_response(503, f"model {name} is not ready yet")
        return json_response(self.model.metadata())


def _not_allowed(request: Request, allowed: str) -> Response:
    return error_response(405, f"{request.method} is not for this path; {allowed} is", ((b"allow", allowed.encode()),))
