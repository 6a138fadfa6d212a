"""The pod's first process: starts torchrun, serves its progress, and tells how it ended.

torchrun turns every exit code into 1, knows nothing of hangs, and waits 30 s after SIGTERM; so this stands around it.
The workers' outcomes come as files of the run folder; one that left none was killed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO

from modelwright.contract import INDEX_VARIABLE, TERMINATION_PATH, Failure, Outcome, Summary, TrainingRun, cause
from pydantic import ValidationError

from modelwright_trainer import progress, progressfile
from modelwright_trainer.failures import TrainingFailed, UserFailed, failure_of, outcome_of
from modelwright_trainer.gpus import Gpus
from modelwright_trainer.hyperparameters import hyperparameters
from modelwright_trainer.limits import binary, memory, memory_peak, oom_kills, threads
from modelwright_trainer.rendezvous import Rendezvous, await_master, interface_of, local_address

_LOOK_SECONDS = 0.2
_KILLED = re.compile(r"exitcode\s*:\s*(-?\d+)")
_STACK_LINES = 6
_LOG_LINES, _LOG_LETTERS = 5, 160
_TORCHRUN = re.compile(r"[EWI]\d{4} .*torch/distributed/")
_TORCHRUN_RAISED = re.compile(r"torch\.distributed\.elastic\..*(ChildFailedError|SignalException)")


class Stopped(TrainingFailed):
    """SIGTERM came before the workers ran."""

    def __init__(self) -> None:
        super().__init__(Outcome.PREEMPTED, "stopped by SIGTERM before the training began")


def read_job(path: Path) -> TrainingRun:
    """Raises UserFailed with the wrong field's name: before torch is imported, which takes seconds."""
    try:
        run = TrainingRun.model_validate_json(path.read_text())
    except OSError as error:
        raise UserFailed(f"{path}: cannot read the job ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise UserFailed(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    hyperparameters(run.trainer)
    if run.early_stopping and run.data.fractions and not run.data.fractions.validation:
        raise UserFailed("earlyStopping looks at the validation split, and data.split.validation is 0")
    return run


def main(job: Path, scratch: Path | None = None, *, termination: Path = Path(TERMINATION_PATH)) -> int:
    """The exit code; see `contract.Outcome`. `scratch` is a folder for the pod's files, kept; None makes one, and
    removes it."""
    index = int(os.environ.get(INDEX_VARIABLE, "0"))
    stop = threading.Event()

    def on_stop(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_stop)
    signal.signal(signal.SIGINT, on_stop)
    attempt = 1
    try:
        run = read_job(job)
        attempt = run.attempt
        with _folder(scratch) as folder:
            summary = Pod(run, job, index, folder, stop).run()
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


@contextlib.contextmanager
def _folder(scratch: Path | None) -> Iterator[Path]:
    if scratch:
        scratch.mkdir(parents=True, exist_ok=True)
        yield scratch
        return
    with tempfile.TemporaryDirectory(prefix="modelwright-", ignore_cleanup_errors=True) as made:
        yield Path(made)


@dataclasses.dataclass
class Pod:
    """One attempt in one pod. `folder` is scratch that the pod's processes share."""

    run_: TrainingRun
    job: Path
    index: int
    folder: Path
    stop: threading.Event
    gpus: Gpus = dataclasses.field(default_factory=Gpus)

    def run(self) -> Summary:
        """Raises Failed where the workers could not be started."""
        if self.index >= self.run_.workers.replicas:
            raise UserFailed(f"{INDEX_VARIABLE} is {self.index}, and there are {self.run_.workers.replicas} workers")
        server = progress.serve(self.run_.progress_port, self.told)
        try:
            return self._supervised()
        finally:
            server.shutdown()

    def told(self) -> progressfile.Progress:
        """What the pod tells others: its progress, and how busy its GPUs are."""
        use = self.gpus.use()
        figures = {"gpu_percent": use.percent, "gpu_memory_percent": use.memory_percent}
        return self.progress().model_copy(update=figures)

    def progress(self) -> progressfile.Progress:
        return progressfile.gathered(self.folder, attempt=self.run_.attempt, index=self.index)

    def _master(self) -> str:
        workers = self.run_.workers
        if workers.replicas == 1:
            return "127.0.0.1"
        meeting = Rendezvous(
            workers.master, workers.master_port, self.index, workers.replicas, workers.rendezvous_seconds
        )

        def sleep(seconds: float) -> None:
            if self.stop.wait(seconds):
                raise Stopped

        return await_master(meeting, sleep=sleep)

    def _environment(self, master: str) -> dict[str, str]:
        run = self.run_
        given = dict(os.environ)
        own = interface_of(local_address(master, run.workers.master_port))
        if own:
            given.setdefault("GLOO_SOCKET_IFNAME", own)
            if own != "lo":
                given.setdefault("NCCL_SOCKET_IFNAME", own)
        given.setdefault("OMP_NUM_THREADS", str(threads(run.workers.processes_per_worker)))
        given.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not deterministic
        return {
            **given,
            "PET_SHUTDOWN_TIMEOUT": str(max(1, int(run.grace_seconds))),
            progressfile.RUN_FOLDER: str(self.folder),
            progressfile.JOB_FILE: str(self.job),
        }

    def _command(self, master: str) -> list[str]:
        workers = self.run_.workers
        return [
            sys.executable, "-m", "torch.distributed.run", "--rdzv-backend=static", f"--nnodes={workers.replicas}",
            f"--node-rank={self.index}", f"--nproc-per-node={workers.processes_per_worker}", f"--master-addr={master}",
            f"--master-port={workers.master_port}", "--max-restarts=0", "--monitor-interval=0.1",
            f"--rdzv-conf=timeout={int(workers.rendezvous_seconds)}", "-m", "modelwright_trainer.worker",
        ]  # fmt: skip

    def _supervised(self) -> Summary:
        master = self._master()
        killed_before = oom_kills()
        tail: deque[str] = deque(maxlen=200)
        # In a session of its own a Ctrl-C at a terminal reaches only us, who pass it on once.
        log: deque[str] = deque(maxlen=200)
        with subprocess.Popen(
            self._command(master), env=self._environment(master), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", start_new_session=True,
        ) as torchrun:  # fmt: skip
            readers = [
                threading.Thread(target=_echo, args=(torchrun.stdout, sys.stdout, log), daemon=True),
                threading.Thread(target=_echo, args=(torchrun.stderr, sys.stderr, log, tail), daemon=True),
            ]
            for reader in readers:
                reader.start()
            hung = self._watch(torchrun)
            _end(self.folder)
            for reader in readers:
                reader.join(timeout=5)
        if hung:
            summary = self._summary(Outcome.HUNG, hung)
        else:
            summary = self._told(torchrun.returncode, list(tail), oom_kills() > killed_before)
        return summary.model_copy(update={"log": last_lines(list(log))})

    def _watch(self, torchrun: subprocess.Popen[str]) -> Failure | None:
        """Waits for the end; passes SIGTERM on once. A failure where the workers hang."""
        forwarded = False
        began = time.time()
        while torchrun.poll() is None:
            if self.stop.is_set() and not forwarded:
                torchrun.send_signal(signal.SIGTERM)
                forwarded = True
            seen = self.progress()
            silent = time.time() - max(seen.updated, began)
            if silent > self._patience(seen.phase):
                return self._hang(silent)
            with contextlib.suppress(subprocess.TimeoutExpired):
                torchrun.wait(_LOOK_SECONDS)
        return None

    def _patience(self, phase: str) -> float:
        """Seconds of silence that are no hang. At the start the ranks import torch, from a cold disk perhaps, and wait
        for pods whose images are still pulled."""
        stall = self.run_.stall_seconds
        return stall + self.run_.workers.rendezvous_seconds if phase == "Starting" else stall

    def _hang(self, silent: float) -> Failure:
        for worker in _processes(self.folder, ranks=True):
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGUSR1)
        time.sleep(1)
        frames: list[str] = []
        for path in sorted(self.folder.glob("stacks-*.txt")):
            lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if "File" in line]
            frames += [f"{path.stem.replace('stacks', 'rank')}: {line}" for line in lines[:_STACK_LINES]]
        seen = self.progress()
        return Failure(
            type="Hung",
            message=f"no progress for {silent:.0f} s (stallTimeout {self.run_.stall_seconds:.0f} s), in phase"
            f" {seen.phase} at step {seen.step}",
            frames=tuple(frames),
        )

    def _told(self, exit_code: int, tail: list[str], oom_killed: bool) -> Summary:
        """The pod's summary, from those of its workers."""
        summaries = [
            Summary.model_validate_json(path.read_text()) for path in sorted(self.folder.glob("outcome-*.json"))
        ]
        expected = self.run_.workers.processes_per_worker
        if exit_code == 0 and len(summaries) == expected:
            return summaries[0]
        failed = [summary for summary in summaries if summary.exit_code]
        if oom_killed:
            return self._summary(Outcome.OUT_OF_MEMORY, _out_of_memory())
        if self.stop.is_set() and not _saved(failed):
            last = self.progress().last_checkpoint_step
            kept = f"the last checkpoint is at step {last}" if last is not None else "there is no checkpoint"
            return self._summary(
                Outcome.PREEMPTED,
                Failure(type="Preempted", message=f"stopped by SIGTERM, not all ranks could save: {kept}"),
            )
        seen = {Outcome.of(summary.exit_code) for summary in failed}
        if len(summaries) < expected:
            # A rank was killed; those that lost it are not the cause.
            killed = next((int(found.group(1)) for line in tail if (found := _KILLED.search(line))), exit_code)
            if seen <= {Outcome.PEER_LOST} and killed not in (0, 1):
                return self._summary(
                    Outcome.WORKER_CRASHED, Failure(type="WorkerCrashed", message=_ended_by(killed, tail))
                )
        if not failed:
            return self._summary(Outcome.WORKER_CRASHED, Failure(type="WorkerCrashed", message=_last(tail)))
        telling = cause(seen)
        told = next(summary for summary in failed if summary.exit_code == telling.code)
        if telling is Outcome.OUT_OF_MEMORY and told.failure is not None:
            failure = told.failure.model_copy(update={"message": f"{told.failure.message}{_figures()}"})
            return told.model_copy(update={"failure": failure})
        return told

    def _summary(self, outcome: Outcome, failure: Failure) -> Summary:
        seen = self.progress()
        return Summary(
            outcome=outcome.reason, exit_code=outcome.code, attempt=self.run_.attempt, index=self.index,
            epoch=seen.epoch, step=seen.step, last_checkpoint_step=seen.last_checkpoint_step, failure=failure,
        )  # fmt: skip


