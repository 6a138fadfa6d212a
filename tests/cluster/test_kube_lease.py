"""One leads at a time, through kills and through a leader that sleeps past its Lease."""

from __future__ import annotations

import contextlib
import datetime
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from devcluster.light import LightCluster
from devcluster.progress import wait_for
from tests.faults.candidate import TIMING


class Candidate:
    def __init__(self, light: LightCluster, namespace: str, name: str, *flags: str) -> None:
        self.name = name
        self.said: list[str] = []
        command = [sys.executable, "-m", "tests.faults.candidate", str(light.kubeconfig), namespace, name, *flags]
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.strip())

    @property
    def leads(self) -> bool:
        return self.said[:1] == ["leads"]

    @property
    def is_stopped(self) -> bool:
        return "State:\tT" in open(f"/proc/{self.process.pid}/status").read()  # noqa: PTH123


@pytest.fixture
def namespace(light: LightCluster) -> str:
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "lease-"}}
    made = json.loads(light.kubectl("create", "-f-", "-ojson", stdin=json.dumps(space)))
    name = str(made["metadata"]["name"])
    light.kubectl("create", "configmap", "counter", "--from-literal=count=0", "--namespace", name)
    return name


@contextlib.contextmanager
def _candidates(light: LightCluster, namespace: str, *flags: str) -> Iterator[tuple[Candidate, Candidate]]:
    """The first leads, the second waits."""
    first = Candidate(light, namespace, f"{namespace}-first", *flags)
    started = [first]
    try:
        wait_for("the first leads", lambda: first.leads, seconds=20, every=0.05)
        second = Candidate(light, namespace, f"{namespace}-second")
        started.append(second)
        # Its Lease requests show that it stands.
        wait_for(
            "the second stands",
            lambda: any(event.get("userAgent") == second.name for event in light.audit_events()),
            seconds=20, every=0.1,
        )  # fmt: skip
        yield first, second
    finally:
        for one in started:
            one.process.kill()
            one.process.wait()


def _writes(light: LightCluster, namespace: str) -> list[dict[str, Any]]:
    """To the counter, in order of their arrival."""
    found: list[dict[str, Any]] = [
        event
        for event in light.audit_events()
        if event["verb"] == "patch"
        and event["objectRef"]["resource"] == "configmaps"  # type: ignore[index]
        and event["objectRef"]["namespace"] == namespace  # type: ignore[index]
    ]
    return sorted(found, key=lambda event: str(event["requestReceivedTimestamp"]))


def _handovers(writes: list[dict[str, Any]]) -> list[str]:
    """Who wrote successfully, one name for each uninterrupted series."""
    names = [str(write["userAgent"]) for write in writes if write["responseStatus"]["code"] == 200]
    return [name for before, name in zip([None, *names], names, strict=False) if name != before]


def test_when_the_leader_is_killed_the_other_takes_over(light: LightCluster, namespace: str) -> None:
    with _candidates(light, namespace) as (first, second):
        assert not second.leads
        first.process.kill()
        began = time.monotonic()
        wait_for("the second leads", lambda: second.leads, seconds=20, every=0.02)
        took = time.monotonic() - began
        assert took >= TIMING.renew_deadline - TIMING.retry_period
        wait_for(
            "it works",
            lambda: _handovers(_writes(light, namespace)) == [first.name, second.name],
            seconds=10,
            every=0.1,
        )
        print(f"\ntakeover of a Lease of {TIMING.duration:g} s after a kill: {took:.1f} s")


def test_a_leader_that_ends_in_order_hands_over_at_once(light: LightCluster, namespace: str) -> None:
    with _candidates(light, namespace) as (first, second):
        first.process.send_signal(signal.SIGTERM)
        assert first.process.wait(10) == 0
        released = time.monotonic()
        wait_for("the second leads", lambda: second.leads, seconds=20, every=0.02)
        # By its next look, which is sooner than the Lease would have expired (2 s after a renewal that was seen within
        # the last 0.36 s).
        assert time.monotonic() - released < 1.5


def test_a_leader_that_slept_past_its_lease_writes_no_more_and_ends(light: LightCluster, namespace: str) -> None:
    with _candidates(light, namespace) as (first, second):
        first.process.send_signal(signal.SIGSTOP)
        wait_for("the second leads", lambda: second.leads, seconds=20, every=0.02)
        wait_for("it works", lambda: len(_handovers(_writes(light, namespace))) == 2, seconds=10, every=0.1)
        woken = datetime.datetime.now(datetime.UTC).isoformat()
        first.process.send_signal(signal.SIGCONT)
        assert first.process.wait(10) == 3
        assert first.said[-1] == "lost"
        writes = _writes(light, namespace)
        of_first = [write for write in writes if write["userAgent"] == first.name]
        assert [write for write in of_first if write["requestReceivedTimestamp"] > woken] == []
        assert _handovers(writes) == [first.name, second.name]


def test_a_write_that_slept_after_its_check_is_rejected_by_its_version(light: LightCluster, namespace: str) -> None:
    with _candidates(light, namespace, "--freeze-in-flight") as (first, second):
        wait_for("the first sleeps", lambda: first.is_stopped, seconds=10, every=0.02)
        wait_for("the second leads", lambda: second.leads, seconds=20, every=0.02)
        wait_for("it works", lambda: len(_handovers(_writes(light, namespace))) == 2, seconds=10, every=0.1)
        first.process.send_signal(signal.SIGCONT)
        assert first.process.wait(10) == 3
        wait_for("its words are read", lambda: "lost" in first.said, seconds=5, every=0.02)
        writes = _writes(light, namespace)
        assert _handovers(writes) == [first.name, second.name]
        codes = [write["responseStatus"]["code"] for write in writes if write["userAgent"] == first.name]
        assert codes == [200, 200, 200, 409]
