"""A training on a prepared Dataset: from its Job's shards to a published version, the same on one rank and on two."""

from __future__ import annotations

from pathlib import Path

import pytest
from modelwright import versions
from modelwright.contract import Data, Outcome, Published, Split, StoreAccess
from modelwright.datasets import DatasetRun
from modelwright.store import Store
from modelwright_trainer.dataset import command

from tests.trainer.pods import job, train

pytestmark = pytest.mark.usefixtures("keys")


@pytest.fixture(scope="module")
def prepared(access: StoreAccess, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """The digits as a Dataset in the store."""
    run = DatasetRun(
        namespace="team-a", name="digits", source_uri="s3://modelwright/raw/digits.parquet", store=access,
        target="label", task="Classification", split=Split(seed=7),
    )  # fmt: skip
    summary = command.prepare(run, store, tmp_path_factory.mktemp("scratch"), 128 * 1024**2)
    assert summary.manifest is not None
    return summary.manifest


def test_it_is_trained_and_published_with_the_digest_of_its_data(
    access: StoreAccess, store: Store, prepared: Published, tmp_path: Path
) -> None:
    data = Data(uri=prepared.uri, digest=prepared.digest)
    summary, pod = train(job(access, "on-a-dataset", data=data), tmp_path / "pod")
    assert summary.outcome == Outcome.SUCCEEDED.reason, pod.log()
    assert summary.metrics["accuracy"] > 0.9
    assert summary.artifact is not None
    manifest = versions.fetch(store, summary.artifact.uri, summary.artifact.digest, tmp_path / "artifact")
    lineage = manifest.lineage.data
    assert (lineage.uri, lineage.digest, lineage.target) == (prepared.uri, prepared.digest, "label")
    assert (lineage.rows, lineage.split_rows) == (1797, {"train": 1438, "validation": 180, "test": 179})
    assert (manifest.task, manifest.classes) == ("Classification", tuple("0123456789"))


def test_the_order_does_not_depend_on_the_ranks(access: StoreAccess, prepared: Published, tmp_path: Path) -> None:
    """Each global batch has the same rows, so that the first losses agree but for the order in which floats add up."""
    data = Data(uri=prepared.uri, digest=prepared.digest)
    losses = []
    for processes in (1, 2):
        _, pod = train(job(access, f"order-{processes}", processes=processes, data=data), tmp_path / f"{processes}")
        losses.append({step: float(loss) for step, loss in pod.losses().items()})
    assert losses[0].keys() == losses[1].keys()
    assert [losses[0][step] for step in range(1, 24)] == pytest.approx(
        [losses[1][step] for step in range(1, 24)], rel=1e-4
    )


def test_a_manifest_that_is_gone_is_told_with_the_remedy(
    access: StoreAccess, prepared: Published, tmp_path: Path
) -> None:
    gone = prepared.uri.rsplit("/", 1)[0] + "/" + "0" * 64 + ".json"
    summary, _ = train(job(access, "gone", data=Data(uri=gone, digest="sha256:" + "0" * 64)), tmp_path / "pod")
    assert summary.outcome == Outcome.DATA_ERROR.reason
    assert summary.failure is not None
    assert "what a Dataset has written is gone: delete it and create it anew" in summary.failure.message
