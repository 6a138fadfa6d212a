"""What things take on this machine, printed beside what the project aims at. Nothing here fails on a time."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dev.target import Target
from devcluster import cluster as life
from devcluster.__main__ import wanted
from devcluster.config import state_home
from devcluster.light import light_cluster
from devcluster.progress import Steps

PROJECT = Path(__file__).parents[2]
NAME = "bench"


def timed(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


def report(what: str, seconds: list[float], aim: str) -> None:
    print(
        f"\n{what}: {statistics.median(seconds):.1f} s (from {min(seconds):.1f} to {max(seconds):.1f}, {len(seconds)}"
        f" runs); aim: {aim}"
    )


def test_the_light_tier_s_start() -> None:
    seconds = []
    for _ in range(5):
        began = time.monotonic()
        with light_cluster():
            seconds.append(time.monotonic() - began)
    report("light tier, until the API server is ready", seconds, "under 8 s")


def test_up_and_down(steps: Steps) -> None:
    life.down(NAME, state_home() / NAME, steps)
    ups, downs = [], []
    for _ in range(5):
        ups.append(timed(lambda: life.up(wanted(NAME), steps)))
        downs.append(timed(lambda: life.down(NAME, state_home() / NAME, steps)))
    report("up, until the node is Ready with its GPUs", ups, "under 60 s")
    report("down", downs, "none")


@pytest.mark.parametrize("image", ["server", "trainer"])
def test_a_change_of_our_code_until_it_runs(steps: Steps, tmp_path: Path, image: str) -> None:
    """In a copy of the checkout: one line of code is changed, the image built, pushed, pulled and run in a pod."""
    target = _target(steps)
    copy = tmp_path / "checkout"
    shutil.copytree(PROJECT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache"))
    _images(copy, target, image)
    seconds = []
    for round_ in range(3):
        main = copy / f"{image}_image" / f"modelwright_{image}" / "__main__.py"
        main.write_text(main.read_text() + f"\n# change {round_} of {time.time()}\n")

        def deploy() -> None:
            reference = _images(copy, target, image)
            target.kubectl("run", "bench", f"--image={reference}", "--restart=Never", "--", "--version")
            target.kubectl(
                "wait", "pod/bench", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=300s", timeout=310
            )

        target.kubectl("delete", "pod", "bench", "--ignore-not-found", "--wait")
        seconds.append(timed(deploy))
    target.kubectl("delete", "pod", "bench", "--ignore-not-found", "--wait=false")
    report(f"a changed line of the {image} until its pod has run", seconds, "under 20 s")


def _target(steps: Steps) -> Target:
    from dev.target import resolve

    return resolve(steps)


def _images(checkout: Path, target: Target, image: str) -> str:
    run = subprocess.run(
        [sys.executable, "-m", "dev.images", "--registry", target.registry, "--only", image],
        cwd=checkout, env={**os.environ, "PYTHONPATH": str(checkout)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return run.stdout.split()[-1]
