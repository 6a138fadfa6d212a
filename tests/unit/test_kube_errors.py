"""Each answer of the API server becomes the exception for the way to react to it."""

from __future__ import annotations

import json

import pytest
from modelwright.kube import errors
from modelwright.kube.client import watch_event
from modelwright.kube.resources import CONFIGMAPS, JOBS, Resource


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (401, "Unauthorized", errors.Unauthorized),
        (403, "Forbidden", errors.Forbidden),
        (404, "NotFound", errors.NotFound),
        (409, "AlreadyExists", errors.AlreadyExists),
        (409, "Conflict", errors.Conflict),
        (410, "Expired", errors.Gone),
        (422, "Invalid", errors.Invalid),
        (429, "TooManyRequests", errors.TooManyRequests),
        (503, "ServiceUnavailable", errors.ServerError),
        (400, "BadRequest", errors.ApiError),
    ],
)
def test_the_status_decides(code: int, reason: str, kind: type[errors.ApiError]) -> None:
    body = json.dumps({"kind": "Status", "message": "words", "reason": reason, "code": code}).encode()
    error = errors.from_body(code, body, {})
    assert type(error) is kind
    assert (error.message, error.status, error.reason) == ("words", code, reason)


def test_causes_say_which_field() -> None:
    causes = [{"reason": "FieldValueInvalid", "message": "must be positive", "field": "spec.replicas"}]
    error = errors.from_status(422, {"details": {"causes": causes}}, {})
    assert [str(cause) for cause in error.causes] == ["spec.replicas: must be positive"]


@pytest.mark.parametrize(
    ("headers", "details", "seconds"),
    [({"Retry-After": "3"}, {}, 3.0), ({}, {"retryAfterSeconds": 7}, 7.0), ({"Retry-After": "Wed"}, {}, None)],
)
def test_how_long_to_wait_is_read_from_the_header_or_the_details(
    headers: dict[str, str], details: dict[str, int], seconds: float | None
) -> None:
    assert errors.from_status(429, {"details": details}, headers).retry_after == seconds


def test_an_answer_that_is_no_status_is_quoted() -> None:
    error = errors.from_body(502, b"<html>bad gateway</html>", {})
    assert str(error) == "the API server answered 502: <html>bad gateway</html>"


def test_an_error_in_the_midst_of_a_watch_is_the_same_exception() -> None:
    status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version: 1 (9)"}
    with pytest.raises(errors.Gone, match="too old"):
        watch_event({"type": "ERROR", "object": status})


def test_paths() -> None:
    assert JOBS.path(namespace="ns", name="a", subresource="status") == "/apis/batch/v1/namespaces/ns/jobs/a/status"
    assert CONFIGMAPS.path() == "/api/v1/configmaps"
    assert Resource("g", "v1", "things", "Thing", namespaced=False).path(name="a") == "/apis/g/v1/things/a"
    with pytest.raises(ValueError, match="needs its namespace"):
        CONFIGMAPS.path(name="a")
