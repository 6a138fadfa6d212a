"""`own fetch`, `own progress`, `own publish`: the containers around the user's own."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from modelwright.contract import INDEX_VARIABLE, TERMINATION_PATH, Outcome, Summary
from modelwright.owncode import FOLDER, OwnRun
from modelwright.store import Store
from pydantic import ValidationError

from modelwright_trainer.failures import UserFailed, failure_of, outcome_of
from modelwright_trainer.owncode.files import Folder


def main(
    command: str, job: Path, *, root: Path = Path(FOLDER), termination: Path = Path(TERMINATION_PATH)
) -> int:  # fmt: skip
    """The exit code; see `contract.Outcome`."""
    stop = threading.Event()

    def on_stop(_signal: int, _frame: FrameType | None) -> None:
        stop.set()
        if command != "progress":
            # Nothing is half done in the store: a manifest comes last, and the rest is named by content.
            os._exit(Outcome.PREEMPTED.code)

    signal.signal(signal.SIGTERM, on_stop)
    signal.signal(signal.SIGINT, on_stop)
    index, attempt = int(os.environ.get(INDEX_VARIABLE, "0")), 1
    try:
        run = _read(job)
        attempt = run.attempt
        summary = _run(command, run, Folder(root), index, stop)
    except Exception as error:
        outcome = outcome_of(error)
        summary = Summary(
            outcome=outcome.reason, exit_code=outcome.code, attempt=attempt, index=index, failure=failure_of(error)
        )
    said = f": {summary.failure.message}" if summary.failure else ""
    print(f"modelwright_trainer: {summary.outcome}{said}", file=sys.stderr, flush=True)
    if termination.exists():
        with contextlib.suppress(OSError):  # the exit code says the most important
            termination.write_text(summary.to_message())
    return summary.exit_code


def _run(command: str, run: OwnRun, folder: Folder, index: int, stop: threading.Event) -> Summary:
    store = Store(run.store)
    if command == "publish":
        from modelwright_trainer.owncode.publish import publish

        return publish(run, store, folder, index)
    if command == "fetch":
        from modelwright_trainer.owncode.fetch import fetch

        fetch(run, store, folder, index)
    else:
        from modelwright_trainer.owncode.watch import watch

        watch(run, store, folder, index, stop)
    return Summary(
        outcome=Outcome.SUCCEEDED.reason, exit_code=Outcome.SUCCEEDED.code, attempt=run.attempt, index=index
    )  # fmt: skip


def _read(path: Path) -> OwnRun:
    try:
        return OwnRun.model_validate_json(path.read_text())
    except OSError as error:
        raise UserFailed(f"{path}: cannot read the job ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise UserFailed(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
