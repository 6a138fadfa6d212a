"""Rows that a training takes a second in pods, against the same processes bare on the machine, the cluster up in both.

    .venv/bin/python -m pytest tests/bench/test_throughput.py -s

On the whole cluster (NAME says which) and with .venv-trainer (dev/trainer_venv). Two processes of one thread each: as
one worker, which shows what it costs to be in a pod; and as two, which meet through the network of pods, and bare over
the loopback. The runs alternate, and each is measured by what rank 0 tells of its steps, from after its start to before
its end. THROUGHPUT_PAIRS (6) are the pairs:
of six, the lowest and the highest ratio are an interval that holds the median with more than 95 % confidence.
"""

from __future__ import annotations

import json
import os
import statistics
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from modelwright.contract import PROGRESS_PORT, Progress, StoreAccess, TrainingRun

from dev import digits
from dev.demo import BUCKET
from dev.target import Store
from devcluster.progress import Hopeless, wait_for
from tests.e2e.conftest import refs, server, target  # noqa: F401 - fixtures
from tests.e2e.training.conftest import operator, space  # noqa: F401
from tests.e2e.training.jobs import Space, failed, succeeded, trainer, training_job
from tests.trainer.pods import PodProcess, free_port, start, stop

pytestmark = [pytest.mark.long, pytest.mark.timeout(7200)]

PYTHON = Path(__file__).parents[2] / ".venv-trainer" / "bin" / "python"
PAIRS = int(os.environ.get("THROUGHPUT_PAIRS", "6"))
BATCH, EPOCHS = 64, 160
ASKED = {"hiddenSizes": "512,512", "batchSize": str(BATCH), "epochs": str(EPOCHS), "learningRate": "0.0001"}
# No checkpoint falls into what is measured.
EVERY_STEPS = 1_000_000
AIM = 0.95
DATA = {"uri": f"s3://{BUCKET}/{digits.KEY}", "target": "label", "task": "Classification"}
INDEX = "batch.kubernetes.io/job-completion-index"

Look = Callable[[], Progress | None]


def rows_per_second(look: Look, what: str) -> float:
    """From the first and the last that rank 0 told while it trained, after the first hundred steps."""
    told: list[Progress] = []

    def over() -> bool:
        seen = look()
        trains = seen is not None and seen.phase == "Training"
        if seen and trains and seen.step >= 100:
            told.append(seen)
        return bool(told) and not trains

    wait_for(what, over, seconds=600, every=1)
    first, last = told[0], told[-1]
    assert last.step - first.step > first.total_steps / 2, f"{what}: seen from step {first.step} to {last.step} only"
    return (last.step - first.step) * BATCH / (last.updated - first.updated)


def shape(workers: int) -> dict[str, int]:
    return {"replicas": workers, "processesPerWorker": 2 // workers}


def in_pods(space: Space, count: int, number: int) -> float:  # noqa: F811 - the fixture
    name = f"throughput-{count}-{number}"
    asked = {**shape(count), "resources": {"requests": {"cpu": f"{1000 // count}m", "memory": "512Mi"}}}
    space.apply(
        training_job(
            name, f"9.{count}.{number}", data=DATA, trainer=trainer(**ASKED), workers=asked,
            evaluation={"metrics": ["accuracy"]}, checkpoint={"everySteps": EVERY_STEPS},
        )
    )  # fmt: skip

    address = ""

    def look() -> Progress | None:
        nonlocal address
        if not address:
            # Only until it runs: kubectl once a second takes a part of the machine that the bare runs keep.
            if failed(space.status(name)):
                raise Hopeless(f"{name} failed: {space.status(name)}")
            pods = space.items("pods", selector=f"modelwright.dev/trainingjob={name}")
            running = [pod for pod in pods if pod["metadata"]["annotations"][INDEX] == "0" and "podIP" in pod["status"]]
            address = running[0]["status"]["podIP"] if running else ""
            return None
        try:
            with urllib.request.urlopen(f"http://{address}:{PROGRESS_PORT}/progress", timeout=2) as answer:
                return Progress.model_validate_json(answer.read())
        except (OSError, ValueError):  # not up yet, or over
            return None

    found = rows_per_second(look, f"{name} in pods")
    space.until(name, "succeeds", succeeded)
    space.kubectl("delete", "trainingjob", name, "--wait", timeout=130)
    return found


def bare(server: Store, workers: int, number: int, folder: Path) -> float:  # noqa: F811
    keys = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
    run = _run(server, workers, f"bare-{workers}-{number}-{int(time.time())}")
    processes = [
        start(run, folder / f"{number}-{index}", index=index, environment=keys, python=str(PYTHON))
        for index in range(workers)
    ]  # fmt: skip
    try:
        found = rows_per_second(processes[0].progress, f"bare run {number}")
        wait_for("the bare processes end", lambda: _ended(processes), seconds=120)
        assert not any(pod.process.returncode for pod in processes), processes[0].log()
    finally:
        for pod in processes:
            stop(pod)
    return found


def _ended(processes: list[PodProcess]) -> bool:
    return all(pod.process.poll() is not None for pod in processes)


def _run(server: Store, workers: int, name: str) -> TrainingRun:  # noqa: F811
    """What the pods are told, but for where they meet."""
    asked: Mapping[str, Any] = trainer(**ASKED)
    access = StoreAccess(uri=f"s3://{BUCKET}/e2e/{name}", endpoint=server.outside, region=server.region)
    return TrainingRun.model_validate(
        {
            "namespace": "bench", "name": name, "uid": name, "publish": {"model": name, "version": "1.0.0"},
            "store": access, "data": DATA,
            "trainer": {"recipe": asked["recipe"], "hyperparameters": asked["hyperparameters"]},
            "workers": {**shape(workers), "master": "127.0.0.1", "masterPort": free_port()},
            "checkpoint": {"everySteps": EVERY_STEPS},
        }
    )  # fmt: skip


@pytest.mark.parametrize("workers", [1, 2])
def test_pods_train_as_fast_as_bare_processes(
    space: Space,  # noqa: F811
    server: Store,  # noqa: F811
    tmp_path: Path,
    workers: int,
) -> None:
    assert PYTHON.exists(), "there is no .venv-trainer: dev/trainer_venv makes it"
    ratios = []
    for number in range(PAIRS):
        # Which is first alternates, too: what the machine does meanwhile hits both alike.
        if number % 2:
            alone, podded = bare(server, workers, number, tmp_path), in_pods(space, workers, number)
        else:
            podded, alone = in_pods(space, workers, number), bare(server, workers, number, tmp_path)
        ratios.append(podded / alone)
        print(f"\npair {number + 1}: {podded:,.0f} rows/s in pods, {alone:,.0f} bare: {ratios[-1]:.3f}", end="")
    median = statistics.median(ratios)
    print(
        f"\n{workers} workers, rows per second in pods over bare: median {median:.3f}, from {min(ratios):.3f} to"
        f" {max(ratios):.3f} ({PAIRS} pairs); aim: at least {AIM}"
    )
    print(json.dumps({"ratios": [round(ratio, 4) for ratio in ratios], "median": round(median, 4)}))
