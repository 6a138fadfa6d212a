"""The paths of the Open Inference Protocol V2, over HTTP, for the one model version that a pod serves.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from __future__ import annotations

import time

from modelwright_server.executor import RETRY_SECONDS, Job
from modelwright_server.http11 import Answer, Request, Response, error_response, json_response
from modelwright_server.outcomes import Kind, Refused
from modelwright_server.served import SERVER_NAME, Served

EXTENSIONS = ("binary_tensor_data",)


class Protocol:
    """The handler of the port of inference."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._server = {"name": SERVER_NAME, "version": served.server_version, "extensions": EXTENSIONS}
        whole = f"/v2/models/{served.name}"
        paths = (f"{whole}/infer", f"{whole}/versions/{served.version}/infer")
        self._infer_paths = {*paths, *(f"{path}/" for path in paths)}

    def __call__(self, request: Request, answer: Answer) -> None:
        if request.path in self._infer_paths:
            self._infer(request, answer)
        else:
            answer(self._told(request))

    def _infer(self, request: Request, answer: Answer) -> None:
        def answered(response: Response) -> None:
            self._served.metrics.answered(response.status, time.perf_counter() - request.arrived)
            answer(response)

        if request.method != "POST":
            answered(_not_allowed(request, "POST"))
        elif request.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            answered(error_response(415, "this server takes no compressed requests: send it without Content-Encoding"))
        else:
            self._submit(request, answered)

    def _submit(self, request: Request, answered: Answer) -> None:
        from modelwright_server import inference

        def done(outcome: Response | Refused) -> None:
            if isinstance(outcome, Refused):
                self._served.metrics.refused(outcome.kind)
                outcome = _refusal(outcome)
            answered(outcome)

        length = request.headers.get(inference.HEADER_LENGTH)
        try:
            model = self._served.loaded()
            self._served.executor.submit(Job(
                lambda: inference.parse(request.body, length, model.inputs, model.outputs),
                lambda asked, arrays: inference.answer(model.name, model.version, asked, arrays),
                done, request.arrived, len(request.body),
            ))  # fmt: skip
        except Refused as refused:
            done(refused)

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
        return json_response({"ready": self._served.ready}, 200 if self._served.ready else 503)

    def _told_of_model(self, request: Request, name: str, rest: list[str]) -> Response:
        served, version = self._served, None
        if rest[:1] == ["versions"] and len(rest) > 1:
            version, rest = rest[1], rest[2:]
        try:
            served.check_name(name, version)
            if rest not in ([], ["ready"]):
                return error_response(404, f"{request.path[:200]}: there is no such path")
            if request.method not in ("GET", "HEAD"):
                return _not_allowed(request, "GET, HEAD")
            if rest == ["ready"]:
                return json_response({"name": name, "ready": served.ready}, 200 if served.ready else 503)
            return json_response(served.loaded().metadata())
        except Refused as refused:
            return _refusal(refused)


def _refusal(refused: Refused) -> Response:
    retry = ((b"retry-after", b"%d" % RETRY_SECONDS),) if refused.kind is Kind.OVERLOADED else ()
    return error_response(refused.kind.status, str(refused), retry)


def _not_allowed(request: Request, allowed: str) -> Response:
    return error_response(405, f"{request.method} is not for this path; {allowed} is", ((b"allow", allowed.encode()),))
