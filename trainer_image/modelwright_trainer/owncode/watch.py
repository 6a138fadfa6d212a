"""Beside the user's code: tells of its progress, saves the checkpoints that it completes, and ends it where it hangs.

The kubelet stops this container and the code at the same moment where the pod is to end, since the code's container is
no main one (see `modelwright.controllers.trainingjob.owncode`). So this one goes on until the code's processes are
gone, which it sees as long as the pod's containers share their process ids, and saves what they left last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from modelwright.contract import Outcome, Progress
from modelwright.owncode import OwnRun, Told
from modelwright.store import Store, StoreError
from pydantic import ValidationError

from modelwright_trainer import progress
from modelwright_trainer.failures import TrainingFailed
from modelwright_trainer.owncode import checkpoints
from modelwright_trainer.owncode.files import Fetched, Folder
from modelwright_trainer.progressfile import Pace

_LOOK_SECONDS = 0.5
# A store that does not answer is not asked at every look.
_PAUSE_SECONDS = 10.0


def others(proc: Path = Path("/proc"), own: int | None = None) -> list[int] | None:
    """The processes but this one and the first, which holds the pod's namespace; None where those of other containers
    cannot be seen, since this one is the first of its own namespace."""
    own = os.getpid() if own is None else own
    if own == 1:
        return None
    found = []
    for entry in proc.iterdir():
        if entry.name.isdigit() and int(entry.name) not in (1, own):
            with contextlib.suppress(OSError):
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if state not in ("Z", "X"):
                    found.append(int(entry.name))
    return found


def _end(processes: Sequence[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


@dataclasses.dataclass
class Watch:
    """`saves`: whether this pod's checkpoints are the job's, which index 0's are."""

    run: OwnRun
    store: Store
    folder: Folder
    index: int
    fetched: Fetched
    clock: Callable[[], float] = time.time
    seen: Callable[[], Sequence[int] | None] = others
    end: Callable[[Sequence[int]], None] = _end
    _told: Told = dataclasses.field(default_factory=Told)
    _updated: float = 0.0
    _complaint: str = ""
    _saved: int | None = None
    _asleep_until: float = 0.0
    _pace: Pace = dataclasses.field(default_factory=Pace)
    _eta: float | None = None
    hung: str = ""
    """Why the code was ended, in words; "" where it was not."""

    def __post_init__(self) -> None:
        # Also where this container was started again: what is saved twice is there once.
        self._saved = self.fetched.resumed_step

    def progress(self) -> Progress:
        """What the pod tells; a file that cannot be read, as in mid-write, changes nothing."""
        self._read()
        told = self._told
        begun = self._updated > 0
        return Progress(
            phase="Publishing" if self.folder.publishing.exists() else "Training" if begun else "Starting",
            attempt=self.run.attempt,
            index=self.index,
            world_size=self.run.workers.world_size,
            epoch=told.epoch,
            epochs=told.epochs,
            step=told.step,
            total_steps=told.total_steps,
            train_loss=told.loss,
            validation_loss=told.validation_loss,
            validation_accuracy=told.validation_accuracy,
            samples_per_second=told.samples_per_second,
            eta_seconds=self._eta,
            last_checkpoint_step=self._saved,
            resumed_from_step=self.fetched.resumed_step,
            updated=self._updated,
        )

    def _read(self) -> None:
        path = self.folder.progress
        try:
            changed = path.stat().st_mtime
            if changed == self._updated:
                return
            self._told, self._updated = Told.model_validate_json(path.read_bytes()), changed
            self._eta = self._pace.eta(self._told.step, self._told.total_steps, changed)
        except OSError:
            return
        except ValidationError as error:
            first = error.errors()[0]
            self._complain(f"{path.name}: {'.'.join(map(str, first['loc']))}: {first['msg']}")

    def _complain(self, words: str) -> None:
        """Once for each thing that is wrong."""
        if words != self._complaint:
            self._complaint = words
            print(f"modelwright: {words}", file=sys.stderr, flush=True)

    def look(self) -> None:
        """Saves the newest checkpoint where it is not saved yet, and ends code that hangs."""
        self._save()
        self._read()
        silent = self.clock() - self._updated
        if self._updated and silent > self.run.stall_seconds and not self.hung and not self.folder.publishing.exists():
            self._hang(silent)

    def _save(self) -> None:
        """What the store says against it is told, and tried again: the code trains on meanwhile."""
        there = checkpoints.complete(self.folder.checkpoint) if self.index == 0 else []
        newest = there[0] if there else None
        if newest is None or (self._saved is not None and newest <= self._saved) or self.clock() < self._asleep_until:
            return
        try:
            if checkpoints.save(
                self.store, self.run, self.fetched.fingerprint, newest, self.folder.checkpoint / str(newest)
            ):
                self._saved, self._complaint = newest, ""
                print(f"checkpoint of step {newest} saved", flush=True)
        except StoreError as error:
            self._complain(f"the checkpoint of step {newest} is not saved yet: {error}")
            self._asleep_until = self.clock() + _PAUSE_SECONDS

    def _hang(self, silent: float) -> None:
        """Ends code that told of its progress, and tells no more. Code that never did so cannot be told from code that
        is at work."""
        patience = f"{self.run.stall_seconds:.0f} s"
        words = f"no progress for {silent:.0f} s (stallTimeout {patience}), after step {self._told.step}"
        there = self.seen()
        if there is None:
            self._complain(
                f"{words}; its processes cannot be seen, and so not ended: leave shareProcessNamespace alone"
            )
            return
        try:
            self.end(there)
        except PermissionError:
            self._complain(f"{words}; its processes are another user's than {os.getuid()}, and cannot be ended")
            return
        self.hung = words
        self._complain(words)

    def finish(self) -> None:
        """After SIGTERM: saves what the code leaves, until its processes are gone or the time is up."""
        ends = self.clock() + self.run.grace_seconds
        self._asleep_until = 0.0
        while self.clock() < ends:
            gone = self.seen() == []  # where they cannot be seen, they may be there
            # What they left before their end is there by now.
            self._save()
            if gone:
                return
            time.sleep(_LOOK_SECONDS)


def watch(run: OwnRun, store: Store, folder: Folder, index: int, stop: threading.Event) -> None:
    """Until `stop`, and then as `Watch.finish`. Raises TrainingFailed (Hung) where the code was ended, OSError where
    the port is taken."""
    one = Watch(run, store, folder, index, folder.read_fetched())
    server = progress.serve(run.progress_port, one.progress)
    try:
        while not stop.wait(_LOOK_SECONDS):
            one.look()
        one.finish()
    finally:
        server.shutdown()
    if one.hung:
        raise TrainingFailed(Outcome.HUNG, one.hung)
