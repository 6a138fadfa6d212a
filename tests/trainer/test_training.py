"""A training from the store to the store: what it reaches, what it publishes, and that interruptions do not show."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from modelwright import artifact, versions
from modelwright.artifact import Manifest
from modelwright.contract import Outcome, StoreAccess
from modelwright.store import Store, place_of
from modelwright_trainer import data
from modelwright_trainer.split import split
from safetensors.numpy import load_file
from sklearn.metrics import accuracy_score

from tests.trainer.pods import KEYS, PodProcess, job, start, stop, train

pytestmark = pytest.mark.usefixtures("keys")
LONG = {"recipe": "mlp", "hyperparameters": {"hiddenSizes": "64,32", "batchSize": "16", "epochs": "12"}}


@pytest.fixture(scope="module")
def published(access: StoreAccess, tmp_path_factory: pytest.TempPathFactory) -> tuple[PodProcess, str, str]:
    """A training of 2 ranks: its pod, and its version's URI and digest."""
    gates = {"gates": [{"metric": "accuracy", "min": 0.93}]}
    summary, pod = train(job(access, "digits", evaluation=gates), tmp_path_factory.mktemp("published") / "pod")
    assert summary.artifact, pod.log()
    assert summary.metrics["accuracy"] >= 0.93
    return pod, summary.artifact.uri, summary.artifact.digest


def test_two_ranks_learn_the_digits_to_the_gate(published: tuple[PodProcess, str, str]) -> None:
    pod, uri, _ = published
    assert pod.process.returncode == Outcome.SUCCEEDED.code
    assert uri == "s3://modelwright/store/models/team-a/digits/versions/1.0.0/manifest.json"


def test_the_published_file_has_the_published_accuracy(
    published: tuple[PodProcess, str, str], access: StoreAccess, store: Store, tmp_path: Path
) -> None:
    _, uri, digest = published
    manifest = versions.fetch(store, uri, digest, tmp_path)
    table = data.load(store, job(access, "x").data)
    test = split(table.rows, {"train": 0.8, "validation": 0.1, "test": 0.1}, 7, table.targets)["test"]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (given,) = session.run(["probabilities"], {"features": table.features[test]})
    expected = manifest.metrics["test"]["accuracy"]
    assert accuracy_score(table.targets[test], given.argmax(axis=1)) == pytest.approx(expected, abs=1e-12)
    assert manifest.lineage.data.digest == table.digest
    assert manifest.classes == tuple("0123456789")


