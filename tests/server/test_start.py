"""A server is ready only where what it serves is what was published; where it cannot serve, it says why."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from modelwright import artifact
from modelwright.contract import StoreAccess
from modelwright.serving import Reason, ServingStatus

from tests.server import artifacts
from tests.server.artifacts import CLASSES, ROWS, Published
from tests.server.conftest import Serve
from tests.server.processes import Server, free_port


@pytest.fixture
def own(tmp_path: Path) -> Published:
    """A version whose store the test may harm."""
    return artifacts.publish(tmp_path)


def status(admin: str) -> ServingStatus:
    return ServingStatus.model_validate_json(httpx.get(f"{admin}/status").content)


def test_a_ready_server_tells_its_run_and_what_its_start_took(serve: Serve, published: Published) -> None:
    server = serve(published).wait_ready()
    told = status(server.admin)
    assert (told.phase, told.run, told.warnings) == ("Ready", server.run, ())
    assert set(told.load_seconds) == {"fetch", "session", "golden", "warmup", "total"}
    assert sum(seconds for part, seconds in told.load_seconds.items() if part != "total") < told.load_seconds["total"]


@pytest.mark.parametrize("name", [artifact.ONNX_FILE, artifact.WEIGHTS_FILE, artifact.GOLDEN_FILE])
def test_an_altered_file_is_named_and_nothing_is_served(serve: Serve, own: Published, name: str) -> None:
    blob = own.blob(name)
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    code, failure = serve(own).failure()
    assert (code, failure.reason) == (Reason.ARTIFACT_DAMAGED.code, "ArtifactDamaged")
    assert name in failure.message
    assert "publish the version anew" in failure.message


def test_a_missing_file_is_named(serve: Serve, own: Published) -> None:
    own.blob(artifact.WEIGHTS_FILE).unlink()
    _, failure = serve(own).failure()
    assert failure.reason == "ArtifactDamaged"
    assert "model.safetensors of iris 1.0.0 is missing in the store" in failure.message


def test_an_altered_manifest_is_refused(serve: Serve, own: Published) -> None:
    path = Path(own.uri.removeprefix("file://"))
    path.write_bytes(path.read_bytes().replace(b"0.93", b"0.99"))
    _, failure = serve(own).failure()
    assert failure.reason == "ArtifactDamaged"
    assert own.digest in failure.message


def test_a_file_on_the_disk_that_was_altered_between_restarts_is_fetched_again(
    tmp_path: Path, serve: Serve, own: Published
) -> None:
    shared = {"TMPDIR": str(tmp_path)}
    serve(own, environment=shared).wait_ready().kill()
    (kept,) = tmp_path.glob(f"modelwright/*/{artifact.WEIGHTS_FILE}")
    kept.write_bytes(b"x" * kept.stat().st_size)
    serve(own, environment=shared).wait_ready()
    assert kept.read_bytes() == (own.folder / artifact.WEIGHTS_FILE).read_bytes()


def test_golden_samples_that_do_not_agree_keep_it_from_serving(serve: Serve, tmp_path: Path) -> None:
    wrong = artifacts.publish(tmp_path, golden={"logits": np.zeros((ROWS, CLASSES), np.float32)})
    code, failure = serve(wrong).failure()
    assert (code, failure.reason) == (Reason.GOLDEN_MISMATCH.code, "GoldenMismatch")
    assert "logits: 0.0% of the values agree" in failure.message


@pytest.mark.parametrize("wrong", [True, False])
def test_golden_samples_of_another_hardware_are_a_warning(serve: Serve, tmp_path: Path, *, wrong: bool) -> None:
    def elsewhere(content: dict[str, Any]) -> None:
        content["golden"]["instruction_set"] = "s390x/vxe"

    golden = {"logits": np.zeros((ROWS, CLASSES), np.float32)} if wrong else {}
    server = serve(artifacts.publish(tmp_path, golden=golden, edit=elsewhere)).wait_ready()
    (warning,) = status(server.admin).warnings
    assert warning.reason == "GoldenNotComparable"
    assert "s390x/vxe" in warning.message
    assert ("0.0% of the values agree" if wrong else "they agree here all the same") in warning.message
    assert "GoldenNotComparable" in server.log
    assert httpx.get(server.model_url).json()["parameters"] == {"golden_samples": "GoldenNotComparable"}


def test_another_version_than_asked_for_is_refused(serve: Serve, published: Published) -> None:
    code, failure = serve(published, version="2.0.0").failure()
    assert (code, failure.reason) == (Reason.VERSION_MISMATCH.code, "VersionMismatch")
    assert "is iris 1.0.0, and iris 2.0.0 was asked for" in failure.message


def test_an_artifact_without_onnx_is_said_to_be_so(serve: Serve, own: Published) -> None:
    content = own.manifest.to_bytes().replace(b'"formats":{"onnx"', b'"formats":{"hf"')
    Path(own.uri.removeprefix("file://")).write_bytes(content)
    code, failure = serve(dataclasses.replace(own, digest=artifact.digest_of(content))).failure()
    assert (code, failure.reason) == (Reason.FORMAT_UNAVAILABLE.code, "FormatUnavailable")
    assert "its formats are hf, and this server runs onnx" in failure.message


def test_files_of_the_users_own_format_are_not_even_fetched(serve: Serve, tmp_path: Path) -> None:
    def native(content: dict[str, Any]) -> None:
        content |= {"formats": {"native": {}}, "golden": None, "inputs": (), "outputs": ()}

    own = artifacts.publish(tmp_path, edit=native)
    own.blob(artifact.WEIGHTS_FILE).write_bytes(b"damaged, if somebody looked")
    code, failure = serve(own).failure()
    assert (code, failure.reason) == (Reason.FORMAT_UNAVAILABLE.code, "FormatUnavailable")
    assert failure.message.endswith(
        "its formats are native, and this server runs onnx: choose another runtime, or publish the version as ONNX"
    )


def test_a_graph_that_the_runtime_does_not_take_is_said_with_its_words(serve: Serve, tmp_path: Path) -> None:
    def no_graph(content: dict[str, Any]) -> None:
        (made,) = tmp_path.glob("made-*")
        (made / artifact.ONNX_FILE).write_bytes(b"no graph")
        content["files"][0] = artifacts.versions.file_entry(made / artifact.ONNX_FILE, artifact.ONNX_FILE)

    code, failure = serve(artifacts.publish(tmp_path, edit=no_graph)).failure()
    assert (code, failure.reason) == (Reason.LOAD_FAILED.code, "LoadFailed")
    assert "model.onnx: onnxruntime" in failure.message


def test_a_manifest_that_misstates_the_graph_is_refused(serve: Serve, tmp_path: Path) -> None:
    def wider(content: dict[str, Any]) -> None:
        content["inputs"][0]["shape"] = (None, 9)

    _, failure = serve(artifacts.publish(tmp_path, edit=wider)).failure()
    assert failure.reason == "LoadFailed"
    assert "features FP32 [-1, 8], and the manifest says features FP32 [-1, 9]" in failure.message


def test_a_version_that_is_not_there_is_the_stores_refusal(serve: Serve, published: Published) -> None:
    code, failure = serve(published, manifest_uri=published.uri.replace("1.0.0", "9.0.0")).failure()
    assert (code, failure.reason) == (Reason.STORE_REFUSED.code, "StoreRefused")
    assert "there is no such object" in failure.message


def test_missing_credentials_are_the_stores_refusal(serve: Serve, published: Published) -> None:
    uri = "s3://bucket/models/team-a/iris/versions/1.0.0/manifest.json"
    _, failure = serve(published, manifest_uri=uri, store=StoreAccess(uri="s3://bucket")).failure()
    assert failure.reason == "StoreRefused"
    assert "name a Secret with AWS_ACCESS_KEY_ID" in failure.message


def test_a_store_that_does_not_answer_is_tried_again_while_the_pod_is_live(serve: Serve, published: Published) -> None:
    server = serve(
        published,
        manifest_uri="s3://bucket/models/team-a/iris/versions/1.0.0/manifest.json",
        store=StoreAccess(uri="s3://bucket", endpoint=f"http://127.0.0.1:{free_port()}"),
        environment={"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
    ).wait_live()
    assert httpx.get(f"{server.url}/v2/health/ready").status_code == 503
    assert httpx.get(f"{server.model_url}/ready").status_code == 503
    answer = httpx.post(f"{server.model_url}/infer", json={})
    assert (answer.status_code, answer.json()["error"]) == (503, "model iris is not ready yet")
    assert status(server.admin).phase == "Fetching"
    code, failure = server.failure(120)
    assert (code, failure.reason) == (Reason.STORE_UNREACHABLE.code, "StoreUnreachable")
    assert "check the endpoint" in failure.message


def test_one_that_is_told_to_stop_while_it_fetches_ends_at_once(serve: Serve, published: Published) -> None:
    server = serve(
        published,
        manifest_uri="s3://bucket/models/team-a/iris/versions/1.0.0/manifest.json",
        store=StoreAccess(uri="s3://bucket", endpoint=f"http://127.0.0.1:{free_port()}"),
        environment={"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
        store_patience_seconds=600,
    ).wait_live()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(10) == 0


def test_a_port_that_is_taken_is_told(serve: Serve, published: Published) -> None:
    first = serve(published).wait_ready()
    code, failure = serve(published, port=first.run.port).failure()
    assert (code, failure.reason) == (Reason.INVALID_RUN.code, "InvalidRun")
    assert f"port {first.run.port} cannot be listened on" in failure.message


@pytest.mark.parametrize(
    ("replaced", "words"),
    [
        (None, "MODELWRIGHT_SERVING is not set"),
        ("{{", "Invalid JSON"),
        ('{"contract":2,', "contract: Input should be 1"),
        ('{"colour":"green",', "colour: Extra inputs are not permitted"),
    ],
)
def test_a_run_that_cannot_be_read_is_told(
    serve: Serve, published: Published, server: Server, replaced: str | None, words: str
) -> None:
    text = "" if replaced is None else server.run.to_json().replace('"contract":1,', "").replace("{", replaced, 1)
    code, failure = serve(published, environment={"MODELWRIGHT_SERVING": text}).failure()
    assert (code, failure.reason) == (Reason.INVALID_RUN.code, "InvalidRun")
    assert words in failure.message
