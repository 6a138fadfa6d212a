"""How an inference may end other than with an answer: one list for HTTP, for gRPC and for the figures."""

from __future__ import annotations

import enum


class Kind(enum.Enum):
    """What went wrong; with the status of HTTP (RFC 9110) and the name of gRPC's status code."""

    BAD_REQUEST = "BadRequest", 400, "INVALID_ARGUMENT"
    NOT_FOUND = "NotFound", 404, "NOT_FOUND"
    OVERLOADED = "Overloaded", 429, "RESOURCE_EXHAUSTED"
    FAILED = "Failed", 500, "INTERNAL"
    OUT_OF_MEMORY = "OutOfMemory", 500, "INTERNAL"
    NOT_READY = "NotReady", 503, "UNAVAILABLE"
    DEADLINE = "DeadlineExceeded", 504, "DEADLINE_EXCEEDED"

    def __init__(self, told: str, status: int, code: str) -> None:
        self.told = told
        """For metrics."""
        self.status = status
        self.code = code


class Refused(Exception):  # noqa: N818 - it reads as what happened
    """Its text is for the client: what is wrong, where, what to do."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
