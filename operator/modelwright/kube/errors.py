"""What the API server answers when it does not do what was asked, one exception per way to react to it."""

# The names are the API's own reasons; `NotFoundError` would be one more word for the same.
# ruff: noqa: N818

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Cause:
    """One thing wrong with a refused object; `field` is a path like `spec.template.spec.containers`."""

    reason: str
    message: str
    field: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class ApiError(Exception):
    """An answer that is no success. `status` is HTTP's (0 where there was no answer), `reason` the API's word."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        reason: str = "",
        causes: tuple[Cause, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.reason = reason
        self.causes = causes
        self.retry_after = retry_after
        """Seconds that the server asked to wait before another try."""


class Unauthorized(ApiError):
    """401: the credentials are not, or no longer, valid."""


class Forbidden(ApiError):
    """403: by a role, a quota, or since the namespace is going away."""

    @property
    def namespace_is_terminating(self) -> bool:
        return any(cause.reason == "NamespaceTerminating" for cause in self.causes)


class NotFound(ApiError):
    """404: neither the object nor, with a CRD missing, perhaps its resource."""


class AlreadyExists(ApiError):
    """409 to a create."""


class Conflict(ApiError):
    """409: the object is no longer the one that was read (resourceVersion or uid), or another manager's field."""


class Gone(ApiError):
    """410: the server no longer knows that resource version or continue token; only a fresh list helps."""


class Invalid(ApiError):
    """422: the object was refused; `causes` say which fields and why."""


class TooManyRequests(ApiError):
    """429: the server did nothing, and asks for patience."""


class ServerError(ApiError):
    """5xx: whether the server did what was asked is not known."""


class Unreachable(ApiError):
    """No answer: refused, cut or timed out. Whether the server did what was asked is not known."""


_BY_STATUS: Mapping[int, type[ApiError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    410: Gone,
    422: Invalid,
    429: TooManyRequests,
}


def _retry_after(headers: Mapping[str, str], details: Mapping[str, Any]) -> float | None:
    with contextlib.suppress(KeyError, ValueError):
        return float(headers["Retry-After"])
    seconds = details.get("retryAfterSeconds")
    return float(seconds) if seconds else None


def from_status(code: int, status: Mapping[str, Any], headers: Mapping[str, str]) -> ApiError:
    """The exception for a `metav1.Status`, from a response's body or from a watch's ERROR event."""
    details = status.get("details") or {}
    reason = str(status.get("reason") or "")
    causes = tuple(
        Cause(str(one.get("reason", "")), str(one.get("message", "")), str(one.get("field", "")))
        for one in details.get("causes") or ()
    )
    if code == 409:
        kind: type[ApiError] = AlreadyExists if reason == "AlreadyExists" else Conflict
    else:
        kind = _BY_STATUS.get(code, ServerError if code >= 500 else ApiError)
    return kind(
        str(status.get("message") or f"the API server answered {code}"),
        status=code,
        reason=reason,
        causes=causes,
        retry_after=_retry_after(headers, details),
    )


def from_body(code: int, body: bytes, headers: Mapping[str, str]) -> ApiError:
    """As `from_status`; a body that is no Status (a proxy's page, Go's plain text) becomes the message."""
    try:
        status = json.loads(body)
    except ValueError:
        status = None
    if not isinstance(status, dict) or status.get("kind") != "Status":
        text = body[:300].decode(errors="replace").strip()
        status = {"message": f"the API server answered {code}" + (f": {text}" if text else "")}
    return from_status(code, status, headers)