def _echo(source: IO[str], to: IO[str], *kept: deque[str]) -> None:
    for line in source:
        for lines in kept:
            lines.append(line.rstrip())
        print(line, end="", file=to, flush=True)


def last_lines(log: list[str]) -> tuple[str, ...]:
    """The end of what the ranks printed, without what torchrun says of their end: its own lines, its traceback, and the
    table that follows."""
    own = [line for line in log if line.strip() and not _TORCHRUN.match(line)]
    raised = next((at for at, line in enumerate(own) if _TORCHRUN_RAISED.match(line)), None)
    if raised is not None:
        own = own[: max(at for at in range(raised + 1) if at == 0 or own[at].startswith("Traceback"))]
    return tuple(
        "".join(letter for letter in line if letter.isprintable())[:_LOG_LETTERS] for line in own[-_LOG_LINES:]
    )


def _saved(failed: list[Summary]) -> bool:
    return any(Outcome.of(summary.exit_code) is not Outcome.PEER_LOST for summary in failed)


def _ended_by(exit_code: int, tail: list[str]) -> str:
    if exit_code < 0:
        with contextlib.suppress(ValueError):
            return f"a worker was ended by {signal.Signals(-exit_code).name}"
    return f"a worker ended with exit code {exit_code}: {_last(tail)}"


