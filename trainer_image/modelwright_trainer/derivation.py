"""How a Job that makes a version begins and ends: its run from the environment, its summary as termination message."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Protocol, Self, TypeVar

from modelwright.contract import Outcome, StoreAccess
from modelwright.derivation import DERIVATION_VARIABLE, DerivationSummary
from modelwright.store import Store
from pydantic import ValidationError

from modelwright_trainer.failures import UserFailed, failure_of, outcome_of


class Run(Protocol):
    """What the runs of such Jobs share."""

    @property
    def store(self) -> StoreAccess: ...
    @classmethod
    def model_validate_json(cls, json_data: str) -> Self: ...


OfRun = TypeVar("OfRun", bound=Run)


def ended(
    kind: type[OfRun],
    work: Callable[[OfRun, Store, Path], DerivationSummary],
    *,
    termination: Path,
    environment: Mapping[str, str],
) -> int:
    """Does the work in a scratch folder, and gives the exit code; see `contract.Outcome`."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        # Nothing is half done in the store: the manifest comes last, and the rest is named by content.
        os._exit(Outcome.PREEMPTED.code)

    signal.signal(signal.SIGTERM, stop)
    try:
        run = _read(kind, environment)
        store = Store(run.store, environment)
        with tempfile.TemporaryDirectory(prefix="modelwright-", ignore_cleanup_errors=True) as folder:
            summary = work(run, store, Path(folder))
    except Exception as error:
        summary = DerivationSummary(outcome=outcome_of(error).reason, failure=failure_of(error))
    said = summary.failure.message if summary.failure else summary.artifact and summary.artifact.uri
    print(f"modelwright_trainer: {summary.outcome}: {said}", file=sys.stderr, flush=True)
    if termination.exists():
        termination.write_text(summary.to_message())
    return Outcome.named(summary.outcome).code


def _read(kind: type[OfRun], environment: Mapping[str, str]) -> OfRun:
    try:
        return kind.model_validate_json(environment.get(DERIVATION_VARIABLE, ""))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserFailed(f"{DERIVATION_VARIABLE}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
