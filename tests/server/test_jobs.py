"""The Jobs of the same image: `analyse` measures a service from outside, `verify` judges what lies in a store."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from modelwright import artifact
from modelwright.serving import AnalysisSummary, Reason

from tests.server import artifacts, processes
from tests.server.artifacts import CLASSES, ROWS, Published
from tests.server.conftest import Serve
from tests.server.processes import Server, free_port, until


def test_an_analysis_measures_a_good_service(tmp_path: Path, server: Server, published: Published) -> None:
    before = server.metrics()
    code, summary = processes.analyse(published, tmp_path, server.url, requests=40)
    assert code == 0
    assert (summary.requests, summary.errors, summary.mismatches, summary.wrong_versions) == (40, 0, 0, 0)
    assert (summary.first_error, summary.failure) == (None, None)
    assert summary.p50_ms is not None
    assert summary.p99_ms is not None
    assert summary.max_ms is not None
    assert 0 < summary.p50_ms <= summary.p99_ms <= summary.max_ms
    key = 'modelwright_serving_requests_total{code="200",model="iris",version="1.0.0"}'
    assert server.metrics()[key] - before[key] == 40


def test_an_analysis_sees_another_version(tmp_path: Path, server: Server) -> None:
    other = artifacts.publish(tmp_path, version="1.1.0", seed=4)
    code, summary = processes.analyse(other, tmp_path / "job", server.url, requests=6, concurrency=1)
    assert (code, summary.requests, summary.wrong_versions) == (0, 6, 6)
    assert summary.first_error == "request 1: answered by version 1.0.0, not 1.1.0"


def test_an_analysis_sees_outputs_that_do_not_agree(tmp_path: Path, server: Server) -> None:
    """A pod that computes something else under the right version's name."""
    wrong = artifacts.publish(tmp_path, golden={"logits": np.zeros((ROWS, CLASSES), np.float32)})
    code, summary = processes.analyse(wrong, tmp_path / "job", server.url, requests=6)
    assert (code, summary.errors, summary.mismatches) == (0, 0, 6)
    assert summary.first_error is not None
    assert "logits: 0.0% of the values agree" in summary.first_error


def test_an_analysis_judges_no_outputs_of_other_hardware(tmp_path: Path, serve: Serve) -> None:
    def elsewhere(content: dict[str, Any]) -> None:
        content["golden"]["instruction_set"] = "s390x/vxe"

    golden = {"logits": np.zeros((ROWS, CLASSES), np.float32)}
    there = artifacts.publish(tmp_path, golden=golden, edit=elsewhere)
    server = serve(there).wait_ready()
    code, summary = processes.analyse(there, tmp_path / "job", server.url, requests=6)
    assert (code, summary.errors, summary.mismatches, summary.not_comparable) == (0, 0, 0, 6)


def test_an_analysis_counts_errors_and_has_the_first_ones_words(tmp_path: Path, failing: Server) -> None:
    def large(content: dict[str, Any]) -> None:
        content["golden"]["minimum_agreement"] = 0.5

    rows = np.full((ROWS, artifacts.FEATURES), 1000, np.float32)
    version = artifacts.publish(tmp_path, version="1.1.0", variant="int8", golden={"features": rows}, edit=large)
    code, summary = processes.analyse(version, tmp_path / "job", failing.url, requests=8, concurrency=1)
    assert (code, summary.requests, summary.errors) == (0, 8, 8)
    assert summary.first_error is not None
    assert summary.first_error.startswith('request 1: 500: {"error":"the inference failed: ')


def test_an_analysis_of_a_draining_service_has_no_errors(tmp_path: Path, serve: Serve, published: Published) -> None:
    server = serve(published).wait_ready()
    httpx.post(f"{server.admin}/drain")
    code, summary = processes.analyse(published, tmp_path / "job", server.url, requests=10)
    assert (code, summary.requests, summary.errors) == (0, 10, 0), summary.first_error


