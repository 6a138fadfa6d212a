"""A compression from its first Job to the published version: what each leaves, says, and does when it runs again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from modelwright import packing, versions
from modelwright.contract import Outcome
from modelwright.derivation import DERIVATION_VARIABLE, DerivationSummary
from modelwright.versions import Damaged
from modelwright_server import loading
from modelwright_trainer import onnxgraph
from modelwright_trainer.compress import command, state
from modelwright_trainer.failures import TrainingFailed
from modelwright_trainer.onnxgraph import Session

from tests.trainer.compression import World, published
from tests.trainer.tables import real

TUNE = {"epochs": 2, "distillation": 0.5}
PRUNE = {"prune": {"sparsity": 0.8, "rounds": 2, "finetune": TUNE}}
CLUSTER = {"cluster": {"bits": 4, "finetune": TUNE}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return published(tmp_path_factory.mktemp("digits"), real("digits"), "mlp", hiddenSizes="64,32", epochs="8")


@pytest.fixture(scope="module")
def line(world: World) -> list[DerivationSummary]:
    return world.all(PRUNE, CLUSTER)


def test_each_step_tells_what_it_changed(line: list[DerivationSummary]) -> None:
    pruned, clustered, last = line
    assert pruned.before is not None
    assert pruned.after is not None
    assert clustered.after is not None
    assert pruned.after == clustered.before
    matrices = 64 * 64 + 64 * 32 + 32 * 10
    assert pruned.before.nonzero - pruned.after.nonzero == pytest.approx(0.8 * matrices, abs=1)
    assert pruned.after.bytes < 0.45 * pruned.before.bytes
    assert clustered.after.bytes < 0.5 * pruned.after.bytes
    assert pruned.after.metrics["accuracy"] > 0.85
    assert pruned.after.latency_p50_ms is not None
    assert last.before is not None
    assert last.after is not None
    assert last.after.bytes == clustered.after.bytes
    assert last.notes[0].startswith("accuracy ")


def test_the_published_version_is_whole_and_says_where_it_came_from(
    world: World, line: list[DerivationSummary], tmp_path: Path
) -> None:
    manifest = world.fetched(line[-1], tmp_path)
    assert versions.verify(tmp_path) == manifest
    onnx, derived = manifest.formats.onnx, manifest.lineage.derived
    assert onnx is not None
    assert derived is not None
    assert (onnx.packed, onnx.weights) == ("model.packed", "")
    assert (derived.kind, derived.parents[0].digest) == ("compression", world.parent.digest)
    assert [next(iter(json.loads(step))) for step in derived.steps] == ["prune", "cluster"]
    assert manifest.rebuild == world.manifest.rebuild
    assert (manifest.variant, manifest.lineage.data) == ("small", world.manifest.lineage.data)
    steps = json.loads((tmp_path / "compression.json").read_text())["steps"]
    assert [one["after"]["bytes"] for one in steps] == [one.after.bytes for one in line[:2] if one.after]
    tensors = onnxgraph.tensors(tmp_path, onnx)
    assert len(np.unique(tensors["linears.0.weight"])) <= 16
    assert (tensors["linears.0.weight"] == 0).mean() > 0.5


def test_the_server_decodes_it_and_its_golden_samples_agree(
    world: World, line: list[DerivationSummary], tmp_path: Path
) -> None:
    manifest = world.fetched(line[-1], tmp_path)
    loaded = loading.check(tmp_path, manifest, 1)
    assert not loaded.warnings
    onnx = manifest.formats.onnx
    assert onnx is not None
    assert onnx.packed is not None
    whole = packing.decode((tmp_path / onnx.packed).read_bytes())
    altered = {**whole, "linears.2.bias": whole["linears.2.bias"] + np.float32(0.5)}
    (tmp_path / onnx.packed).write_bytes(packing.encode(altered))
    with pytest.raises(Exception, match="golden samples do not agree"):
        loading.check(tmp_path, manifest, 1)
    (tmp_path / onnx.packed).write_bytes(packing.encode({**whole, "bomb": np.zeros(2**20, np.float32)}))
    with pytest.raises(
        Exception, match=r"model\.packed cannot be decoded: the container's tensors take \d+ bytes, and"
    ):
        loading.check(tmp_path, manifest, 1)


def test_the_graph_without_its_container_is_refused_by_the_runtime(
    world: World, line: list[DerivationSummary], tmp_path: Path
) -> None:
    world.fetched(line[-1], tmp_path)
    assert (tmp_path / "model.onnx").stat().st_size < 1000
    with pytest.raises(Exception, match="packed:"):
        Session(tmp_path)


def test_nothing_of_the_work_is_left_and_the_publication_says_itself_again(
    world: World, line: list[DerivationSummary]
) -> None:
    asked = world.asked(PRUNE, CLUSTER, stage=2)
    assert world.left(asked) == []
    again = world.run(asked)
    assert again.artifact == line[-1].artifact
    assert again.metrics == line[-1].metrics


def test_a_step_that_is_done_says_it_again_and_does_nothing(world: World) -> None:
    asked = world.asked(PRUNE, CLUSTER, variant="again")
    first = world.run(asked)
    left = world.left(asked)
    assert world.run(asked) == first
    assert world.left(asked) == left


def test_a_run_anew_makes_the_same_to_the_bit(world: World) -> None:
    first = world.run(world.asked(PRUNE, variant="one"))
    names = world.left(world.asked(PRUNE, variant="one"))
    world.run(world.asked(PRUNE, variant="two"))
    assert world.left(world.asked(PRUNE, variant="two")) == names
    assert first.outcome == "Succeeded"


def test_a_job_that_is_killed_in_a_step_is_run_again_from_the_step_before(world: World, tmp_path: Path) -> None:
    long = {"cluster": {"bits": 4, "finetune": {"epochs": 500}}}
    short = world.asked(PRUNE, CLUSTER, variant="killed")
    slow = world.asked(PRUNE, long, variant="killed", stage=1)
    for asked in (short, slow.model_copy(update={"stage": 0})):
        world.run(asked)
    pruned = world.left(slow)
    log = tmp_path / "termination"
    log.touch()
    program = (
        "import sys; from pathlib import Path; from modelwright_trainer.compress import command;"
        f"sys.exit(command.main(termination=Path({str(log)!r})))"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, DERIVATION_VARIABLE: slow.to_json()}, stderr=subprocess.PIPE
    )
    time.sleep(8)
    job.send_signal(signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    assert world.left(slow) == pruned
    assert world.run(short.model_copy(update={"stage": 1})).before is not None


def test_the_command_says_how_it_ended(world: World, tmp_path: Path) -> None:
    log = tmp_path / "termination"
    log.touch()
    asked = world.asked({"quantize": {"scheme": "Int8Dynamic"}}, CLUSTER, variant="command")
    assert command.main(termination=log, environment={DERIVATION_VARIABLE: asked.to_json()}) == 0
    said = DerivationSummary.from_message(log.read_text())
    assert said is not None
    assert (said.outcome, said.stage) == ("Succeeded", 0)
    after = asked.model_copy(update={"stage": 1})
    code = command.main(termination=log, environment={DERIVATION_VARIABLE: after.to_json()})
    assert code == Outcome.STEP_NEEDS_MODULE.code
    said = DerivationSummary.from_message(log.read_text())
    assert said is not None
    assert said.failure is not None
    assert "after quantize there is a graph alone" in said.failure.message
    code = command.main(termination=log, environment={DERIVATION_VARIABLE: "{}"})
    assert code == Outcome.USER_ERROR.code


def test_a_state_that_was_altered_is_told_with_its_place(world: World) -> None:
    asked = world.asked(PRUNE, CLUSTER, variant="altered")
    world.run(asked)
    found = state.saved(world.store, asked, 0)
    assert found is not None
    uri = f"{state.folder_of(asked, 0)}/{found.weights.removeprefix('sha256:')}"
    content = world.store.read(uri)
    world.store.write(uri, content[:-1] + b"\0")
    with pytest.raises(Damaged, match=r"it was altered: remove it and state\.json, and run again"):
        world.run(asked.model_copy(update={"stage": 1}))


def test_a_parent_of_another_digest_is_refused(world: World) -> None:
    other = world.parent.model_copy(update={"digest": "sha256:" + "0" * 64})
    with pytest.raises(Damaged, match="was asked for"):
        world.run(world.asked(PRUNE, variant="wrong", parent=other))


def test_a_gate_that_fails_says_by_how_much_and_publishes_nothing(world: World) -> None:
    harsh = {"prune": {"sparsity": 0.97}}
    gates = [{"metric": "accuracy", "maxRegression": 0.01}]
    _, last = world.all(harsh, variant="harsh", evaluation={"gates": gates})
    assert last.outcome == Outcome.GATE_FAILED.reason
    assert last.artifact is None
    assert last.failure is not None
    assert "worse than the" in last.failure.message
    assert "above maxRegression 0.01" in last.failure.message
    assert "paired bootstrap" in last.failure.message
    assert last.after is not None
    uri = world.parent.uri.replace("/1.0.0/", "/1.0.0--harsh/")
    assert versions.standing(world.store, uri) is None


@pytest.mark.parametrize("scheme", ["Int8Dynamic", "Int8Static", "Int4Weight"])
def test_a_quantized_version_is_small_served_and_near_its_parent(world: World, scheme: str, tmp_path: Path) -> None:
    gates = [{"metric": "accuracy", "maxRegression": 0.03}]
    step, last = world.all({"quantize": {"scheme": scheme}}, variant=scheme.lower(), evaluation={"gates": gates})
    assert last.outcome == "Succeeded", last.failure
    assert step.before is not None
    assert step.after is not None
    assert step.after.bytes < 0.5 * step.before.bytes
    manifest = world.fetched(last, tmp_path)
    assert manifest.rebuild is None
    loaded = loading.check(tmp_path, manifest, 1)
    assert not loaded.warnings
    # As clients ask, and the analysis before an upgrade: a row at a time.
    assert manifest.golden is not None
    assert bool(manifest.golden.alone) == (scheme == "Int8Dynamic")
    names = list(loaded.samples.outputs)
    for index in range(loaded.samples.rows):
        row = loaded.samples.row(index)
        given = dict(zip(names, loaded.engine.run(row.inputs, names), strict=True))
        assert not [words for name in names if (words := row.disagreement(name, given[name]))]


def test_movement_needs_a_training_to_score(world: World) -> None:
    with pytest.raises(TrainingFailed, match=r"give finetune\.epochs"):
        world.run(world.asked({"prune": {"method": "Movement"}}, variant="movement"))
