"""Every method on one model, in one table: bytes, accuracy, latency of one row, and how long the step took.

setsid --wait nice .venv-trainer/bin/python -m pytest tests/bench/test_compress_methods.py -q -s
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.bench.compression import digits
from tests.trainer.compression import published

TUNE = {"epochs": 8, "distillation": 0.5}


def prune(method: str, granularity: str, **more: Any) -> dict[str, Any]:
    rounds = {} if granularity == "NofM" else {"rounds": 4}
    return {"prune": {"method": method, "granularity": granularity, "finetune": TUNE, **rounds, **more}}


METHODS: dict[str, tuple[str, tuple[dict[str, Any], ...]]] = {
    "prune Magnitude, Unstructured, 95 %": ("storage", (prune("Magnitude", "Unstructured", sparsity=0.95),)),
    "prune Gradient, Unstructured, 95 %": ("storage", (prune("Gradient", "Unstructured", sparsity=0.95),)),
    "prune Movement, Unstructured, 95 %": ("storage", (prune("Movement", "Unstructured", sparsity=0.95),)),
    "prune Magnitude, NofM 2:4": ("storage", (prune("Magnitude", "NofM"),)),
    "prune Magnitude, Structured, 50 %": ("latency", (prune("Magnitude", "Structured", sparsity=0.5),)),
    "prune Gradient (Taylor), Structured, 50 %": ("latency", (prune("Gradient", "Structured", sparsity=0.5),)),
    "prune Movement, Structured, 50 %": ("latency", (prune("Movement", "Structured", sparsity=0.5),)),
    "merge, cosine 0.6": ("latency", ({"merge": {"threshold": 0.6, "finetune": TUNE}},)),
    "cluster, 4 bits": ("storage", ({"cluster": {"bits": 4, "finetune": TUNE}},)),
    "lowRank, energy 0.8": ("latency", ({"lowRank": {"energy": 0.8, "finetune": TUNE}},)),
    "distill into 64,32": ("latency", ({"distill": {"recipe": "mlp", "hyperparameters": {"hiddenSizes": "64,32"}}},)),
    "quantize Int8Dynamic": ("latency", ({"quantize": {"scheme": "Int8Dynamic"}},)),
    "quantize Int8Static": ("latency", ({"quantize": {"scheme": "Int8Static"}},)),
    "quantize Int4Weight": ("latency", ({"quantize": {"scheme": "Int4Weight"}},)),
    "prune 95 %, then cluster 4 bits": (
        "storage",
        (prune("Magnitude", "Unstructured", sparsity=0.95), {"cluster": {"bits": 4, "finetune": TUNE}}),
    ),
    "prune Structured 50 %, then Int8Static": (
        "latency", (prune("Gradient", "Structured", sparsity=0.5), {"quantize": {"scheme": "Int8Static"}}),
    ),
}  # fmt: skip


def test_every_method_on_lenet_300_100(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    world = published(tmp_path, digits(), "mlp", hiddenSizes="300,100", epochs="20")
    rows = []
    for number, (name, (gain, steps)) in enumerate(METHODS.items()):
        *done, last = world.all(*steps, variant=f"m{number}")
        assert last.before is not None
        assert last.after is not None
        if not rows:
            rows.append(("dense float32", "", last.before, 0.0, ()))
        notes = [note for step in done for note in step.notes]
        rows.append((name, gain, last.after, sum(step.seconds for step in done), notes))
    print("\n| method | gain | bytes | smaller | accuracy (test) | p50 of one row | steps took |")
    print("|---|---|---|---|---|---|---|")
    dense = rows[0][2]
    for name, gain, size, seconds, notes in rows:
        latency = f"{1000 * size.latency_p50_ms:.0f} µs"
        if gain == "storage":
            latency += ", no latency gain"
        print(
            f"| {name} | {gain} | {size.bytes:,} | {dense.bytes / size.bytes:.1f}× |"
            f" {100 * size.metrics['accuracy']:.2f} % | {latency} | {seconds:.1f} s |"
        )
        for note in notes:
            print(f"    {name}: {note}")
    best = min(size.bytes for _, _, size, _, _ in rows)
    assert dense.bytes / best >= 50