def _last(tail: list[str]) -> str:
    return next((line for line in reversed(tail) if line.strip(" =-")), "it said nothing")[:500]


def _figures() -> str:
    """The container's limit and peak of memory, as far as the kernel tells."""
    limit, most = memory(), memory_peak()
    figures = [f"limit {binary(limit)}"] if limit is not None else []
    figures += [f"peak {binary(most)}"] if most is not None else []
    return f" ({', '.join(figures)})" if figures else ""


def _out_of_memory() -> Failure:
    return Failure(
        type="OOMKilled",
        message=f"the kernel killed a worker for memory{_figures()}: raise spec.workers.resources.limits.memory, or"
        " lower the batch size",
    )


def _processes(folder: Path, *, ranks: bool) -> Iterator[int]:
    """Process ids of what was started with this run folder in its environment: torchrun and the ranks, or these alone.
    torchrun's death does not end the ranks, and each leads a group of its own."""
    marked = f"{progressfile.RUN_FOLDER}={folder}\0".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                environment = (entry / "environ").read_bytes()
                if marked in environment and (not ranks or b"\0LOCAL_RANK=" in environment):
                    yield int(entry.name)


def _end(folder: Path) -> None:
    """Ends what is left of torchrun and its ranks."""
    for process in _processes(folder, ranks=False):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
