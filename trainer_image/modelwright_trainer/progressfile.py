"""What each rank tells its pod's wrapper: small files in a folder, each replaced as a whole."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelwright.contract import Progress, RankState

RUN_FOLDER = "MODELWRIGHT_RUN_FOLDER"
JOB_FILE = "MODELWRIGHT_JOB_FILE"
_FIELDS = set(Progress.model_fields) - {"ranks", "attempt", "index", "updated"}


def replace(path: Path, text: str) -> None:
    """Whoever reads it sees the old text or the new one."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text)
    fresh.replace(path)


class Pace:
    """How long a training takes yet, at its mean pace since it was first looked at: with all that goes on between its
    steps, such as checkpoints and validation."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def eta(self, step: int, total: int, now: float) -> float | None:
        """In seconds; None where that cannot be told yet."""
        if self._first is None or step < self._first[0]:
            self._first = (step, now)
        steps, passed = step - self._first[0], now - self._first[1]
        return None if steps < 1 or total < step else (total - step) * passed / steps


class Teller:
    """One rank's side. Only what is really done is told: silence is how a hang is noticed."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._path = folder / f"progress-{rank}.json"
        self._pace = Pace()
        self.told: dict[str, Any] = {"rank": rank, "phase": "Starting", "step": 0}
        self.tell()

    def tell(self, **told: object) -> None:
        """`told` are fields of `contract.Progress`."""
        unknown = set(told) - _FIELDS
        if unknown:
            raise ValueError(f"no fields of Progress: {unknown}")
        self.told.update(told)
        now = time.time()
        trains = self.told["phase"] == "Training"
        eta = self._pace.eta(self.told["step"], self.told.get("total_steps", 0), now) if trains else None
        replace(self._path, json.dumps({**self.told, "eta_seconds": eta, "updated": now}))


def gathered(folder: Path, *, attempt: int, index: int) -> Progress:
    """The pod's progress: that of its lowest rank, and the state of each."""
    told: list[Mapping[str, Any]] = []
    for path in folder.glob("progress-*.json"):
        with contextlib.suppress(OSError, ValueError):
            told.append(json.loads(path.read_text()))
    told.sort(key=lambda one: int(one["rank"]))
    ranks = tuple(RankState(rank=one["rank"], phase=one["phase"], step=one["step"]) for one in told)
    first = {name: value for name, value in told[0].items() if name in _FIELDS} if told else {}
    updated = max((float(one["updated"]) for one in told), default=0.0)
    return Progress(**first, attempt=attempt, index=index, updated=updated, ranks=ranks)
