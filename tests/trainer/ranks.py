"""Ranks that train together as processes of this machine, without pods: the loop itself, on the digits in memory, with
a folder as the store. One set of processes does many trainings: starting them takes the most time."""

from __future__ import annotations

import dataclasses
import datetime
import multiprocessing
import pickle
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from modelwright.contract import StoreAccess, TrainingRun
from modelwright.store import Store
from modelwright_trainer import recipes
from modelwright_trainer.checkpoint import Checkpoints
from modelwright_trainer.data import Table
from modelwright_trainer.failures import Preempted
from modelwright_trainer.localcheckpoint import LocalCheckpoints
from modelwright_trainer.onnxgraph import Weights
from modelwright_trainer.progressfile import Teller
from modelwright_trainer.split import Rows, split
from modelwright_trainer.training import Setting, State, Training

from tests.trainer.pods import free_port
from tests.trainer.tables import real


@dataclasses.dataclass(frozen=True)
class Case:
    """One training. Those of one `job` go on from each other's checkpoints. `stop_at` is the step after which all are
    told to stop, `crash_at` the one that none gets past. `local_steps` asks for local checkpoints, and `lost` is a rank
    whose own are gone, as with its node."""

    job: str
    hyperparameters: Mapping[str, str] = dataclasses.field(default_factory=dict)
    strategy: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    every_steps: int = 1000
    attempt: int = 1
    stop_at: int | None = None
    crash_at: int | None = None
    recipe: str = "mlp"
    task: str = "Classification"
    local_steps: int | None = None
    lost: int | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """Of rank 0. `losses` are by step, to the bit; `ended` says how it ended where that was before its end."""

    losses: Mapping[int, float]
    weights: Weights
    state: State
    ended: str

    def figure(self, name: str) -> float:
        return self.state.history[-1][name]


class Crash(Exception):  # noqa: N818 - it reads as what happened
    """As if the process had been killed."""


def trained(world_size: int, cases: Sequence[Case], folder: Path) -> list[Result]:
    """The cases in turn, on `world_size` ranks; `folder` is kept between calls that go on from each other."""
    folder.mkdir(exist_ok=True)
    results = folder / f"results-{free_port()}"
    results.mkdir()
    # Forked from one process that has imported all this and done nothing else: the import takes longer than most cases.
    multiprocessing.set_forkserver_preload([__name__])
    torch.multiprocessing.start_processes(
        _rank, (world_size, free_port(), list(cases), folder, results), world_size, start_method="forkserver"
    )
    return [pickle.loads((results / str(number)).read_bytes()) for number in range(len(cases))]  # noqa: S301 - our own


def digits(case: Case) -> tuple[Table, Mapping[str, Rows]]:
    """As the case's recipe reads them: a transformer's tokens are the pixels; a regression is to tell the digit."""
    table = real("digits", tokens=case.recipe == "transformer")
    parts = split(table.rows, {"train": 0.8, "validation": 0.1, "test": 0.1}, 7, table.targets)
    if case.task == "Regression":
        table = dataclasses.replace(table, targets=table.targets.astype(np.float32), classes=())
    elif case.task != "Classification":
        table = dataclasses.replace(table, targets=None, classes=())
    return table, parts


def _rank(rank: int, world_size: int, port: int, cases: Sequence[Case], folder: Path, results: Path) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size,
        timeout=datetime.timedelta(seconds=120),
    )  # fmt: skip
    for number, case in enumerate(cases):
        made = results / f"{number}-rank-{rank}"
        made.mkdir()
        result = _one(case, *digits(case), rank, world_size, folder, made)
        if rank == 0:
            (results / str(number)).write_bytes(pickle.dumps(result))
    dist.barrier()
    dist.destroy_process_group()


def _one(
    case: Case, table: Table, parts: Mapping[str, Rows], rank: int, world_size: int, folder: Path, made: Path
) -> Result:
    sizes = {"hiddenSizes": "64,32"} if case.recipe == "mlp" else {}
    local = {"path": str(folder / "volume"), "everySteps": case.local_steps} if case.local_steps else None
    run = TrainingRun.model_validate(
        {
            "namespace": "team", "name": case.job, "uid": case.job, "attempt": case.attempt,
            "publish": {"model": "m", "version": "1.0.0"}, "store": {"uri": f"file://{folder}/store"},
            "data": {"uri": "file:///digits.parquet", "target": "label", "task": case.task},
            "trainer": {"recipe": case.recipe, "hyperparameters": {**sizes, **case.hyperparameters}},
            "strategy": case.strategy, "checkpoint": {"everySteps": case.every_steps, "local": local},
        }
    )  # fmt: skip
    learner = recipes.learner(run.trainer, run.data, table, parts["train"])
    store = Store(StoreAccess(uri=run.store.uri))
    if rank == case.lost:
        shutil.rmtree(folder / "volume" / run.namespace / run.name / run.uid / f"rank-{rank}-of-{world_size}")
    setting = Setting(
        run, learner, table, parts, rank, world_size, torch.device("cpu"), Checkpoints(store, run, rank, made),
        Teller(made, rank), stop=lambda: case.stop_at is not None and training.state.cursor.step >= case.stop_at,
        losses=made / "losses.txt", local=LocalCheckpoints(run, rank, world_size) if local else None,
    )  # fmt: skip
    training = _Crashing(setting, case.crash_at)
    ended = ""
    try:
        training.run()
    except (Preempted, Crash) as error:
        ended = type(error).__name__
        setting.checkpoints.drained()  # so that a crash always finds the same checkpoints
        if setting.local:
            setting.local.drained()
    path = made / "losses.txt"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return Result(
        {int(step): float(loss) for step, loss in lines}, training.weights() if not ended else {}, training.state, ended
    )


class _Crashing(Training):
    def __init__(self, setting: Setting, crash_at: int | None) -> None:
        super().__init__(setting)
        self._crash_at = crash_at

    def _pieces(self, begin: int, end: int) -> list[Rows]:
        if self.state.cursor.step == self._crash_at:
            raise Crash
        return super()._pieces(begin, end)
