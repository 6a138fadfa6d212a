"""How a training fails: an outcome that the operator acts on, and words for the reader."""

from __future__ import annotations

import traceback
from pathlib import Path

from modelwright.contract import Failure, Outcome
from modelwright.store import StoreError, Trouble
from modelwright.versions import Conflict, Damaged

from modelwright_trainer.outcome import Failed

_FRAMES = 6
_MESSAGE = 1500
_LIBRARIES = "site-packages"
_OWN = Path(__file__).parent.name


class TrainingFailed(Failed):
    """A command of a training did not succeed."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(outcome.reason, message)
        self.outcome = outcome


class DataFailed(TrainingFailed):
    """Something is wrong with the data; the text names the column and the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(Outcome.DATA_ERROR, message)


class UserFailed(TrainingFailed):
    """Something is wrong with what was asked for."""

    def __init__(self, message: str) -> None:
        super().__init__(Outcome.USER_ERROR, message)


class Preempted(TrainingFailed):
    """The training was told to stop, and did so after a checkpoint."""

    def __init__(self, step: int, saved: int | None) -> None:
        kept = f"checkpoint at step {saved}" if saved is not None else "nothing to save yet"
        super().__init__(Outcome.PREEMPTED, f"stopped by SIGTERM after step {step}: {kept}")


_REFUSED = (Trouble.CREDENTIALS, Trouble.DENIED, Trouble.NO_BUCKET, Trouble.BAD_URI)
# What the collectives' errors say when the other end is gone.
_PEER = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused", "Timed out",
         "timed out", "Socket closed", "NCCL", "remote process exited", "Stop_waiting")  # fmt: skip


def outcome_of(error: BaseException) -> Outcome:
    """What an exception means for the attempt."""
    if isinstance(error, TrainingFailed):
        return error.outcome
    if isinstance(error, StoreError):
        return Outcome.STORE_REFUSED if error.trouble in _REFUSED else Outcome.INFRASTRUCTURE
    if isinstance(error, Conflict):
        return Outcome.VERSION_CONFLICT
    if isinstance(error, Damaged):
        return Outcome.STORE_REFUSED
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate" in str(error):
        return Outcome.OUT_OF_MEMORY
    if isinstance(error, Failed):  # of the rendezvous
        return Outcome.INFRASTRUCTURE
    if isinstance(error, RuntimeError) and type(error).__name__.startswith("Dist"):
        return Outcome.PEER_LOST
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _PEER):
        return Outcome.PEER_LOST
    if isinstance(error, OSError):
        return Outcome.INFRASTRUCTURE
    return Outcome.USER_ERROR


def failure_of(error: BaseException) -> Failure:
    """Type, message and, where the error is not one of ours with words of its own, the frames outside of libraries."""
    told = isinstance(error, Failed | StoreError | Conflict | Damaged)
    frames: tuple[str, ...] = ()
    if not told:
        stack = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in stack if _LIBRARIES not in frame.filename or _OWN in frame.filename] or stack
        frames = tuple(
            f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}: {frame.line or ''}"[:200]
            for frame in own[-_FRAMES:]
        )
    lines = str(error).strip()
    return Failure(
        type=error.reason if isinstance(error, Failed) else type(error).__name__,
        message=lines[:_MESSAGE],
        frames=frames,
    )
