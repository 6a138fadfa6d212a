"""Pruned, clustered and encoded: how many times smaller, and what it costs, over folds in which all rows are tested.

setsid --wait nice .venv-trainer/bin/python -m pytest tests/bench/test_compress_storage.py -q -s
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modelwright_trainer.onnxgraph import Session

from tests.bench.compression import Net, digits, folds, net
from tests.bench.lenet5 import LeNet5
from tests.trainer.compression import published

SEEDS, FOLDS = range(5), 5
STEPS = (
    {"prune": {"sparsity": 0.95, "rounds": 4, "finetune": {"epochs": 20, "distillation": 0.5}}},
    {"cluster": {"bits": 4, "finetune": {"epochs": 10, "learningRate": 0.0005, "distillation": 0.5}}},
)
HARDER = ({"prune": {**STEPS[0]["prune"], "sparsity": 0.97}}, STEPS[1])


def outcome(one: Net, steps: tuple[dict[str, Any], ...]) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Hits of the dense and of the compressed net on the fold's test rows, and the bytes of both."""
    dense = one.hits(Session(one.folder / "parent"))
    folder, onnx = one.files(one.compressed(*steps))
    small = one.hits(Session(folder, onnx))
    size = sum(path.stat().st_size for path in folder.iterdir())
    plain = one.plain_bytes
    shutil.rmtree(one.folder)
    return dense, small, plain, size


def interval(differences: np.ndarray) -> tuple[float, float]:
    """95 % of the mean difference in points, by the bootstrap over rows; `differences` [seeds, rows] are paired."""
    each = differences.mean(axis=0)
    generator = np.random.RandomState(0)
    means = [each[generator.randint(0, len(each), len(each))].mean() for _ in range(2000)]
    low, high = np.percentile(means, [2.5, 97.5])
    return 100 * float(low), 100 * float(high)


def told(name: str, runs: list[list[tuple[np.ndarray, np.ndarray, int, int]]]) -> tuple[float, float]:
    """Prints a line of the table; the least ratio of all folds, and the drop in points."""
    dense = np.array([np.concatenate([one[0] for one in seed]) for seed in runs])
    small = np.array([np.concatenate([one[1] for one in seed]) for seed in runs])
    ratios = [one[2] / one[3] for seed in runs for one in seed]
    drops = 100 * (dense.mean(axis=1) - small.mean(axis=1))
    low, high = interval(dense.astype(float) - small)
    bytes_made = np.mean([one[3] for seed in runs for one in seed])
    drop = float(drops.mean())
    print(
        f"{name}: {dense.shape[1]} rows × {len(runs)} seeds: dense {100 * dense.mean():.2f} %, compressed"
        f" {100 * small.mean():.2f} %: drop {drop:+.2f} points (95 % interval {low:+.2f} to {high:+.2f}; by seed"
        f" {', '.join(f'{one:+.2f}' for one in drops)}); {runs[0][0][2]:,} bytes dense, {bytes_made:,.0f}"
        f" with the graph: {min(ratios):.1f}× to {max(ratios):.1f}×, mean {np.mean(ratios):.1f}×",
        flush=True,
    )
    return min(ratios), drop


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_lenet_300_100_becomes_fifty_times_smaller_at_half_a_point() -> None:
    table = digits()
    runs = [
        [outcome(net(table, train, test, seed, hiddenSizes="300,100"), STEPS)
         for train, test in folds(table, FOLDS, seed)]
        for seed in SEEDS
    ]  # fmt: skip
    ratio, drop = told("LeNet-300-100, 95 % pruned, 4 bits", runs)
    eight = digits(side=8)
    train, test = next(folds(eight, FOLDS, 0))
    same = net(eight, train, test, 0, epochs=1, hiddenSizes="300,100").plain_bytes
    print(f"  the 64-300-100-10 net that computes the same is {same:,} bytes dense: {same / (runs[0][0][3]):.1f}×")
    assert ratio >= 50
    assert drop <= 0.5


def test_lenet_300_100_pruned_harder() -> None:
    table = digits()
    runs = [
        [outcome(net(table, train, test, seed, hiddenSizes="300,100"), HARDER)
         for train, test in folds(table, FOLDS, seed)]
        for seed in SEEDS
    ]  # fmt: skip
    told("LeNet-300-100, 97 % pruned, 4 bits", runs)


def test_lenet_5() -> None:
    table = digits()
    runs = [
        [
            outcome(net(table, train, test, 0, epochs=10, recipe="cnn", learner=LeNet5(table, train)), HARDER)
            for train, test in folds(table, FOLDS, 0)
        ]
    ]
    told("LeNet-5 (Caffe's), 97 % pruned, 4 bits", runs)


def test_the_whole_artifact(tmp_path: Path) -> None:
    """With golden samples, baseline, history and figures, as it is published."""
    world = published(tmp_path, digits(), "mlp", hiddenSizes="300,100", epochs="20")
    *_, last = world.all(*STEPS)
    manifest = world.fetched(last, tmp_path / "fetched")
    before, after = (sum(file.size for file in one.files) for one in (world.manifest, manifest))
    print(f"the whole artifact: {before:,} bytes, then {after:,}: {before / after:.1f}×, of which", flush=True)
    for file in sorted(manifest.files, key=lambda file: -file.size):
        print(f"  {file.path} {file.size:,}", flush=True)
