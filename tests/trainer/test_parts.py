"""Parts of the trainer by themselves: the wrapper's readings, a checkpoint that is no checkpoint."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from modelwright.contract import Outcome
from modelwright.store import StoreError, Trouble
from modelwright_trainer import checkpoint, failures, limits


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, ("1/0",))


def test_a_checkpoint_s_metadata_can_name_no_function(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(pickle.UnpicklingError, match=r"does not need builtins\.eval"):
        checkpoint._Reader(tmp_path).read_metadata()


def test_a_checkpoint_without_metadata_does_not_exist() -> None:
    names = ["step-00000020-attempt-1/.metadata", "step-00000040-attempt-1/__0_0.distcp",
             "step-00000020-attempt-2/.metadata", "step-00000020-attempt-2/state.json", "other/.metadata"]  # fmt: skip
    assert [str(name) for name in checkpoint.complete(names, checkpoint.METADATA)] == [
        "step-00000020-attempt-2",
        "step-00000020-attempt-1",
    ]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (MemoryError(), Outcome.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), Outcome.OUT_OF_MEMORY),
        (RuntimeError("[gloo] Connection closed by peer [10.0.0.7]:4711"), Outcome.PEER_LOST),
        (torch.distributed.DistBackendError("NCCL error"), Outcome.PEER_LOST),
        (StoreError(Trouble.UNREACHABLE, "x"), Outcome.INFRASTRUCTURE),
        (StoreError(Trouble.CREDENTIALS, "x"), Outcome.STORE_REFUSED),
        (ZeroDivisionError("division by zero"), Outcome.USER_ERROR),
    ],
)
def test_an_exception_means_an_outcome(error: Exception, outcome: Outcome) -> None:
    assert failures.outcome_of(error) is outcome


def test_a_failure_in_code_tells_its_last_frames() -> None:
    def divide() -> float:
        return 1 / 0

    try:
        divide()
    except ZeroDivisionError as error:
        failure = failures.failure_of(error)
    assert failure.type == "ZeroDivisionError"
    assert "in divide: return 1 / 0" in failure.frames[-1]


@pytest.mark.parametrize(
    ("quota", "processes", "expected"),
    [("max 100000", 1, 1), ("400000 100000", 1, 4), ("400000 100000", 8, 1), ("50000 100000", 1, 1), ("", 1, 1)],
)
def test_threads_follow_the_container_s_cpu_limit(quota: str, processes: int, expected: int) -> None:
    assert limits.threads(processes, quota) == expected


def test_the_kernel_s_kills_are_counted(tmp_path: Path) -> None:
    assert limits.oom_kills(tmp_path) == 0
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert limits.oom_kills(tmp_path) == 1
    (tmp_path / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    assert limits.oom_kills(tmp_path) == 2
