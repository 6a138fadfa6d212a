"""The paths of port 8080, for the one model version that a pod serves: those of the Open Inference Protocol V2, what it
has beside (named columns, the OpenAPI document), and as much of the V1 protocol as clients of one model use.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from __future__ import annotations

import time

from modelwright_server.executor import RETRY_SECONDS, Job
from modelwright_server.http11 import Answer, Request, Response, error_response, json_response
from modelwright_server.outcomes import Kind, Refused
from modelwright_server.served import SERVER_NAME, Served

EXTENSIONS = ("binary_tensor_data",)
OPENAPI_PATH = "/openapi.json"


class Protocol:
    """The handler of the port of inference."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._server = {"name": SERVER_NAME, "version": served.server_version, "extensions": EXTENSIONS}
        whole, v1 = f"/v2/models/{served.name}", f"/v1/models/{served.name}"
        self._v1 = ("/v1/models", v1)
        paths = {
            prefix + path: name
            for prefix in (whole, f"{whole}/versions/{served.version}")
            for path, name in (("/infer", "TENSORS"), ("/predict", "RECORDS"))
        }
        paths[f"{v1}:predict"] = "INSTANCES"
        self._forms = {**paths, **{f"{path}/": name for path, name in paths.items()}}

    def __call__(self, request: Request, answer: Answer) -> None:
        form = self._forms.get(request.path)
        if form:
            self._infer(form, request, answer)
        else:
            answer(self._told(request))

    def _infer(self, form: str, request: Request, answer: Answer) -> None:
        def answered(response: Response) -> None:
            self._served.metrics.answered(response.status, time.perf_counter() - request.arrived)
            answer(response)

        if request.method != "POST":
            answered(_not_allowed(request, "POST"))
        elif request.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            answered(error_response(415, "this server takes no compressed requests: send it without Content-Encoding"))
        else:
            self._submit(form, request, answered)

    def _submit(self, name: str, request: Request, answered: Answer) -> None:
        from modelwright_server import forms

        form: forms.Form = getattr(forms, name)

        def done(outcome: Response | Refused) -> None:
            if isinstance(outcome, Refused):
                self._served.metrics.refused(outcome.kind)
                outcome = _refusal(outcome)
            answered(outcome)

        try:
            model = self._served.loaded()
            self._served.executor.submit(Job(
                lambda: form.read(model, request), lambda asked, arrays: form.write(model, asked, arrays),
                done, request.arrived, len(request.body),
            ))  # fmt: skip
        except Refused as refused:
            done(refused)

    def _told(self, request: Request) -> Response:
        path = request.path.rstrip("/")
        if path == OPENAPI_PATH or path in self._v1:
            return self._told_beside(request, path)
        if not path.startswith("/v2"):
            told = f"there is no such path; the protocol's begin with /v2, and {OPENAPI_PATH} lists all"
            return error_response(404, f"{path[:200] or '/'}: {told}")
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

    def _told_beside(self, request: Request, path: str) -> Response:
        """The OpenAPI document, and what the V1 protocol tells."""
        if request.method not in ("GET", "HEAD"):
            return _not_allowed(request, "GET, HEAD")
        served = self._served
        if path == self._v1[0]:
            return json_response({"models": [served.name]})
        if path == self._v1[1]:
            return json_response({"name": served.name, "ready": served.ready}, 200 if served.ready else 503)
        try:
            model = served.loaded()
        except Refused as refused:
            return _refusal(refused)
        from modelwright_server import openapi

        return json_response(openapi.document(model, served.server_version))

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
