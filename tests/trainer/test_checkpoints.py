"""Checkpoints that are written while the training goes on."""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from modelwright.contract import StoreAccess, TrainingRun
from modelwright.store import Store, StoreError, Trouble
from modelwright_trainer.checkpoint import METADATA, Checkpoints, Saved, folder_uri

from tests.trainer.pods import KEYS, free_port, job

FINGERPRINT = {"fingerprint": "f"}


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """This process as the only rank."""
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{free_port()}", rank=0, world_size=1,
        timeout=datetime.timedelta(seconds=60),
    )  # fmt: skip
    yield
    dist.destroy_process_group()


class HeldStore(Store):
    """A store that writes nothing before it may."""

    def __init__(self, access: StoreAccess) -> None:
        super().__init__(access)
        self.may = threading.Event()
        self.error: StoreError | None = None

    def write(self, uri: str, content: bytes | Path) -> None:
        assert self.may.wait(60)
        if self.error:
            raise self.error
        super().write(uri, content)


@pytest.fixture
def run(tmp_path: Path) -> TrainingRun:
    return job(StoreAccess(uri=f"file://{tmp_path}/store"), "held")


@pytest.fixture
def store(run: TrainingRun) -> HeldStore:
    return HeldStore(run.store)


@pytest.fixture
def checkpoints(store: HeldStore, run: TrainingRun, tmp_path: Path) -> Checkpoints:
    return Checkpoints(store, run, 0, tmp_path / "scratch")


def complete(store: Store, run: TrainingRun) -> list[str]:
    return [name.split("/")[0] for name in store.names(folder_uri(run)) if name.endswith(METADATA)]


def first_ended(checkpoints: Checkpoints) -> Saved:
    while (saved := checkpoints.ended()) is None:
        time.sleep(0.01)
    return saved


def later(what: Callable[[], object]) -> None:
    threading.Timer(0.3, what).start()


def test_what_is_saved_is_the_state_as_it_was(checkpoints: Checkpoints, store: HeldStore, run: TrainingRun) -> None:
    weight = torch.arange(6.0)
    checkpoints.save(10, {"model": {"weight": weight}, "steps": [torch.tensor(10.0)]}, FINGERPRINT)
    weight.add_(100)
    assert checkpoints.ended() is None
    assert not complete(store, run)
    store.may.set()
    saved = checkpoints.drained()
    assert saved
    assert saved.step == 10
    assert saved.size > weight.nbytes
    found = checkpoints.newest("f")
    assert found
    read = {"model": {"weight": torch.zeros(6)}, "steps": [torch.tensor(0.0)]}
    checkpoints.load(found[0], read)
    assert read["model"]["weight"].tolist() == list(range(6))
    assert read["steps"][0] == 10


def test_the_next_one_waits_for_the_one_before(checkpoints: Checkpoints, store: HeldStore, run: TrainingRun) -> None:
    assert checkpoints.save(10, {"weight": torch.ones(3)}, FINGERPRINT) is None
    later(store.may.set)
    before = checkpoints.save(20, {"weight": torch.ones(3)}, FINGERPRINT)
    assert before
    assert before.step == 10
    assert "step-00000010-attempt-1" in complete(store, run)
    assert checkpoints.waited >= 0.2
    last = checkpoints.drained()
    assert last
    assert last.step == 20
    assert checkpoints.drained() is None


def test_a_failed_one_is_told_as_what_it_is_at_the_next_look(
    checkpoints: Checkpoints, store: HeldStore, run: TrainingRun
) -> None:
    store.error = StoreError(Trouble.DENIED, "s3://x: the store refuses access")
    checkpoints.save(10, {"weight": torch.ones(3)}, FINGERPRINT)
    store.may.set()
    with pytest.raises(StoreError, match="refuses access"):
        first_ended(checkpoints)
    assert not complete(store, run)
    assert checkpoints.ended() is None


@pytest.mark.parametrize("megabytes", [50])
def test_how_long_the_training_waits_for_a_large_one(
    megabytes: int, access: StoreAccess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures alone, of a real S3 server on this machine; meanwhile a step is a matrix product."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    checkpoints = Checkpoints(Store(access), job(access, "large"), 0, tmp_path)
    tensors = {f"layer{index}": torch.rand(megabytes * 25_000) for index in range(10)}
    checkpoints.save(1, tensors, FINGERPRINT)
    copied, steps = checkpoints.waited, 0
    matrix = torch.rand(400, 400)
    while (saved := checkpoints.ended()) is None:
        matrix @ matrix
        steps += 1
    print(
        f"{saved.size / 1e6:.0f} MB: the training waited {copied:.3f} s for the copy; writing took {saved.seconds:.2f}"
        f" s, in which {steps} matrix products were done"
    )
    assert saved.size > megabytes * 1e6
    assert steps > 0
