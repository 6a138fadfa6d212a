"""The process that a bench looks at: started against a cluster, measured from outside, ended as Kubernetes ends it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from devcluster.progress import Hopeless, wait_for

_SAMPLE = re.compile(r"^(modelwright_\w+?)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
MIB = 1024 * 1024


@dataclasses.dataclass(frozen=True)
class Sample:
    """One line of the operator's metrics."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclasses.dataclass
class Running:
    """A process under measurement. `began` is by time.monotonic()."""

    process: psutil.Popen
    began: float
    log: Path
    metrics_port: int

    def cpu_seconds(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def rss_mib(self) -> float:
        return float(self.process.memory_info().rss) / MIB

    def peak_rss_mib(self) -> float:
        status = Path("/proc", str(self.process.pid), "status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) / 1024  # type: ignore[union-attr]

    def metrics(self) -> list[Sample]:
        """What the operator says of itself. Raises OSError before it listens, Hopeless after its end."""
        if self.process.poll() is not None:
            raise Hopeless(f"the process ended: {self.log.read_text()[-2000:]}")
        # Straight to the loopback, whatever proxy the environment names.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return [
            Sample(name, dict(_LABEL.findall(labels or "")), float(value))
            for name, labels, value in _SAMPLE.findall(text)
        ]

    def total(self, name: str, **labels: str) -> float:
        return sum(
            one.value
            for one in self.metrics()
            if one.name == name and all(one.labels.get(key) == value for key, value in labels.items())
        )


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], environment: Mapping[str, str], log: Path, *, metrics_port: int = 0
) -> Iterator[Running]:
    """The command for the length of the context, then SIGTERM. Its output goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as sink:
        began = time.monotonic()
        process = psutil.Popen(
            ["setpriv", "--pdeathsig", "KILL", *(str(word) for word in command)],
            env={**os.environ, **environment},
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Running(process, began, log, metrics_port)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
        try:
            process.wait(20)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def operator(
    kubeconfig: Path, namespace: str, log: Path, *, module: Sequence[str | Path] = ("modelwright",)
) -> Iterator[Running]:
    """This checkout's operator as its image runs it, but for the place: with the kubeconfig, not a service account.
    `module` is what `python -m` runs, with its arguments."""
    port = free_port()
    environment = {
        "KUBECONFIG": str(kubeconfig),
        "MODELWRIGHT_NAMESPACE": namespace,
        "MODELWRIGHT_TRAINER_IMAGE": "trainer:bench",
        "MODELWRIGHT_METRICS_PORT": str(port),
        "MODELWRIGHT_STORAGE_URI": "s3://modelwright/store",
        "MODELWRIGHT_STORAGE_ENDPOINT": "http://store.invalid:7070",
        "MODELWRIGHT_STORAGE_REGION": "us-east-1",
        "MODELWRIGHT_STORAGE_SECRET": "store",
        "PYTHONUNBUFFERED": "1",
    }
    with running([sys.executable, "-m", *module], environment, log, metrics_port=port) as one:
        yield one


def until_at_rest(one: Running, *, passes: int = 0, seconds: float = 180.0, quiet: float = 3.0) -> tuple[float, float]:
    """Waits until the operator leads, has made at least so many passes, and none has begun for `quiet` seconds. Returns
    the seconds from the process's start to the end of its last pass, and the CPU seconds up to then.

    Kopf has no signal of having told everything, so the last pass is known only by hindsight.
    """
    last = (-1.0, 0.0, 0.0)

    def rested() -> bool:
        nonlocal last
        samples = one.metrics()
        made = sum(s.value for s in samples if s.name == "modelwright_reconciles_total")
        waiting = sum(s.value for s in samples if s.name in {"modelwright_queue_depth", "modelwright_busy_workers"})
        leads = "leading: " in one.log.read_text()
        now = time.monotonic() - one.began
        if made != last[0] or waiting or not leads:
            last = (made, now, one.cpu_seconds())
        return made >= passes and now - last[1] >= quiet

    wait_for("the operator is at rest", rested, seconds=seconds, every=0.2)
    return last[1], last[2]
