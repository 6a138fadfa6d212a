"""Steps that a person can wait for: which one runs, for how long, how long it usually takes, and why it failed.

A step's usual duration is the median of its last runs on this machine, kept beside the other caches; before its first
run it is the estimate that the caller gives. A command that fails ends in `StepFailed` with the one line of its output
that matters and the path of the log that holds the rest.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

REMEMBERED_RUNS = 5
_TICK_SECONDS = 0.5
_PLAIN_TICK_SECONDS = 30.0
# In the order of their weight: the first pattern that a log has names its cause, whatever follows.
_CAUSES = (
    re.compile(r"^(E: |error: |Error: |ERROR[: ]|fatal: |FATAL|F\d{4} |panic: )", re.IGNORECASE),
    re.compile(r"^\s*\S*(Error|Exception): "),
    re.compile(
        r"\b(fatal|failed|cannot|denied|refused|no such|not found|invalid|unable|address already in use)\b", re.I
    ),
    re.compile(r"^E\d{4} "),
)


def cache_home() -> Path:
    """The folder of everything that can be built again: binaries, base images, containerd's images, step durations."""
    chosen = os.environ.get("MODELWRIGHT_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelwright"


class StepFailed(Exception):  # noqa: N818 - it reads as what happened
    """A step did not succeed. `reason` is one line for the reader, `remedy` what to do, `log` where the rest stands;
    `output` is all that a failed command printed."""

    def __init__(self, reason: str, *, remedy: str = "", log: Path | None = None, output: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy
        self.log = log
        self.output = output

    def __str__(self) -> str:
        lines = [self.reason]
        if self.remedy:
            lines.append(f"  to do: {self.remedy}")
        if self.log:
            lines.append(f"  log:   {self.log}")
        return "\n".join(lines)


class Hopeless(StepFailed):
    """What is waited for cannot come any more."""


def telling_line(output: str) -> str:
    """The line of a command's output that tells best why it failed: a stated cause, else the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for cause in _CAUSES:
        for line in lines:
            if cause.search(line):
                return line
    return lines[-1] if lines else "(it printed nothing)"


class Durations:
    """The last durations of each step, in seconds, in a JSON file that may be lost at any time."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or cache_home() / "durations.json"

    def _load(self) -> dict[str, list[float]]:
        try:
            loaded = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return loaded if isinstance(loaded, dict) else {}

    def usual(self, key: str) -> float | None:
        runs = self._load().get(key)
        return statistics.median(runs) if runs else None

    def record(self, key: str, seconds: float) -> None:
        durations = self._load()
        durations[key] = [*durations.get(key, []), round(seconds, 1)][-REMEMBERED_RUNS:]
        with contextlib.suppress(OSError):  # a full or read-only cache must not fail the step that was measured
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self.path.with_suffix(f".{os.getpid()}")
            fresh.write_text(json.dumps(durations, indent=1, sort_keys=True))
            fresh.replace(self.path)


def human(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 05 s`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class Step:
    """A running step; `note` says how far it is."""

    def __init__(self, title: str, usual: float | None) -> None:
        self.title = title
        self.usual = usual
        self.detail = ""
        self.started = time.monotonic()

    def note(self, detail: str) -> None:
        self.detail = detail

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def line(self) -> str:
        usual = f", usually {human(self.usual)}" if self.usual is not None else ""
        detail = f" · {self.detail}" if self.detail else ""
        return f"{self.title}  {human(self.seconds)}{usual}{detail}"


class Steps:
    """Prints steps: on a terminal one living line each; in a log a line at the start, every half minute, at the end."""

    def __init__(self, *, durations: Durations | None = None, quiet: bool = False) -> None:
        self.durations = durations or Durations()
        self.quiet = quiet
        self.terminal = sys.stderr.isatty()
        self.began = time.monotonic()

    @contextlib.contextmanager
    def step(self, title: str, *, key: str = "", usual: float | None = None) -> Iterator[Step]:
        """Runs the body as a step. `key` names it in the remembered durations (default: the title); `usual` is the
        estimate in seconds before the first run."""
        key = key or title
        remembered = self.durations.usual(key)
        step = Step(title, remembered if remembered is not None else usual)
        stop = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(step, stop), daemon=True)
        if not self.terminal and (step.usual or 0) >= _PLAIN_TICK_SECONDS:
            self._print(f"  … {title}, usually {human(step.usual or 0)}")
        ticker.start()
        try:
            yield step
        except BaseException:
            self._end(ticker, stop)
            self._print(f"  ✗ {title}  {human(step.seconds)}")
            raise
        self._end(ticker, stop)
        self.durations.record(key, step.seconds)
        detail = f"  ({step.detail})" if step.detail else ""
        self._print(f"  ✓ {title}  {human(step.seconds)}{detail}")

    def _tick(self, step: Step, stop: threading.Event) -> None:
        while not stop.wait(_TICK_SECONDS if self.terminal else _PLAIN_TICK_SECONDS):
            if self.quiet:
                continue
            if self.terminal:
                sys.stderr.write(f"\r\x1b[K  … {step.line()}")
                sys.stderr.flush()
            else:
                self._print(f"  … {step.line()}")

    def _end(self, ticker: threading.Thread, stop: threading.Event) -> None:
        stop.set()
        ticker.join()
        if self.terminal and not self.quiet:
            sys.stderr.write("\r\x1b[K")

    def _print(self, line: str) -> None:
        if not self.quiet:
            print(line, file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        self._print(line)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


def run(
    command: Sequence[str | Path],
    *,
    log: Path | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    timeout: float | None = None,
    remedy: str = "",
    on_line: Callable[[str], None] | None = None,
) -> str:
    """Runs a command to its end and returns its stdout and stderr together.

    `env` is added to this process's environment. With `log` the output is appended there as it comes. Raises
    `StepFailed` with the telling line where the command is missing, fails, or outlasts `timeout` seconds.
    """
    words = [str(word) for word in command]
    sink = None
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
        sink = log.open("a", buffering=1)
        sink.write(f"\n$ {' '.join(words)}\n")
    try:
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                text=True,
                errors="replace",
            )
        except FileNotFoundError as missing:
            raise StepFailed(f"{words[0]}: no such command", remedy=remedy, log=log) from missing
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            process.kill()

        timer = threading.Timer(timeout, expire) if timeout else None
        if timer:
            timer.start()
        try:
            if stdin is not None and process.stdin:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(stdin)
                    process.stdin.close()
            output: list[str] = []
            for line in process.stdout or ():
                output.append(line)
                if sink:
                    sink.write(line)
                if on_line:
                    on_line(line.rstrip("\n"))
            code = process.wait()
        finally:
            if timer:
                timer.cancel()
            if process.poll() is None:
                process.kill()
                process.wait()
        text = "".join(output)
        name = Path(words[0]).name
        if expired.is_set():
            raise StepFailed(
                f"{name} did not end within {human(timeout or 0)}: {telling_line(text)}", remedy=remedy, log=log
            )
        if code != 0:
            raise StepFailed(f"{name} failed ({code}): {telling_line(text)}", remedy=remedy, log=log, output=text)
        return text
    finally:
        if sink:
            sink.close()


def wait_for(
    what: str, check: Callable[[], object], *, seconds: float, every: float = 0.2, log: Path | None = None
) -> None:
    """Waits until `check` returns something true. An exception counts as not yet, and its text ends in the failure;
    `Hopeless` ends the wait at once."""
    deadline = time.monotonic() + seconds
    last = ""
    while True:
        try:
            if check():
                return
        except Hopeless:
            raise
        except Exception as error:
            last = telling_line(str(error))
        if time.monotonic() > deadline:
            raise StepFailed(f"{what}: not within {human(seconds)}{f' ({last})' if last else ''}", log=log)
        time.sleep(every)
