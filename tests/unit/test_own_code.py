"""What stands around the user's own code: what it finds, what is kept of it, and what is published of what it left."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from modelwright import artifact, owncode, versions
from modelwright.artifact import FactoryRebuild
from modelwright.contract import Outcome, Progress, Summary, Workers
from modelwright.owncode import Code, OwnData, OwnRun
from modelwright.store import StoreError, Trouble
from modelwright_trainer.failures import DataFailed, TrainingFailed, UserFailed
from modelwright_trainer.owncode import checkpoints, watch
from modelwright_trainer.owncode.watch import Watch
from safetensors.numpy import load_file

from tests.server.processes import free_port
from tests.unit.own_code_world import CLASSES, FEATURES, Pod, graph, pod
from tests.unit.test_shards import dataset, numbers

DIGEST = artifact.digest_of(b"")


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"uri": "s3://bucket/raw/rows.parquet"}, "/modelwright/data/rows.parquet"),
        ({"uri": "s3://bucket/raw%20data/my%20rows.csv"}, "/modelwright/data/my rows.csv"),
        ({"uri": "s3://bucket/raw/"}, "/modelwright/data"),
        ({"uri": "s3://bucket/manifests/x.json", "digest": DIGEST}, "/modelwright/data"),
        ({"uri": "file:///mnt/rows.parquet"}, "/mnt/rows.parquet"),
        ({"uri": "file:///mnt/images/"}, "/mnt/images"),
    ],
)
def test_the_code_finds_its_data_by_a_variable(data: dict[str, str], path: str) -> None:
    assert OwnData.model_validate(data).path() == path


def test_what_torchrun_and_torch_read_is_in_the_environment(tmp_path: Path) -> None:
    run = pod(tmp_path, workers=Workers(replicas=2, processes_per_worker=4, master="own-0.own").model_dump()).run
    given = owncode.environment(run)
    assert given | {
        "PET_NNODES": "2", "PET_NPROC_PER_NODE": "4", "PET_MASTER_ADDR": "own-0.own", "PET_MASTER_PORT": "29500",
        "MASTER_ADDR": "own-0.own", "MASTER_PORT": "29500", "WORLD_SIZE": "8",
        "MODELWRIGHT_OUTPUT": "/modelwright/output", "MODELWRIGHT_TARGET": "b",
    } == given  # fmt: skip
    assert "MODELWRIGHT_TASK" not in given


def test_other_code_other_data_and_no_other_number_of_workers_is_another_training(tmp_path: Path) -> None:
    run = pod(tmp_path).run
    same = run.model_copy(update={"workers": Workers(replicas=4), "attempt": 3})
    other = run.model_copy(update={"code": Code(image=run.code.image, command=("python", "other.py"))})
    assert run.fingerprint("sha256:a") == same.fingerprint("sha256:a")
    assert run.fingerprint("sha256:a") != other.fingerprint("sha256:a")
    assert run.fingerprint("sha256:a") != run.fingerprint("sha256:b")


# Data


def test_files_on_a_volume_stay_where_they_are_and_their_content_is_what_the_data_are(tmp_path: Path) -> None:
    one = pod(tmp_path).fetch()
    assert one.folder.read_fetched().data_digest == artifact.digest_of(b"a,b\n1,2\n")
    assert list(one.folder.data.iterdir()) == []


def test_the_digest_of_a_prefix_is_of_all_names_and_contents(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/raw/"
    first = pod(tmp_path, data={"uri": uri}).fetch().folder.read_fetched().data_digest
    (tmp_path / "raw" / "more.csv").write_text("3,4\n")
    second = pod(tmp_path, 2, data={"uri": uri}).fetch().folder.read_fetched().data_digest
    (tmp_path / "raw" / "more.csv").rename(tmp_path / "raw" / "other.csv")
    third = pod(tmp_path, 3, data={"uri": uri}).fetch().folder.read_fetched().data_digest
    assert len({first, second, third}) == 3


def test_a_prepared_data_set_is_brought_by_its_parts_with_every_digest_checked(tmp_path: Path) -> None:
    (tmp_path / "prepared").mkdir()
    data, _, manifest = dataset(tmp_path / "prepared", numbers(300))
    one = pod(tmp_path, data={"uri": data.uri, "digest": data.digest}).fetch()
    assert one.folder.read_fetched().data_digest == data.digest
    for part, split in manifest.splits.items():
        found = [pq.read_table(file).num_rows for file in sorted((one.folder.data / part).iterdir())]
        assert found == [shard.rows for shard in split.shards]
    assert (one.folder.data / "dataset.json").exists()
    shard = next((tmp_path / "prepared").rglob(Path(manifest.splits["test"].shards[0].path).name))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    (tmp_path / "again").mkdir()
    with pytest.raises(versions.Damaged, match="altered"):
        pod(tmp_path / "again", data={"uri": data.uri, "digest": data.digest}).fetch()


def test_data_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataFailed, match=r"data\.uri: file:///.*/nothing\.csv: there is no such object"):
        pod(tmp_path, data={"uri": f"file://{tmp_path}/nothing.csv"}).fetch()
    with pytest.raises(DataFailed, match=r"data\.uri: below file:///.*/nothing/ there is nothing"):
        pod(tmp_path, 2, data={"uri": f"file://{tmp_path}/nothing/"}).fetch()


# Checkpoints


def watched(one: Pod, **more: object) -> Watch:
    return dataclasses.replace(Watch(one.run, one.store, one.folder, 0, one.folder.read_fetched()), **more)  # type: ignore[arg-type]


def test_the_newest_complete_checkpoint_is_there_in_the_next_attempt(tmp_path: Path) -> None:
    first = pod(tmp_path).fetch()
    seen = watched(first)
    (first.complete(10, weights="ten") / "deep").mkdir()
    (first.folder.checkpoint / "10" / "deep" / "state").write_text("s")
    (first.folder.checkpoint / "11").mkdir()  # not complete
    seen.look()
    assert seen.progress().last_checkpoint_step == 10
    second = pod(tmp_path, 2).fetch()
    assert checkpoints.complete(second.folder.checkpoint) == [10]
    assert (second.folder.checkpoint / "10" / "weights").read_text() == "ten"
    assert (second.folder.checkpoint / "10" / "deep" / "state").read_text() == "s"
    assert watched(second).progress().resumed_from_step == 10


def test_the_store_keeps_as_many_as_are_asked_for_and_none_of_a_later_attempt_goes(tmp_path: Path) -> None:
    one = pod(tmp_path, keep=2).fetch()
    seen = watched(one)
    later = dataclasses.replace(one, run=one.run.model_copy(update={"attempt": 2}))
    checkpoints.save(one.store, later.run, "f", 1, later.complete(1))
    for step in (10, 20, 30):
        one.complete(step)
        seen.look()
    kept = checkpoints.stored(one.store.names(checkpoints.folder_uri(one.run)))
    assert [(name.step, name.attempt) for name in kept] == [(30, 1), (20, 1), (1, 2)]


def test_a_checkpoint_of_other_code_is_passed_over(tmp_path: Path) -> None:
    one = pod(tmp_path).fetch()
    one.complete(10)
    watched(one).look()
    other = pod(tmp_path, 2, code={"image": "registry/team/own:2"}).fetch()
    assert other.folder.read_fetched().resumed_step is None
    assert checkpoints.complete(other.folder.checkpoint) == []


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(tmp_path: Path) -> None:
    one = pod(tmp_path).fetch()
    seen = watched(one)
    for step in (10, 20):
        one.complete(step, weights=str(step))
        seen.look()
    (name, *_) = checkpoints.stored(one.store.names(checkpoints.folder_uri(one.run)))
    one.store.write(f"{checkpoints.folder_uri(one.run)}/{name}/weights", b"altered")
    second = pod(tmp_path, 2).fetch()
    assert checkpoints.complete(second.folder.checkpoint) == [10]


def test_a_store_that_does_not_answer_costs_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = pod(tmp_path).fetch()
    now = [time.time()]
    seen = watched(one, clock=lambda: now[0])
    one.complete(10, weights="ten")

    def down(uri: str, content: bytes | Path) -> None:
        raise StoreError(Trouble.UNREACHABLE, f"{uri}: the store does not answer")

    with monkeypatch.context() as broken:
        broken.setattr(one.store, "write", down)
        seen.look()
    assert "the checkpoint of step 10 is not saved yet" in capsys.readouterr().err
    seen.look()
    assert seen.progress().last_checkpoint_step is None, "it is not asked at every look"
    now[0] += 60
    seen.look()
    assert seen.progress().last_checkpoint_step == 10


def test_what_the_code_saves_on_its_way_out_is_saved_before_the_pod_ends(tmp_path: Path) -> None:
    one = pod(tmp_path).fetch()
    looks = iter([[7], [7], []])

    def processes() -> list[int]:
        there = next(looks)
        if not there:
            one.complete(10)
        return there

    seen = watched(one, seen=processes)
    seen.finish()
    assert seen.progress().last_checkpoint_step == 10


def test_only_index_0_saves(tmp_path: Path) -> None:
    one = pod(tmp_path).fetch()
    one.complete(10)
    watched(one, index=1).look()
    assert one.store.names(checkpoints.folder_uri(one.run)) == []


# Progress


def test_what_the_code_tells_is_the_pod_s_progress_and_a_torn_file_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = pod(tmp_path).fetch()
    seen = watched(one)
    assert seen.progress().phase == "Starting"
    one.folder.progress.write_text('{"step": 5, "totalSteps": 20, "epoch": 1, "loss": 0.5, "gpuWeather": "fine"}')
    told = seen.progress()
    assert (told.phase, told.step, told.total_steps, told.epoch, told.train_loss) == ("Training", 5, 20, 1, 0.5)
    assert told.updated == one.folder.progress.stat().st_mtime
    one.folder.progress.write_text('{"step": 6, "tot')
    os.utime(one.folder.progress, (1, 1))
    assert seen.progress() == told
    one.folder.progress.write_text('{"step": "many"}')
    seen.progress()
    seen.progress()
    assert capsys.readouterr().err.count("progress.json: step: Input should be a valid integer") == 1
    one.folder.publishing.touch()
    assert seen.progress().phase == "Publishing"


def test_code_that_told_of_its_progress_and_is_silent_is_ended_and_said_to_hang(tmp_path: Path) -> None:
    one = pod(tmp_path, stall_seconds=60).fetch()
    now, ended = [time.time()], list[int]()
    seen = watched(one, clock=lambda: now[0], seen=lambda: [7, 8], end=ended.extend)
    now[0] += 3600
    seen.look()
    assert ended == [], "code that never told cannot be told from code that is at work"
    one.folder.progress.write_text('{"step": 5}')
    now[0] = one.folder.progress.stat().st_mtime + 61
    seen.look()
    assert ended == [7, 8]
    assert seen.hung == "no progress for 61 s (stallTimeout 60 s), after step 5"


def test_processes_of_the_pod_are_those_that_live(tmp_path: Path) -> None:
    for process, state in ((1, "S"), (20, "S"), (30, "R"), (40, "Z")):
        (tmp_path / str(process)).mkdir()
        (tmp_path / str(process) / "stat").write_text(f"{process} (a) b) {state} 1 1")
    (tmp_path / "self").mkdir()
    assert watch.others(tmp_path, own=20) == [30]
    assert watch.others(tmp_path, own=1) is None, "the first of its own namespace sees no other container's"


# What is published


def test_a_graph_is_published_with_golden_samples_of_it_and_the_code_s_own_figures(tmp_path: Path) -> None:
    one = pod(tmp_path, data={"uri": f"file://{tmp_path}/raw/rows.csv", "task": "Classification"}).fetch()
    onnx.save(graph(), one.folder.output / "model.onnx")
    one.leave("metrics.json", '{"accuracy": 0.97, "seconds": 12}')
    one.leave("classes.json", '["a", "b", "c"]')
    one.leave("notes/readme.txt", "mine")
    one.folder.progress.write_text('{"step": 30, "epoch": 3}')
    summary = one.publish()
    assert (summary.outcome, summary.step, summary.epoch) == ("Succeeded", 30, 3)
    assert summary.metrics == {"accuracy": 0.97, "seconds": 12.0}
    assert summary.artifact is not None
    manifest = versions.fetch(one.store, summary.artifact.uri, summary.artifact.digest, tmp_path / "fetched")
    assert [file.path for file in manifest.files] == ["golden.safetensors", "model.onnx", "notes/readme.txt"]
    assert manifest.formats.onnx == artifact.Onnx(weights="", opset=17, ir_version=8)
    assert manifest.outputs == (
        artifact.Tensor(name="y", dtype="float32", shape=(None, CLASSES), names=("a", "b", "c")),
    )  # fmt: skip
    assert (manifest.task, manifest.rebuild, manifest.metrics["test"]["accuracy"]) == ("Classification", None, 0.97)
    assert manifest.lineage.data.digest == artifact.digest_of(b"a,b\n1,2\n")
    golden = load_file(tmp_path / "fetched" / "golden.safetensors")
    assert {name: value.shape for name, value in golden.items()} == {"x": (32, FEATURES), "y": (32, CLASSES)}
    assert np.allclose(golden["y"].sum(axis=1), 1)


def test_golden_samples_are_the_code_s_own_where_it_leaves_some(tmp_path: Path) -> None:
    one = pod(tmp_path).fetch()
    onnx.save(graph(), one.folder.output / "model.onnx")
    rows = np.arange(5 * FEATURES, dtype=np.float32).reshape(5, FEATURES)
    np.savez(one.folder.output / "samples.npz", x=rows)
    one.publish()
    assert np.array_equal(load_file(one.folder.output / "golden.safetensors")["x"], rows)


def test_weights_beside_the_graph_are_part_of_the_version(tmp_path: Path) -> None:
    one = pod(tmp_path).fetch()
    onnx.save_model(
        graph(features=64), one.folder.output / "model.onnx", save_as_external_data=True, location="model.data",
        size_threshold=0,
    )  # fmt: skip
    assert one.publish().artifact is not None
    again = pod(tmp_path, 2).fetch()
    again.leave("model.onnx", (one.folder.output / "model.onnx").read_bytes())
    with pytest.raises(UserFailed, match=r"weights in 'model.data', and there is no such file beside it"):
        again.publish()


def test_files_of_an_own_format_are_published_and_nothing_is_run(tmp_path: Path) -> None:
    one = pod(tmp_path).fetch()
    one.leave("native/weights.bin", b"\x00\x01")
    summary = one.publish()
    assert summary.artifact is not None
    manifest = versions.read(one.store, summary.artifact.uri, summary.artifact.digest)
    assert (manifest.formats.onnx, manifest.formats.native) == (None, artifact.Native())
    assert (manifest.golden, manifest.inputs, manifest.classes) == (None, (), ())


def test_a_factory_is_in_an_image_that_never_changes(tmp_path: Path) -> None:
    one = pod(tmp_path).fetch()
    one.leave("native/weights.bin", b"x")
    one.leave("factory.json", '{"entrypoint": "net.model:build", "kwargs": {"depth": 3, "wide": true}}')
    with pytest.raises(UserFailed, match=r"spec\.trainer\.image registry/team/own:1 is a tag, which may: name the"):
        one.publish()
    image = f"registry/team/own@{DIGEST}"
    fixed = pod(tmp_path, 2, code={"image": image}).fetch()
    fixed.leave("native/weights.bin", b"x")
    fixed.leave("factory.json", '{"entrypoint": "net.model:build", "kwargs": {"depth": 3, "wide": true}}')
    summary = fixed.publish()
    assert summary.artifact is not None
    rebuild = versions.read(fixed.store, summary.artifact.uri, None).rebuild
    assert rebuild == FactoryRebuild(image=image, entrypoint="net.model:build", kwargs={"depth": 3, "wide": True})


def test_a_gate_is_decided_on_the_code_s_own_figures(tmp_path: Path) -> None:
    one = pod(tmp_path, gates=[{"metric": "accuracy", "min": 0.9}]).fetch()
    one.leave("native/weights.bin", b"x")
    one.leave("metrics.json", '{"accuracy": 0.8}')
    with pytest.raises(TrainingFailed, match=r"not published: accuracy 0\.8 is below min 0\.9") as failed:
        one.publish()
    assert failed.value.outcome is Outcome.GATE_FAILED
    (one.folder.output / "metrics.json").unlink()
    with pytest.raises(TrainingFailed, match="gate on accuracy: there is no such metric"):
        one.publish()


def test_an_attempt_that_publishes_again_gets_the_version_that_stands(tmp_path: Path) -> None:
    first = pod(tmp_path).fetch()
    first.leave("native/weights.bin", b"first")
    second = pod(tmp_path, 2).fetch()
    second.leave("native/weights.bin", b"not the same bits")
    published = first.publish().artifact
    assert second.publish().artifact == published
    with pytest.raises(versions.Conflict, match="is published already, with other content"):
        pod(tmp_path, 3, code={"image": "registry/team/own:2"}).fetch()


def test_the_other_pods_only_succeed(tmp_path: Path) -> None:
    from modelwright_trainer.owncode.publish import publish

    one = pod(tmp_path).fetch()
    assert publish(one.run, one.store, one.folder, 1).artifact is None


LEFT: dict[str, tuple[dict[str, str | bytes], str]] = {
    "nothing": ({}, r"left neither model\.onnx nor files in native/ in the folder \$MODELWRIGHT_OUTPUT"),
    "no graph": ({"model.onnx": b"\xff\xffnot one"}, r"output/model\.onnx is no ONNX graph"),
    "metrics that are no numbers": (
        {"native/x": "x", "metrics.json": '{"accuracy": "high"}'},
        r'output/metrics\.json: accuracy is "high", and a metric is a finite number',
    ),
    "metrics that are no JSON": ({"native/x": "x", "metrics.json": "acc=1"}, r"metrics\.json cannot be read as JSON"),
    "a metric that is NaN": ({"native/x": "x", "metrics.json": '{"loss": NaN}'}, r"loss is NaN, and a metric is a"),
    "classes twice": ({"native/x": "x", "classes.json": '["a", "a"]'}, r"write a list of texts, each once"),
    "a factory that is no function": ({"native/x": "x", "factory.json": '{"entrypoint": "net"}'}, "json: entrypoint"),
    "a name of ours": ({"manifest.json": "{}"}, r"manifest\.json has a name of a version's own files: rename it"),
    "samples of another shape": (
        {"model.onnx": graph().SerializeToString(), "samples.safetensors": b"nothing"},
        r"output/samples\.safetensors cannot be read",
    ),
    "a graph that no runtime knows": (
        {"model.onnx": graph("Sorcery").SerializeToString()},
        r"output/model\.onnx: onnxruntime .*, which serves it, does not take it",
    ),
    "a graph that throws dice": (
        {"model.onnx": graph("RandomNormalLike").SerializeToString()},
        r"output y differs between two runs on the same inputs: export it for inference, without dropout",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", LEFT)
def test_what_cannot_be_published_is_said_with_the_file_and_the_remedy(tmp_path: Path, what: str) -> None:
    files, words = LEFT[what]
    one = pod(tmp_path).fetch()
    for name, content in files.items():
        one.leave(name, content)
    with pytest.raises(UserFailed, match=words):
        one.publish()


def test_samples_that_do_not_fit_the_graph_are_refused(tmp_path: Path) -> None:
    one = pod(tmp_path).fetch()
    onnx.save(graph(), one.folder.output / "model.onnx")
    np.savez(one.folder.output / "samples.npz", z=np.zeros((2, FEATURES), np.float32))
    with pytest.raises(UserFailed, match=r"there is no array x: give one for each input of the graph \(x\)"):
        one.publish()
    np.savez(one.folder.output / "samples.npz", x=np.zeros((2, FEATURES)))
    with pytest.raises(UserFailed, match=r"x is float64 \[2, 4\], and the graph takes float32 \['rows', 4\]"):
        one.publish()


def test_a_link_out_of_the_output_is_refused(tmp_path: Path) -> None:
    one = pod(tmp_path).fetch()
    one.leave("native/x", "x")
    (one.folder.output / "native" / "all").symlink_to("/etc")
    with pytest.raises(UserFailed, match="output/native/all is a link: copy what it leads to"):
        one.publish()


# The containers, as processes

_ENTRY = (
    "import pathlib, sys; from modelwright_trainer.owncode.command import main; folder = pathlib.Path(sys.argv[2]);"
    "sys.exit(main(sys.argv[1], folder / 'job.json', root=folder / 'root', termination=folder / 'log'))"
)


def start(command: str, run: OwnRun, folder: Path) -> subprocess.Popen[bytes]:
    (folder / "root").mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(run.to_json())
    (folder / "log").write_text("")
    return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", sys.executable, "-c", _ENTRY, command, folder])


def said(folder: Path) -> Summary:
    summary = Summary.from_message((folder / "log").read_text())
    assert summary is not None
    return summary


def test_the_containers_end_with_outcomes_and_tell_of_progress_meanwhile(tmp_path: Path) -> None:
    run = pod(tmp_path, progress_port=0, grace_seconds=1).run
    folder = tmp_path / "containers"
    missing = run.model_copy(update={"data": OwnData(uri=f"file://{tmp_path}/nothing")})
    assert start("fetch", missing, folder).wait(60) == Outcome.DATA_ERROR.code
    assert said(folder).failure is not None
    assert start("fetch", run, folder).wait(60) == 0
    port = free_port()
    beside = start("progress", run.model_copy(update={"progress_port": port}), folder)
    (folder / "root" / "progress.json").write_text('{"step": 3}')
    deadline = time.monotonic() + 30
    while True:
        assert time.monotonic() < deadline
        assert beside.poll() is None
        try:
            seen = Progress.model_validate_json(httpx.get(f"http://127.0.0.1:{port}/progress").content)
            break
        except httpx.TransportError:
            time.sleep(0.05)
    assert (seen.phase, seen.step) == ("Training", 3)
    beside.terminate()
    assert beside.wait(30) == 0
    assert start("publish", run, folder).wait(60) == Outcome.USER_ERROR.code
    told = said(folder)
    assert told.failure is not None
    assert "there is nothing to publish" in told.failure.message
