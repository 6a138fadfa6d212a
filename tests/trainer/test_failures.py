"""What a pod says when a training cannot succeed: exit code and words, from real pods."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from modelwright.contract import SUMMARY_BYTES, Outcome, StoreAccess

from tests.trainer.pods import free_port, job, start, stop, train

DATA = {"uri": "s3://modelwright/raw/digits.parquet", "target": "label"}
TINY = {"recipe": "mlp", "hyperparameters": {"hiddenSizes": "8", "epochs": "1"}}


@pytest.mark.parametrize(
    ("more", "outcome", "words"),
    [
        ({"data": {**DATA, "target": "lable"}}, Outcome.DATA_ERROR,
         "data.target: there is no column lable; did you mean label?"),
        ({"data": {**DATA, "uri": "s3://modelwright/raw/nothing.parquet"}}, Outcome.DATA_ERROR,
         "there is no such object: mend the URI, or upload it"),
        ({"data": {**DATA, "uri": "s3://no-such-bucket/raw/digits.parquet"}}, Outcome.DATA_ERROR,
         "has no such bucket: create it, or mend the URI"),
        ({"trainer": {"recipe": "mlp", "hyperparameters": {"learningrate": "0.1"}}}, Outcome.USER_ERROR,
         "did you mean learningRate?"),
        ({"trainer": {"recipe": "mlp", "hyperparameters": {"learningRate": "-1"}}}, Outcome.USER_ERROR,
         "is out of range: above 0"),
        ({"trainer": {"recipe": "mlp", "hyperparameters": {"learningRate": "10", "hiddenSizes": "64,64,64,64,64,64"}},
          "data": {**DATA, "features": ["pixel_1"]}, "evaluation": {"gates": [{"metric": "acuracy", "min": 0.5}]}},
         None, ""),
    ],
    ids=["unknown column", "no object", "no bucket", "misspelt", "out of range", "unknown metric or divergence"],
)  # fmt: skip
def test_bad_input_has_an_exit_code_and_a_remedy(
    access: StoreAccess, tmp_path: Path, more: dict[str, Any], outcome: Outcome | None, words: str
) -> None:
    summary, pod = train(job(access, "bad", processes=1, **more), tmp_path / "pod")
    assert summary.failure, pod.log()
    if outcome:
        assert (summary.outcome, summary.exit_code) == (outcome.reason, outcome.code)
    else:
        assert Outcome.of(summary.exit_code) in (Outcome.GATE_FAILED, Outcome.USER_ERROR)
    assert words in summary.failure.message
    assert not summary.failure.frames
    # The rank's own last words, and none of torchrun's; a job that is refused before it begins has printed none.
    assert not summary.log or summary.log[-1].startswith("rank 0: "), summary.log
    assert len((pod.folder / "termination-log").read_bytes()) <= SUMMARY_BYTES


@pytest.mark.parametrize("wrong", [{"AWS_SECRET_ACCESS_KEY": "wrong"}, {"AWS_ACCESS_KEY_ID": "nobody"}])
def test_wrong_credentials_are_said_without_a_retry(access: StoreAccess, tmp_path: Path, wrong: dict[str, str]) -> None:
    summary, pod = train(job(access, "bad", processes=1), tmp_path / "pod", environment=wrong)
    assert summary.exit_code == Outcome.STORE_REFUSED.code, pod.log()
    assert summary.failure
    assert "does not accept the credentials" in summary.failure.message
    assert not Outcome.of(summary.exit_code).retried


def test_a_store_that_does_not_answer_is_infrastructure(tmp_path: Path) -> None:
    nowhere = StoreAccess(uri="s3://modelwright/store", endpoint=f"http://127.0.0.1:{free_port()}")
    summary, pod = train(job(nowhere, "bad", processes=1), tmp_path / "pod")
    assert summary.exit_code == Outcome.INFRASTRUCTURE.code, pod.log()
    assert summary.failure
    assert "does not answer" in summary.failure.message


def test_a_master_that_never_comes_is_infrastructure_and_sigterm_ends_the_wait(
    access: StoreAccess, tmp_path: Path
) -> None:
    run = job(access, "bad", pods=2, processes=1)
    short = run.model_copy(update={"workers": run.workers.model_copy(update={"rendezvous_seconds": 1.0})})
    summary, _ = train(short, tmp_path / "late", index=1)
    assert summary.exit_code == Outcome.INFRASTRUCTURE.code
    waiting = start(run, tmp_path / "waiting", index=1)
    waiting.until(lambda seen: seen.attempt == 1)
    stop(waiting)
    assert waiting.ended(timeout=10).exit_code == Outcome.PREEMPTED.code


def test_a_hang_is_ended_and_told_with_the_place(access: StoreAccess, tmp_path: Path) -> None:
    long = {"recipe": "mlp", "hyperparameters": {"hiddenSizes": "64,32", "batchSize": "16", "epochs": "40"}}
    pod = start(job(access, "hang", trainer=long, stallSeconds=15), tmp_path / "pod")
    pod.until(lambda seen: seen.step >= 100)
    stopped = pod.ranks()[1]
    os.kill(stopped, signal.SIGSTOP)
    summary = pod.ended(timeout=60)
    assert summary.exit_code == Outcome.HUNG.code, pod.log()
    assert summary.failure
    assert "no progress for 15 s" in summary.failure.message
    assert any("all_gather" in frame or "training.py" in frame for frame in summary.failure.frames)
    stat = Path(f"/proc/{stopped}/stat")
    assert not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] in "ZX"


def test_progress_is_served_as_prometheus_text_and_json(access: StoreAccess, tmp_path: Path) -> None:
    import httpx

    pod = start(
        job(access, "seen", trainer=TINY | {"hyperparameters": {"batchSize": "8", "epochs": "10"}}), tmp_path / "pod"
    )
    seen = pod.until(lambda seen: seen.epoch >= 1 and seen.step < seen.total_steps)
    text = httpx.get(f"http://127.0.0.1:{pod.port}/metrics").text
    assert seen.world_size == 2
    assert [rank.rank for rank in seen.ranks] == [0, 1]
    assert seen.train_loss is not None
    assert seen.samples_per_second > 0
    assert seen.eta_seconds is not None
    assert 0 < seen.eta_seconds < 600
    assert "modelwright_training_loss " in text
    assert 'modelwright_training_rank_step{phase="Training",rank="1"}' in text
    stop(pod)
    summary = pod.ended()
    assert summary.exit_code == Outcome.PREEMPTED.code
    assert "Preempted: stopped by SIGTERM" in summary.log[-1], summary.log
