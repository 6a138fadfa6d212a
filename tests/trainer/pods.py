"""Training pods as processes: each is the image's entry point, with its own scratch folder and progress port."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from modelwright.contract import Progress, StoreAccess, Summary, TrainingRun

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing-secret", "AWS_REGION": "us-east-1"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def job(access: StoreAccess, name: str, *, pods: int = 1, processes: int = 2, **more: Any) -> TrainingRun:
    """A job that learns the digits; `more` replaces its fields."""
    fields: dict[str, Any] = {
        "namespace": "team-a", "name": name, "uid": f"uid-{name}", "store": access,
        "publish": {"model": name, "version": "1.0.0"},
        "data": {"uri": "s3://modelwright/raw/digits.parquet", "target": "label",
                 "split": {"train": 0.8, "validation": 0.1, "test": 0.1, "seed": 7}},
        "trainer": {"recipe": "mlp", "hyperparameters": {"hiddenSizes": "64,32", "batchSize": "64", "epochs": "15"}},
        "workers": {"replicas": pods, "processesPerWorker": processes, "master": "127.0.0.1",
                    "masterPort": free_port(), "rendezvousSeconds": 60},
        "checkpoint": {"everySteps": 20, "keep": 2},
    }  # fmt: skip
    return TrainingRun.model_validate({**fields, **more})


@dataclasses.dataclass
class PodProcess:
    """A running pod; `summary` is what its termination message says in the end."""

    process: subprocess.Popen[str]
    port: int
    folder: Path

    def progress(self) -> Progress | None:
        with contextlib.suppress(httpx.TransportError):
            return Progress.model_validate_json(httpx.get(f"http://127.0.0.1:{self.port}/progress").content)
        return None

    def until(self, condition: Callable[[Progress], bool], timeout: float = 120) -> Progress:
        """The first progress seen that meets the condition."""
        deadline = time.monotonic() + timeout
        while True:
            seen = self.progress()
            if seen and condition(seen):
                return seen
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"never seen, last {seen}, exit code {self.process.poll()}:\n{self.log()}")
            time.sleep(0.02)

    def ranks(self) -> list[int]:
        """Process ids of the pod's ranks, in order."""
        found: dict[int, int] = {}
        marked = f"MODELWRIGHT_RUN_FOLDER={self.folder / 'scratch'}\0".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    environment = (entry / "environ").read_bytes()
                    if marked in environment and b"\0LOCAL_RANK=" in environment:
                        told = dict(one.split(b"=", 1) for one in environment.split(b"\0") if b"=" in one)
                        found[int(told[b"RANK"])] = int(entry.name)
        return [found[rank] for rank in sorted(found)]

    def losses(self) -> dict[int, str]:
        """The training loss of each step that was seen so far, as its shortest exact decimal."""
        path = self.folder / "scratch" / "losses.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return {int(line.split()[0]): line.split()[1] for line in lines}

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def ended(self, timeout: float = 180) -> Summary:
        self.process.wait(timeout)
        summary = Summary.from_message((self.folder / "termination-log").read_text())
        assert summary, self.log()
        assert summary.exit_code == self.process.returncode
        return summary


def start(
    run: TrainingRun,
    folder: Path,
    *,
    index: int = 0,
    environment: dict[str, str] | None = None,
    python: str = sys.executable,
) -> PodProcess:
    """Starts pod `index` of a job; `folder` is new. `python` is of an environment with torch."""
    folder.mkdir(parents=True)
    port = free_port()
    (folder / "job.json").write_text(run.model_copy(update={"progress_port": port}).to_json())
    (folder / "termination-log").touch()
    program = (
        "import sys; from pathlib import Path; from modelwright_trainer import run;"
        f"folder = Path({str(folder)!r});"
        "sys.exit(run.main(folder / 'job.json', folder / 'scratch', termination=folder / 'termination-log'))"
    )
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", python, "-c", program], text=True, stdout=log, stderr=log,
            env={**os.environ, **KEYS, "JOB_COMPLETION_INDEX": str(index),
                 "OMP_NUM_THREADS": "1", **(environment or {})},
        )  # fmt: skip
    return PodProcess(process, port, folder)


def train(run: TrainingRun, folder: Path, **more: Any) -> tuple[Summary, PodProcess]:
    """Runs pod 0 to its end."""
    pod = start(run, folder, **more)
    return pod.ended(), pod


def stop(pod: PodProcess) -> None:
    pod.process.send_signal(signal.SIGTERM)
