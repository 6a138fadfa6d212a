"""The operator at rest over many objects: how long until it knows them, and what it costs to sit there.

    REST_SECONDS=60 .venv/bin/python -m pytest tests/bench/test_rest.py -s

On the light tier: the API server and etcd are real and on the same machine, so that the seconds to ready hold the
server's part too. One training is a TrainingJob, its Job, two pods and a ModelVersion; ten versions share a Model.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from pathlib import Path

import pytest
from modelwright.kube.client import Client

from devcluster.light import LightCluster, light_cluster
from devcluster.progress import Steps
from tests.bench import audit, population, processes
from tests.cluster import crds

NAMESPACE = "rest"
REST_SECONDS = float(os.environ.get("REST_SECONDS", "60"))
PODS = 2
OBJECTS_OF_A_TRAINING = 3 + PODS + 1 / population.VERSIONS_PER_MODEL
OWN_OF_A_TRAINING = 2 + 1 / population.VERSIONS_PER_MODEL


@dataclasses.dataclass(frozen=True)
class Row:
    objects: int
    own: int
    ready: float
    cpu_to_ready: float
    rss: float
    peak: float
    cpu_at_rest: float
    writes: dict[str, int]


class Population:
    """What is in the cluster so far."""

    def __init__(self, light: LightCluster) -> None:
        self._light = light
        self._trainings = 0
        self.objects = 0
        self.own = 0

    def grow(self, trainings: int, *, pods: int) -> None:
        """Up to so many trainings in all; those that are added have so many pods each."""
        first, self._trainings = self._trainings, trainings
        first_model = -(-first // population.VERSIONS_PER_MODEL)
        models = -(-trainings // population.VERSIONS_PER_MODEL) - first_model
        self.own += 2 * (trainings - first) + models
        self.objects += (3 + pods) * (trainings - first) + models

        async def make(client: Client) -> None:
            if not first:
                await population.namespace(client, NAMESPACE)
            await population.all_of(
                population.finished_training(client, NAMESPACE, number, pods=pods) for number in range(first, trainings)
            )
            await population.models(client, NAMESPACE, first_model, models)

        asyncio.run(population.with_client(self._light.kubeconfig, make))


def measured(light: LightCluster, grown: Population, folder: Path) -> Row:
    # Versions and models get their statuses from the operator itself, before the run that counts.
    with processes.operator(light.kubeconfig, NAMESPACE, folder / "settling.log") as settling:
        processes.until_at_rest(settling, passes=grown.own, seconds=600, quiet=5.0)
    log = audit.Audit(light.audit_log)
    with processes.operator(light.kubeconfig, NAMESPACE, folder / "operator.log") as one:
        ready, cpu_to_ready = processes.until_at_rest(one, passes=grown.own)
        cpu, began = one.cpu_seconds(), time.monotonic()
        time.sleep(REST_SECONDS)  # the measure is of time that passes with nothing to do
        at_rest = (one.cpu_seconds() - cpu) / (time.monotonic() - began)
        rss, peak = one.rss_mib(), one.peak_rss_mib()
    writes = audit.counts(write for write in log.writes() if write.agent.startswith("modelwright/"))
    return Row(grown.objects, grown.own, ready, cpu_to_ready, rss, peak, 100 * at_rest, writes)


@pytest.mark.timeout(3600)
def test_at_rest(steps: Steps, tmp_path: Path) -> None:
    print(
        f"\n{'objects':>8} {'ours':>6} {'ready s':>8} {'CPU s':>6} {'RSS MiB':>8} {'peak MiB':>8} {'CPU at rest %':>13}"
        "  writes (start and rest)"
    )
    sizes = [int(size) for size in os.environ.get("REST_OBJECTS", "500 2000 5000 10000").split()]
    with light_cluster(flags=audit.FLAGS, steps=steps) as light:
        crds.install(light)
        grown = Population(light)
        stages = [(round(size / OBJECTS_OF_A_TRAINING), PODS) for size in sizes]
        if "REST_OBJECTS" not in os.environ:
            # The last row is of 10,000 objects of our own kinds alone, with a Job for each training.
            stages.append((round(10_000 / OWN_OF_A_TRAINING), 0))
        for trainings, pods in stages:
            grown.grow(trainings, pods=pods)
            row = measured(light, grown, tmp_path)
            told = ", ".join(f"{count} × {what}" for what, count in sorted(row.writes.items()))
            print(
                f"{row.objects:>8} {row.own:>6} {row.ready:>8.1f} {row.cpu_to_ready:>6.1f} {row.rss:>8.0f}"
                f" {row.peak:>8.0f} {row.cpu_at_rest:>13.2f}  {told}",
                flush=True,
            )
            assert set(row.writes) <= {"update leases", "patch leases", "create leases"}, "at rest the Lease alone"
    print("aim: at 10,000 objects at most 30 s and 250 MiB")
