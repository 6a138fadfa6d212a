"""Why a command of the server ends without having done its work."""

from __future__ import annotations

from modelwright.serving import Reason, ServingFailure


class ServingFailed(Exception):  # noqa: N818 - it reads as what happened
    """Its text is for the reader: what is wrong, where, what to do."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    @property
    def failure(self) -> ServingFailure:
        return ServingFailure(reason=self.reason.reason, message=str(self))


def of(error: BaseException) -> ServingFailed:
    """The failure that an exception is; one that nobody expected is `Internal`, or `OutOfMemory`."""
    if isinstance(error, ServingFailed):
        return error
    if isinstance(error, MemoryError):
        return ServingFailed(Reason.OUT_OF_MEMORY, "memory ran out: raise the container's memory limit")
    return ServingFailed(Reason.INTERNAL, f"{type(error).__name__}: {error}; the log has the stack: please report it")
