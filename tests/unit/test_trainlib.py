"""The helper for own code writes the very files of the contract: what it saves is found, and what it publishes is a
version."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from modelwright import trainlib, versions
from modelwright_trainer.owncode import checkpoints
from modelwright_trainer.owncode.watch import Watch

from tests.unit.own_code_world import FEATURES, Pod, graph, pod


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pod:
    """A pod whose environment is this process's."""
    one = pod(tmp_path).fetch()
    for name, path in {
        "DATA": tmp_path / "raw" / "rows.csv",
        "CHECKPOINT": one.folder.checkpoint,
        "OUTPUT": one.folder.output,
        "PROGRESS": one.folder.progress,
    }.items():
        monkeypatch.setenv(f"MODELWRIGHT_{name}", str(path))
    monkeypatch.setattr(trainlib, "_told", {})
    return one


def test_it_needs_nothing_but_python() -> None:
    tree = ast.parse(Path(trainlib.__file__).read_text())
    imported = {
        name.split(".")[0]
        for node in tree.body
        for name in (
            [one.name for one in node.names] if isinstance(node, ast.Import)
            else [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        )
    }  # fmt: skip
    assert imported <= sys.stdlib_module_names


def test_what_it_tells_is_the_pod_s_progress(own: Pod) -> None:
    trainlib.progress(step=5, total_steps=20, loss=np.float32(0.5).item())
    trainlib.progress(step=6, epoch=1, validation_loss=np.float32(0.25))
    seen = Watch(own.run, own.store, own.folder, 0, own.folder.read_fetched()).progress()
    assert (seen.step, seen.total_steps, seen.epoch, seen.train_loss) == (6, 20, 1, 0.5)
    assert seen.validation_loss == 0.25


def test_a_checkpoint_is_complete_when_its_block_has_ended_and_is_found_again(own: Pod) -> None:
    assert trainlib.checkpoint() is None
    with trainlib.save_checkpoint(10) as folder:
        (folder / "weights").write_text("ten")
        assert checkpoints.complete(own.folder.checkpoint) == []
    with pytest.raises(OSError, match="full"), trainlib.save_checkpoint(20):
        raise OSError("the disk is full")
    found = trainlib.checkpoint()
    assert found is not None
    assert (found[0], (found[1] / "weights").read_text()) == (10, "ten")
    for step in (30, 40):
        with trainlib.save_checkpoint(step, keep=1):
            pass
    assert checkpoints.complete(own.folder.checkpoint) == [40]


def test_what_it_saves_is_there_in_the_next_attempt(own: Pod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with trainlib.save_checkpoint(10) as folder:
        (folder / "weights").write_text("ten")
    Watch(own.run, own.store, own.folder, 0, own.folder.read_fetched()).look()
    second = pod(tmp_path, 2).fetch()
    monkeypatch.setenv("MODELWRIGHT_CHECKPOINT", str(second.folder.checkpoint))
    found = trainlib.checkpoint()
    assert found == (10, second.folder.checkpoint / "10")


def test_what_it_publishes_is_a_version(own: Pod, tmp_path: Path) -> None:
    onnx.save(graph(), tmp_path / "exported.onnx")
    trainlib.publish(
        onnx=tmp_path / "exported.onnx", metrics={"accuracy": np.float64(0.9)}, classes=["a", "b", "c"],
        samples={"x": np.ones((2, FEATURES), np.float32)},
    )  # fmt: skip
    summary = own.publish()
    assert summary.artifact is not None
    manifest = versions.read(own.store, summary.artifact.uri, summary.artifact.digest)
    assert (manifest.metrics["test"], manifest.classes) == ({"accuracy": 0.9}, ("a", "b", "c"))
    assert manifest.golden is not None
    assert manifest.golden.rows == 2


def test_a_folder_of_an_own_format_is_published_as_native(own: Pod, tmp_path: Path) -> None:
    (tmp_path / "mine" / "deep").mkdir(parents=True)
    (tmp_path / "mine" / "deep" / "weights").write_text("w")
    trainlib.publish(native=tmp_path / "mine")
    summary = own.publish()
    assert summary.artifact is not None
    manifest = versions.read(own.store, summary.artifact.uri, summary.artifact.digest)
    assert [file.path for file in manifest.files] == ["native/deep/weights"]


def test_the_other_ranks_write_nothing(own: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    trainlib.progress(step=1)
    with trainlib.save_checkpoint(10) as folder:
        (folder / "weights").write_text("dropped")
    trainlib.publish(metrics={"accuracy": 1})
    assert not own.folder.progress.exists()
    assert list(own.folder.checkpoint.iterdir()) == list(own.folder.output.iterdir()) == []


def test_outside_of_a_pod_data_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELWRIGHT_DATA", raising=False)
    with pytest.raises(RuntimeError, match="MODELWRIGHT_DATA is not set: outside of a TrainingJob, set it"):
        trainlib.data()


def test_it_tells_that_the_pod_is_to_end_and_takes_over_no_signal_before_it_is_asked() -> None:
    code = (
        "import os, signal; from modelwright import trainlib;"
        "print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL);"
        "print(trainlib.stopping()); os.kill(os.getpid(), signal.SIGTERM); print(trainlib.stopping())"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(trainlib.__file__).parents[1])}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert said.stdout.split() == ["True", "False", "True"]