def test_golden_samples_agree_with_the_file_row_by_row_and_weights_are_stored_once(
    published: tuple[PodProcess, str, str], store: Store, tmp_path: Path
) -> None:
    _, uri, digest = published
    manifest = versions.fetch(store, uri, digest, tmp_path)
    samples = load_file(tmp_path / manifest.golden.path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for row in range(manifest.golden.rows):
        logits, _ = session.run(None, {"features": samples["features"][row : row + 1]})
        np.testing.assert_allclose(
            logits[0], samples["logits"][row],
            rtol=manifest.golden.relative_tolerance, atol=manifest.golden.absolute_tolerance,
        )  # fmt: skip
    sizes = {file.path: file.size for file in manifest.files}
    weights = load_file(tmp_path / "model.safetensors")
    assert sizes["model.onnx"] < 2500 < sum(value.nbytes for value in weights.values())
    baseline = json.loads((tmp_path / "baseline.json").read_text())
    assert len(baseline["features"]) == 64
    assert sum(baseline["classes"].values()) == pytest.approx(1)


def test_an_altered_blob_is_refused_by_name(
    published: tuple[PodProcess, str, str], store: Store, tmp_path: Path
) -> None:
    _, uri, digest = published
    manifest = versions.fetch(store, uri, digest, tmp_path / "right")
    weights = next(file for file in manifest.files if file.path == "model.safetensors")
    blob = artifact.blob_uri(uri, weights.digest)
    content = store.read(blob)
    store.write(blob, content[:-1] + bytes([content[-1] ^ 1]))
    try:
        with pytest.raises(versions.Damaged, match=r"blobs/[0-9a-f]{64}: model\.safetensors is .* the manifest says"):
            versions.fetch(store, uri, digest, tmp_path / "altered")
        with pytest.raises(versions.Damaged, match=r"was altered: remove it, then publish again"):
            versions.publish(store, uri, manifest, tmp_path / "right")
    finally:
        store.write(blob, content)
    assert not (tmp_path / "altered" / "model.safetensors").exists()
    assert not (tmp_path / "altered" / artifact.MANIFEST).exists()


def test_another_digest_than_the_one_asked_for_is_refused(
    published: tuple[PodProcess, str, str], store: Store, tmp_path: Path
) -> None:
    with pytest.raises(versions.Damaged, match="was asked for"):
        versions.fetch(store, published[1], "sha256:" + "0" * 64, tmp_path)


def test_the_same_job_again_finds_its_version_and_trains_nothing(
    published: tuple[PodProcess, str, str], access: StoreAccess, tmp_path: Path
) -> None:
    summary, pod = train(job(access, "digits", attempt=2, processes=1), tmp_path / "pod")
    assert summary.exit_code == 0
    assert summary.artifact
    assert summary.artifact.digest == published[2]
    assert "epoch=1" not in pod.log()


def test_another_content_under_the_same_version_is_refused_before_it_is_trained(
    published: tuple[PodProcess, str, str], access: StoreAccess, store: Store, tmp_path: Path
) -> None:
    other = {"recipe": "mlp", "hyperparameters": {"hiddenSizes": "8", "epochs": "1"}}
    summary, pod = train(job(access, "digits", trainer=other, processes=1), tmp_path / "pod")
    assert summary.exit_code == Outcome.VERSION_CONFLICT.code
    assert summary.failure
    assert "published already, with other content" in summary.failure.message
    assert "epoch=1" not in pod.log()
    assert artifact.digest_of(store.read(published[1])) == published[2]


def test_a_late_attempt_overwrites_nothing(
    published: tuple[PodProcess, str, str], store: Store, tmp_path: Path
) -> None:
    """As if it had begun before the version was there: it gets as far as the manifest, and no further."""
    _, uri, digest = published
    manifest = versions.fetch(store, uri, digest, tmp_path)
    stated = manifest.model_dump()
    stated["lineage"]["fingerprint"] = "sha256:" + "1" * 64
    with pytest.raises(versions.Conflict, match="a version never changes"):
        versions.publish(store, uri, Manifest.model_validate(stated), tmp_path)
    assert artifact.digest_of(store.read(uri)) == digest
    assert versions.publish(store, uri, manifest, tmp_path) == digest


def test_a_failed_gate_publishes_nothing_and_says_figure_and_threshold(
    access: StoreAccess, store: Store, tmp_path: Path
) -> None:
    short = {"recipe": "mlp", "hyperparameters": {"hiddenSizes": "8", "epochs": "1"}}
    gates = {"gates": [{"metric": "accuracy", "min": 0.99}, {"metric": "log_loss", "max": 0.01}]}
    summary, _ = train(job(access, "gated", trainer=short, evaluation=gates), tmp_path / "pod")
    assert summary.exit_code == Outcome.GATE_FAILED.code
    assert summary.failure
    assert summary.failure.message.startswith("not published: accuracy 0.")
    assert "is below min 0.99; log_loss" in summary.failure.message
    assert not store.names("s3://modelwright/store/models/team-a/gated")


@pytest.fixture(scope="module")
def undisturbed(access: StoreAccess, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[int, str], str]:
    """The losses of all steps, and the weights' digest, of a run that nothing disturbs."""
    summary, pod = train(job(access, "calm", trainer=LONG), tmp_path_factory.mktemp("calm") / "pod")
    assert summary.artifact, pod.log()
    return pod.losses(), _weights(Store(access, KEYS), summary.artifact.uri)


def _weights(store: Store, uri: str) -> str:
    manifest = Manifest.from_bytes(store.read(uri))
    return next(file.digest for file in manifest.files if file.path == "model.safetensors")


def test_after_a_killed_worker_the_losses_are_bit_identical(
    undisturbed: tuple[dict[int, str], str], access: StoreAccess, store: Store, tmp_path: Path
) -> None:
    pod = start(job(access, "killed", trainer=LONG), tmp_path / "first")
    pod.until(lambda seen: (seen.last_checkpoint_step or 0) >= 200)
    os.kill(pod.ranks()[1], signal.SIGKILL)
    killed = pod.ended()
    assert killed.exit_code == Outcome.WORKER_CRASHED.code, pod.log()
    assert killed.failure
    assert killed.failure.message == "a worker was ended by SIGKILL"
    summary, again = train(job(access, "killed", trainer=LONG, attempt=2), tmp_path / "second")
    assert summary.artifact, again.log()
    assert "resumed from the checkpoint" in again.log()
    before, after = pod.losses(), again.losses()
    assert 200 < min(after) < max(before) + 25
    assert {**before, **after} == undisturbed[0]
    assert {step: after[step] for step in before if step in after} == {
        step: before[step] for step in before if step in after
    }
    assert _weights(store, summary.artifact.uri) == undisturbed[1]


def test_after_a_preemption_the_losses_are_bit_identical_and_no_step_is_done_twice(
    undisturbed: tuple[dict[int, str], str], access: StoreAccess, store: Store, tmp_path: Path
) -> None:
    """Two pods; SIGTERM reaches one, both save the same step."""
    run = job(access, "preempted", trainer=LONG, pods=2, processes=1)
    pods = [start(run, tmp_path / f"first-{index}", index=index) for index in range(2)]
    pods[0].until(lambda seen: seen.step >= 150)
    stop(pods[1])
    ends = [pod.ended(timeout=60) for pod in pods]
    assert [end.exit_code for end in ends] == [Outcome.PREEMPTED.code] * 2, pods[0].log() + pods[1].log()
    assert ends[0].step == ends[1].step == ends[0].last_checkpoint_step
    resumed = job(access, "preempted", trainer=LONG, pods=2, processes=1, attempt=2)
    pods2 = [start(resumed, tmp_path / f"second-{index}", index=index) for index in range(2)]
    summaries = [pod.ended() for pod in pods2]
    assert summaries[0].artifact, pods2[0].log()
    before, after = pods[0].losses(), pods2[0].losses()
    assert max(before) + 1 == min(after) == ends[0].step + 1
    assert {**before, **after} == undisturbed[0]
    assert _weights(store, summaries[0].artifact.uri) == undisturbed[1]


def test_a_resume_with_another_world_size_goes_on_with_the_next_row(
    undisturbed: tuple[dict[int, str], str], access: StoreAccess, tmp_path: Path
) -> None:
    pod = start(job(access, "resized", trainer=LONG), tmp_path / "first")
    pod.until(lambda seen: seen.step >= 150)
    stop(pod)
    ended = pod.ended(timeout=60)
    assert ended.exit_code == Outcome.PREEMPTED.code, pod.log()
    summary, again = train(job(access, "resized", trainer=LONG, attempt=2, processes=1), tmp_path / "second")
    assert summary.artifact, again.log()
    after = again.losses()
    assert min(after) == ended.step + 1
    assert max(after) == max(undisturbed[0])
    # The first step after the resume has the same weights and rows; only the order of its sums differs.
    assert float(after[min(after)]) == pytest.approx(float(undisturbed[0][min(after)]), rel=1e-5)


def test_one_rank_and_two_agree_within_1e_4(
    undisturbed: tuple[dict[int, str], str], access: StoreAccess, tmp_path: Path
) -> None:
    one_epoch = {"recipe": "mlp", "hyperparameters": {**LONG["hyperparameters"], "epochs": "2"}}  # type: ignore[dict-item]
    summary, pod = train(job(access, "alone", trainer=one_epoch, processes=1), tmp_path / "pod")
    assert summary.exit_code == 0, pod.log()
    alone, together = pod.losses(), undisturbed[0]
    apart = max(abs(float(alone[step]) - float(together[step])) / float(together[step]) for step in alone)
    print(f"1 rank against 2, {len(alone)} steps: losses differ by at most {apart:.2g} (relative)")
    assert apart < 1e-4


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    access: StoreAccess, store: Store, tmp_path: Path
) -> None:
    pod = start(job(access, "torn", trainer=LONG), tmp_path / "first")
    pod.until(lambda seen: (seen.last_checkpoint_step or 0) >= 60)
    stop(pod)
    pod.ended()
    folder = "s3://modelwright/store/checkpoints/team-a/torn/uid-torn"
    newest, older = sorted({name.split("/")[0] for name in store.names(folder) if name.endswith(".metadata")})[::-1]
    content = store.read(f"{folder}/{newest}/__0_0.distcp")
    store.write(f"{folder}/{newest}/__0_0.distcp", content[:100])
    summary, again = train(job(access, "torn", trainer=LONG, attempt=2), tmp_path / "second")
    assert summary.exit_code == 0, again.log()
    assert f"checkpoint {newest} is damaged, and passed over" in again.log()
    assert f"({older})" in again.log()
    assert place_of(folder)[0] == "modelwright"


@pytest.mark.long
def test_three_ranks_resume_bit_identically_too(access: StoreAccess, store: Store, tmp_path: Path) -> None:
    """With more than two ranks the order of sums depends on how DDP arranges its buckets."""
    short = {"recipe": "mlp", "hyperparameters": {"hiddenSizes": "600,600", "batchSize": "64", "epochs": "8"}}
    calm, whole = train(job(access, "three-calm", trainer=short, processes=3), tmp_path / "calm")
    pod = start(job(access, "three", trainer=short, processes=3), tmp_path / "first")
    pod.until(lambda seen: seen.step >= 40)
    stop(pod)
    pod.ended()
    summary, again = train(job(access, "three", trainer=short, processes=3, attempt=2), tmp_path / "second")
    assert calm.artifact
    assert summary.artifact, again.log()
    assert len(again.losses()) < len(whole.losses())
    assert {**pod.losses(), **again.losses()} == whole.losses()
    assert _weights(store, summary.artifact.uri) == _weights(store, calm.artifact.uri)
