"""How much the pod's GPUs are used, as nvidia-smi says, which the container has wherever it has GPUs."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import time
from collections.abc import Callable

_QUERY = ("--query-gpu=utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits")
# A look takes a tenth of a second, and whoever asks for the progress may ask often.
_LOOK_SECONDS = 10.0
_PATIENCE_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Use:
    """Means over the pod's GPUs, in percent; None where it is not told, as of a part of a GPU."""

    percent: float | None = None
    memory_percent: float | None = None


def parsed(text: str) -> Use:
    """Of nvidia-smi's answer: a line for each GPU, with what it does not know as `[N/A]`."""
    busy: list[float] = []
    filled: list[float] = []
    for line in text.splitlines():
        columns = [_number(column) for column in line.split(",")]
        if len(columns) == 3:
            use, held, whole = columns
            if use is not None:
                busy.append(use)
            if held is not None and whole:
                filled.append(100 * held / whole)
    return Use(_mean(busy), _mean(filled))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _mean(figures: list[float]) -> float | None:
    return sum(figures) / len(figures) if figures else None


def ask() -> str:
    """What nvidia-smi says; "" where there is none, or no answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, *_QUERY], capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=True
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


class Gpus:
    """Their use, looked at now and then."""

    def __init__(self, ask: Callable[[], str] = ask, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask, self._clock = ask, clock
        self._looked = float("-inf")
        self._use = Use()

    def use(self) -> Use:
        if self._clock() - self._looked >= _LOOK_SECONDS:
            self._looked = self._clock()
            self._use = parsed(self._ask())
        return self._use