def test_an_analysis_waits_for_a_service_that_comes_late(tmp_path: Path, serve: Serve, published: Published) -> None:
    port = free_port()
    ended: list[tuple[int, AnalysisSummary]] = []

    def analyse() -> None:
        url = f"http://127.0.0.1:{port}"
        ended.append(processes.analyse(published, tmp_path / "job", url, requests=3, timeout_seconds=120))

    job = threading.Thread(target=analyse)
    job.start()
    # It has fetched, and so it is asking.
    log = tmp_path / "job" / "log"
    until(lambda: log.exists() and "does not answer yet" in log.read_text())
    serve(published, port=port)
    job.join()
    ((code, summary),) = ended
    # The server is live before it is ready: what is measured is what clients see.
    assert (code, summary.requests, summary.failure) == (0, 3, None)


def test_an_analysis_that_reaches_nobody_says_so(tmp_path: Path, published: Published) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    began = time.monotonic()
    code, summary = processes.analyse(published, tmp_path, url, timeout_seconds=1)
    assert time.monotonic() - began < 30
    assert summary.failure is not None
    assert (code, summary.failure.reason) == (Reason.SERVICE_UNREACHABLE.code, "ServiceUnreachable")
    assert "does the Service have ready endpoints" in summary.failure.message
    assert summary.requests == 0


def test_an_analysis_that_has_no_time_says_how_far_it_came(
    tmp_path: Path, server: Server, published: Published
) -> None:
    code, summary = processes.analyse(published, tmp_path, server.url, requests=1_000_000, timeout_seconds=1.5)
    assert summary.failure is not None
    assert (code, summary.failure.reason) == (Reason.TIMED_OUT.code, "TimedOut")
    assert 0 < summary.requests < 1_000_000
    assert "of 1000000 requests were not sent within 1.5 s" in summary.failure.message


def test_an_analysis_with_damaged_golden_samples_says_so(tmp_path: Path, server: Server) -> None:
    harmed = artifacts.publish(tmp_path)
    harmed.blob(artifact.GOLDEN_FILE).write_bytes(b"x")
    code, summary = processes.analyse(harmed, tmp_path / "job", server.url)
    assert summary.failure is not None
    assert (code, summary.failure.reason) == (Reason.ARTIFACT_DAMAGED.code, "ArtifactDamaged")
    assert artifact.GOLDEN_FILE in summary.failure.message


def test_a_good_version_is_verified(tmp_path: Path, published: Published) -> None:
    code, summary = processes.verify(published, tmp_path)
    assert (code, summary.ok, summary.digest, summary.failure) == (0, True, published.digest, None)
    assert (summary.task, summary.classes, summary.metrics) == ("Classification", 3, {"accuracy": 0.93})
    assert summary.bytes == sum(file.size for file in published.manifest.files)


def harm_weights(version: Published) -> dict[str, Any]:
    version.blob(artifact.WEIGHTS_FILE).write_bytes(b"x")
    return {}


def misname(_: Published) -> dict[str, Any]:
    return {"model": "tulips"}


def other_digest(_: Published) -> dict[str, Any]:
    return {"digest": artifact.digest_of(b"other")}


def remove(version: Published) -> dict[str, Any]:
    Path(version.uri.removeprefix("file://")).unlink()
    return {}


@pytest.mark.parametrize(
    ("harm", "reason", "words"),
    [
        (harm_weights, Reason.ARTIFACT_DAMAGED, "model.safetensors"),
        (misname, Reason.VERSION_MISMATCH, "is iris 1.0.0, and tulips 1.0.0 was asked for"),
        (other_digest, Reason.ARTIFACT_DAMAGED, artifact.digest_of(b"other")),
        (remove, Reason.STORE_REFUSED, "there is no such object"),
    ],
)
def test_what_is_wrong_with_a_version_is_said(tmp_path: Path, harm: Any, reason: Reason, words: str) -> None:
    version = artifacts.publish(tmp_path)
    code, summary = processes.verify(version, tmp_path / "job", **harm(version))
    assert summary.failure is not None
    assert (code, summary.ok, summary.failure.reason) == (reason.code, False, reason.reason)
    assert words in summary.failure.message


def test_golden_samples_that_do_not_agree_are_found(tmp_path: Path) -> None:
    wrong = artifacts.publish(tmp_path, golden={"logits": np.ones((ROWS, CLASSES), np.float32)})
    code, summary = processes.verify(wrong, tmp_path / "job")
    assert summary.failure is not None
    assert (code, summary.failure.reason) == (Reason.GOLDEN_MISMATCH.code, "GoldenMismatch")
