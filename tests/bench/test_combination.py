"""Three versions of unlike kinds, combined by each method, against the best of them.

    .venv-trainer/bin/python -m pytest tests/bench/test_combination.py -s

A multilayer perceptron, a convolutional network and boosted trees on scikit-learn's digits: 60 % of the rows to train
on, 15 % for validation (Stack learns from them), 25 % to test on. Each method's difference to the member that is best
on the test rows, with the paired bootstrap's 95 % interval; COMBINATION_SEEDS (3) are so many splits. No bound: the
figures are what they are.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from modelwright.contract import Published, StoreAccess
from modelwright.derivation import CombineRun
from modelwright.store import Store

pytest.importorskip("torch", reason="it computes with the trainer's environment, .venv-trainer")

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]
SEEDS = int(os.environ.get("COMBINATION_SEEDS", "3"))
RECIPES: dict[str, dict[str, Any]] = {
    "mlp": {"recipe": "mlp", "hyperparameters": {"hiddenSizes": "64", "epochs": "20", "learningRate": "0.003"}},
    "cnn": {
        "recipe": "cnn",
        "hyperparameters": {"imageShape": "1,8,8", "channels": "8,16", "epochs": "8", "learningRate": "0.005"},
    },
    "trees": {"recipe": "gradient-boosting", "hyperparameters": {"trees": "60"}},
}
METHODS = ("Mean", "Vote", "Weighted", "Stack")
WEIGHTS = {"mlp": 2.0, "cnn": 2.0, "trees": 1.0}


@pytest.mark.parametrize("seed", range(SEEDS))
def test_each_method_against_the_best_member(seed: int, tmp_path: Path) -> None:
    from modelwright_trainer.combine.command import combine

    from tests.trainer.conftest import digits

    access = StoreAccess(uri=f"file://{tmp_path}/store")
    store = Store(access, {})
    store.write(f"file://{tmp_path}/digits.parquet", digits())
    members = trained(access, tmp_path, seed)
    print(f"\nsplit {seed}: | method | accuracy | best member | difference | 95 % interval | log loss | difference |")
    for method in METHODS:
        run = CombineRun.model_validate(
            {
                "namespace": "bench", "name": "c", "uid": "c", "store": access, "method": method, "seed": seed,
                "publish": {"model": "c", "version": "1.0.0", "variant": method.lower()},
                "members": [
                    {"name": name, "uri": one.uri, "digest": one.digest,
                     "weight": WEIGHTS[name] if method == "Weighted" else 1.0}
                    for name, one in members.items()
                ],
            }
        )  # fmt: skip
        folder = tmp_path / method
        folder.mkdir()
        summary = combine(run, store, folder)
        assert summary.artifact is not None
        accuracy, loss = (told(folder, metric) for metric in ("accuracy", "log_loss"))
        assert accuracy["interval"][0] <= accuracy["difference"] <= accuracy["interval"][1]
        print(
            f"| {method} | {accuracy['figure']:.4f} | {accuracy['member']} {accuracy['reference']:.4f} |"
            f" {accuracy['difference']:+.4f} | {accuracy['interval'][0]:+.4f} to {accuracy['interval'][1]:+.4f} |"
            f" {loss['figure']:.4f} | {loss['difference']:+.4f}"
            f" ({loss['interval'][0]:+.4f} to {loss['interval'][1]:+.4f}) |"
        )


def trained(access: StoreAccess, folder: Path, seed: int) -> dict[str, Published]:
    from tests.trainer.pods import job, train

    data = {
        "uri": f"file://{folder}/digits.parquet", "target": "label",
        "split": {"train": 0.6, "validation": 0.15, "test": 0.25, "seed": seed},
    }  # fmt: skip
    found = {}
    for name, trainer in RECIPES.items():
        run = job(access, name, processes=1, trainer=trainer, data=data)
        summary, pod = train(run, folder / name)
        assert summary.artifact, pod.log()
        found[name] = summary.artifact
    return found


def told(folder: Path, metric: str) -> dict[str, Any]:
    """What the version's evaluation says of the metric."""
    found: dict[str, Any] = json.loads((folder / "artifact" / "evaluation.json").read_text())
    against: dict[str, Any] = found["combination"]["againstBest"][metric]
    return against
