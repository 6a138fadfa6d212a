"""1,000 TrainingJobs at once, against a controller in Go that makes the same writes on the same API server.

    BURST_JOBS=1000 BURST_ROUNDS=3 .venv/bin/python -m pytest tests/bench/test_burst.py -s

On the light tier: no job controller makes pods of the Jobs, so that each training stays where lack of capacity would
hold it. Runs alternate, since the machine's speed drifts, and each begins with an empty cluster. All seconds are the
API server's own, from its audit log.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil
import pytest
from modelwright.kube.client import Client
from modelwright.kube.resources import TRAININGJOBS

from devcluster.light import LightCluster, light_cluster
from devcluster.progress import Steps, wait_for
from tests.bench import audit, comparator, population, processes
from tests.cluster import crds

JOBS = int(os.environ.get("BURST_JOBS", "1000"))
ROUNDS = int(os.environ.get("BURST_ROUNDS", "3"))
STATUSES_OF_A_JOB = 2
AGENTS = {"ours": "modelwright/", "Go": "bench-controller"}
Start = Callable[[LightCluster, str, Path], AbstractContextManager[processes.Running]]


@dataclasses.dataclass(frozen=True)
class Round:
    """What one controller did with one burst. `seconds` are from the first TrainingJob to the last status."""

    who: str
    seconds: float
    cpu: float
    latencies: list[float]
    server_cpu: float
    rss: float
    requests: dict[str, int]

    @property
    def throughput(self) -> float:
        return JOBS / self.seconds

    @property
    def cpu_each(self) -> float:
        return 1000 * self.cpu / JOBS

    def quantile(self, of_hundred: int) -> float:
        return statistics.quantiles(self.latencies, n=100)[of_hundred - 1]


@contextmanager
def _ours(light: LightCluster, namespace: str, folder: Path) -> Iterator[processes.Running]:
    with processes.operator(light.kubeconfig, namespace, folder / "operator.log") as one:
        processes.until_at_rest(one)
        yield one


@contextmanager
def _profiled(light: LightCluster, namespace: str, folder: Path) -> Iterator[processes.Running]:
    """Ours, with the groups of functions that its CPU time went to in `profile.json` in the end."""
    profile = folder / "profile.json"
    module = ("tests.bench.profiled", profile)
    with processes.operator(light.kubeconfig, namespace, folder / "profiled.log", module=module) as one:
        processes.until_at_rest(one)
        one.process.send_signal(signal.SIGUSR1)
        yield one
        one.process.send_signal(signal.SIGUSR2)
        wait_for("the profile is written", lambda: json.loads(profile.read_text()), seconds=10)


@contextmanager
def _go(light: LightCluster, namespace: str, folder: Path, binary: Path) -> Iterator[processes.Running]:
    environment = {"KUBECONFIG": str(light.kubeconfig), "MODELWRIGHT_NAMESPACE": namespace}
    leads = audit.Audit(light.audit_log)
    with processes.running([binary], environment, folder / "go.log") as one:
        found = 0

        def watches() -> bool:
            nonlocal found
            found += leads.count(b'"verb":"watch"')
            return found >= 4

        wait_for("the controller in Go leads and watches", watches, seconds=60, every=0.2)
        rest = one.cpu_seconds()

        # Its caches are read now, and each old TrainingJob had its pass once it uses next to nothing.
        def still() -> bool:
            nonlocal rest
            before, rest = rest, one.cpu_seconds()
            return rest - before < 0.05

        wait_for("the controller in Go is at rest", still, seconds=60, every=1.0)
        yield one


def burst(light: LightCluster, who: str, start: Start, namespace: str, folder: Path) -> Round:
    async def make_namespace(client: Client) -> None:
        await population.namespace(client, namespace)

    async def create(client: Client) -> None:
        await population.all_of(
            client.create(TRAININGJOBS, population.training_job(namespace, number)) for number in range(JOBS)
        )

    asyncio.run(population.with_client(light.kubeconfig, make_namespace))
    with start(light, namespace, folder) as one:
        log = audit.Audit(light.audit_log)
        cpu, server_cpu = one.cpu_seconds(), _server_cpu_seconds()
        asyncio.run(population.with_client(light.kubeconfig, create))
        statuses, last = 0, time.monotonic()

        def done() -> bool:
            nonlocal statuses, last
            new = log.count(b'"resource":"trainingjobs","namespace":"%s"' % namespace.encode())
            statuses += new
            if new:
                last = time.monotonic()
            return statuses >= (1 + STATUSES_OF_A_JOB) * JOBS and time.monotonic() - last > 2.0

        wait_for(f"{who}: each TrainingJob has its Job and its status", done, seconds=300, every=0.5)
        cpu, server_cpu = one.cpu_seconds() - cpu, _server_cpu_seconds() - server_cpu
        rss = one.rss_mib()
    requests = list(log.requests())
    begun = {one.name: one.at for one in requests if one.what == "create trainingjobs" and one.code < 300}
    own = [one for one in requests if one.agent.startswith(AGENTS[who])]
    latencies: dict[str, float] = {}
    for request in own:
        if request.what == "create jobs" and not request.dry_run and request.code < 300:
            name = request.name.rsplit("-", 2)[0]
            latencies[name] = request.at - begun[name]
    assert latencies.keys() == begun.keys(), "each TrainingJob got its Job"
    last_status = max(one.at for one in own if one.what == "patch trainingjobs/status" and one.code < 300)
    return Round(
        who,
        last_status - min(begun.values()),
        cpu,
        sorted(latencies.values()),
        server_cpu,
        rss,
        # Later ones are Events that are still let out, and the last words of a process that ends.
        audit.counts(one for one in own if one.at <= last_status),
    )


def _server_cpu_seconds() -> float:
    """Of etcd and the API server, which this process has started."""
    times = [one.cpu_times() for one in psutil.Process().children() if {"etcd", "kube-apiserver"} & set(one.cmdline())]
    return float(sum(of.user + of.system for of in times))


def cleared(light: LightCluster, namespace: str) -> None:
    """Without what a round left: the other controller would take it up."""
    for path in (
        "/apis/modelwright.dev/v1alpha1/{}/trainingjobs",
        "/apis/batch/v1/{}/jobs",
        "/api/v1/{}/configmaps",
        "/api/v1/{}/services",
        "/apis/events.k8s.io/v1/{}/events",
    ):
        light.kubectl("delete", "--raw", path.format(f"namespaces/{namespace}"), timeout=120)


@pytest.mark.timeout(3600)
def test_a_burst_of_training_jobs(steps: Steps, tmp_path: Path) -> None:
    binary = comparator.build(steps)
    starts: dict[str, Start] = {"ours": _ours, "Go": lambda *where: _go(*where, binary)}
    rounds: list[Round] = []
    print(f"\n{JOBS} TrainingJobs at once, {ROUNDS} rounds of each in turn")
    print(
        f"{'':>5} {'objects/s':>9} {'CPU ms/object':>13} {'p50 s':>6} {'p99 s':>6} {'RSS MiB':>8}"
        f" {'server ms/object':>16}  requests"
    )
    with light_cluster(flags=audit.FLAGS, steps=steps) as light:
        crds.install(light)
        for number, (who, start) in itertools.product(range(ROUNDS), starts.items()):
            namespace = f"{who.lower()}-{number}"
            rounds.append(one := burst(light, who, start, namespace, tmp_path))
            cleared(light, namespace)
            told = ", ".join(f"{count} × {what}" for what, count in one.requests.items())
            print(
                f"{who:>5} {one.throughput:>9.1f} {one.cpu_each:>13.2f} {one.quantile(50):>6.1f}"
                f" {one.quantile(99):>6.1f} {one.rss:>8.0f} {1000 * one.server_cpu / JOBS:>16.1f}  {told}",
                flush=True,
            )

        burst(light, "ours", _profiled, "profiled", tmp_path)

    def median(who: str, of: Callable[[Round], float]) -> float:
        return statistics.median(of(one) for one in rounds if one.who == who)

    def ratio(of: Callable[[Round], float]) -> float:
        return median("ours", of) / median("Go", of)

    print(f"ours to Go, medians: throughput {ratio(lambda one: one.throughput):.2f} ×; aim: at least 1.0 ×")
    print(f"                     CPU        {ratio(lambda one: one.cpu_each):.2f} ×; aim: at most 2.0 ×")
    print(f"                     p99        {ratio(lambda one: one.quantile(99)):.2f} ×")
    samples: dict[str, int] = json.loads((tmp_path / "profile.json").read_text())
    each = median("ours", lambda one: one.cpu_each) / sum(samples.values())
    print("where ours goes, by samples of another round; ms of CPU per object:")
    for group, count in sorted(samples.items(), key=lambda one: -one[1]):
        print(f"  {count * each:>6.2f}  {100 * count / sum(samples.values()):>3.0f} %  {group}")
