"""Servers and Jobs as processes: each is the image's entry point, with a termination log and a TMPDIR of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
from modelwright.contract import Shape
from modelwright.serving import AnalysisRun, AnalysisSummary, ServingFailure, ServingRun, VerifyRun, VerifySummary

from tests.server.artifacts import Published

_ENTRY = (
    "import pathlib, sys; from modelwright_server.__main__ import main;"
    "sys.exit(main([sys.argv[1]], termination=pathlib.Path(sys.argv[2])))"
)


def free_port() -> int:
    """Not of those that the kernel gives to clients, one of which may take it before the server does."""
    while True:
        port = random.randrange(20_000, 32_000)  # noqa: S311 - no secret hangs on it
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def start(command: str, variable: str, run: Shape, folder: Path, **more: str) -> subprocess.Popen[str]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "termination-log").touch()
    (folder / "tmp").mkdir(exist_ok=True)
    # No credentials of whoever runs the tests, and little that hides a missing setting.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {variable: run.to_json(), "TMPDIR": str(folder / "tmp"), **more}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", sys.executable, "-c", _ENTRY, command, str(folder / "termination-log")],
            env=environment, stdout=log, stderr=log, text=True,
        )  # fmt: skip


@dataclasses.dataclass
class Server:
    """A serving pod as a process on the loopback."""

    process: subprocess.Popen[str]
    run: ServingRun
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.run.port}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.run.grpc_port}"

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.run.admin_port}"

    @property
    def model_url(self) -> str:
        return f"{self.url}/v2/models/{self.run.model}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def wait_ready(self, seconds: float = 60) -> Server:
        return self._wait("/v2/health/ready", seconds)

    def wait_live(self, seconds: float = 60) -> Server:
        return self._wait("/v2/health/live", seconds)

    def _wait(self, path: str, seconds: float) -> Server:
        deadline = time.monotonic() + seconds
        while not self._answers(path):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{path}: not yet; exit code {self.process.returncode}\n{self.log}")
            time.sleep(0.02)
        return self

    def _answers(self, path: str) -> bool:
        try:
            return httpx.get(f"{self.url}{path}").status_code == 200
        except httpx.TransportError:
            return False

    def failure(self, seconds: float = 60) -> tuple[int, ServingFailure]:
        """Its exit code and termination message."""
        code = self.process.wait(seconds)
        failed = ServingFailure.from_message((self.folder / "termination-log").read_text())
        assert failed is not None, self.log
        return code, failed

    def metrics(self) -> dict[str, float]:
        """Each line of /metrics that is a figure, by name and labels."""
        lines = httpx.get(f"{self.admin}/metrics").text.splitlines()
        figures = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in figures}

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def serve(published: Published, folder: Path, *, environment: Mapping[str, str] | None = None, **more: Any) -> Server:
    """Starts a server of the published version; `more` replaces fields of its run."""
    fields = {
        "namespace": "team-a", "service": "iris", "revision": "r1", **published.named, "port": free_port(),
        "grpc_port": free_port(), "admin_port": free_port(), "warmup_requests": 5, "lame_duck_seconds": 0.3,
        "store_patience_seconds": 3.0, "grpc_connection_age_seconds": 1.0,
    }  # fmt: skip
    run = ServingRun.model_validate({**fields, **more})
    return Server(start("serve", "MODELWRIGHT_SERVING", run, folder, **(environment or {})), run, folder)


def analyse(published: Published, folder: Path, url: str, **more: Any) -> tuple[int, AnalysisSummary]:
    """Runs the analysis to its end: exit code and summary."""
    run = AnalysisRun.model_validate({**published.named, "url": url, "timeout_seconds": 30, **more})
    process = start("analyse", "MODELWRIGHT_ANALYSIS", run, folder)
    code = process.wait(60)
    summary = AnalysisSummary.from_message((folder / "termination-log").read_text())
    assert summary is not None, (folder / "log").read_text()
    return code, summary


def verify(published: Published, folder: Path, **more: Any) -> tuple[int, VerifySummary]:
    """Runs the verification to its end: exit code and summary."""
    run = VerifyRun.model_validate({**published.named, "store_patience_seconds": 1.0, **more})
    process = start("verify", "MODELWRIGHT_VERIFY", run, folder)
    code = process.wait(60)
    summary = VerifySummary.from_message((folder / "termination-log").read_text())
    assert summary is not None, (folder / "log").read_text()
    return code, summary
