"""A Dataset on a cluster: real rows in a real store, prepared by a real pod."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from modelwright.datasets import DatasetManifest, digest_of, folder_of

from dev import digits
from dev.demo import BUCKET, ensure_bucket, prepare, s3
from dev.install import install
from dev.target import Store, Target
from devcluster.progress import Steps, wait_for
from tests.e2e.training.jobs import Space, condition, failed, small, succeeded

NAMESPACE = "modelwright-e2e-dataset"
FOLDER = "e2e/datasets"
PARTS = ["train", "dev", "test"]


@pytest.fixture(scope="module")
def space(target: Target, server: Store, refs: Mapping[str, str], steps: Steps) -> Iterator[Space]:
    """A namespace with the store's credentials, under the operator as the chart installs it."""
    install(target, refs, server, steps)
    ensure_bucket(server)
    # Versions of a run before this one would stand in the way of another content.
    digits.forget(s3(server), BUCKET, FOLDER)
    prepare(target, server, NAMESPACE)
    yield Space(target, NAMESPACE)
    target.kubectl("delete", "namespace", NAMESPACE, f"{NAMESPACE}-host", "--wait=false")


@pytest.fixture(scope="module")
def rows(server: Store) -> pa.Table:
    """The digits with one of them nine times more, as csv in the store."""
    table = pq.read_table(io.BytesIO(digits.as_parquet()))
    table = pa.concat_tables([table] + [table.slice(0, 1)] * 9)
    file = io.BytesIO()
    pyarrow.csv.write_csv(table, file)
    s3(server).put_object(Bucket=BUCKET, Key=f"{FOLDER}/raw/digits.csv", Body=file.getvalue())
    return table


def dataset(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "modelwright.dev/v1alpha1",
        "kind": "Dataset",
        "metadata": {"name": name},
        "spec": {
            "source": {"uri": f"s3://{BUCKET}/{FOLDER}/raw/digits.csv"},
            "storage": {"uri": f"s3://{BUCKET}/{FOLDER}", "secretRef": {"name": "store"}},
            "schema": {"target": "label", "task": "Classification"},
            "split": {"seed": 7},
            "resources": {"requests": {"cpu": "100m", "memory": "384Mi"}, "limits": {"memory": "512Mi"}},
            **spec,
        },
    }


def until(space: Space, name: str, what: str, check: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    return space.until(name, what, check, 240, "dataset")


def test_a_duplicate_in_another_split_is_told_and_every_row_is_in_the_store_once(
    space: Space, server: Store, rows: pa.Table
) -> None:
    space.apply(dataset("digits", checks={"minRows": 1000, "noMissing": ["label"], "minClassFraction": "0.05"}))
    status = until(space, "digits", "prepared", succeeded)
    assert (status["rows"], status["columns"], status["classCount"]) == (1806, 65, 10)
    assert sum(status["splits"].values()) == 1806
    assert sum(one["rows"] for one in status["classes"]) == 1806
    assert status["warnings"][0].startswith(
        "leakage: 10 rows have an equal one in another split, such as row 1 of digits.csv ("
    )
    assert any(one.startswith("constant: 3 columns pixel_0, pixel_32, pixel_39") for one in status["warnings"])

    def read(uri: str) -> bytes:
        found: bytes = s3(server).get_object(Bucket=BUCKET, Key=uri.removeprefix(f"s3://{BUCKET}/"))["Body"].read()
        return found

    uri = status["artifact"]["uri"]
    content = read(uri)
    assert digest_of(content) == status["artifact"]["digest"]
    manifest = DatasetManifest.model_validate_json(content)
    parts = []
    for part in manifest.splits.values():
        for shard in part.shards:
            bytes_ = read(f"{folder_of(uri)}/{shard.path}")
            assert (digest_of(bytes_), len(bytes_)) == (shard.digest, shard.bytes)
            parts.append(pq.read_table(io.BytesIO(bytes_)))
    stored = pa.concat_tables(parts).select(rows.column_names)
    order = [(name, "ascending") for name in rows.column_names]
    assert stored.cast(rows.schema).sort_by(order).equals(rows.sort_by(order))
    # The Job goes once its word is written down.
    wait_for("the Job goes", lambda: not space.items("jobs", selector="modelwright.dev/dataset=digits"), seconds=60)


def test_a_failed_check_ends_it_with_rule_column_count_and_positions_until_the_spec_is_mended(
    space: Space, rows: pa.Table
) -> None:
    space.apply(dataset("checked", checks={"minRows": 5000, "unique": ["label"]}))
    status = until(space, "checked", "refused", failed)
    said = condition(status)
    assert said["reason"] == "ChecksFailed"
    assert said["message"] == (
        "checks.minRows: the source has 1806 rows, and 5000 are asked for; checks.unique: column label has in 1806 of"
        " 1806 rows a value that another row has too, such as row 1 of digits.csv, row 11 of digits.csv, row 21 of"
        " digits.csv. To try again, change the spec, or delete the Dataset and create it anew"
    )
    assert condition(status, "Stalled")["status"] == "True"
    assert "artifact" not in status
    space.apply(dataset("checked"))
    assert until(space, "checked", "prepared", succeeded)["rows"] == 1806


def on_dataset(name: str, version: str, dataset: str) -> dict[str, Any]:
    """A training of seconds on a Dataset."""
    made = small(name, version)
    made["spec"]["data"] = {"datasetRef": {"name": dataset}}
    made["spec"]["storage"] = {"uri": f"s3://{BUCKET}/{FOLDER}/{name}", "secretRef": {"name": "store"}}
    made["spec"]["evaluation"] = {"metrics": ["accuracy"], "gates": [{"metric": "accuracy", "min": "0.05"}]}
    return made


def test_a_training_waits_for_its_dataset_and_publishes_with_the_digest_of_it(space: Space, rows: pa.Table) -> None:
    space.apply(on_dataset("early", "2.0.0", "later"))
    waiting = space.until("early", "waits", lambda seen: condition(seen).get("reason") == "DatasetNotReady")
    assert condition(waiting)["message"] == (
        "waiting for Dataset later, which does not exist: create it, or mend datasetRef"
    )
    assert "attempt" not in waiting
    space.apply(dataset("later"))
    made = until(space, "later", "prepared", succeeded)
    status = space.until("early", "published", succeeded)
    assert status["data"]["artifact"] == made["artifact"]
    assert status["data"]["rows"] == made["splits"]
    lineage = space.status("digits-v2-0-0", "modelversion")["lineage"]
    assert lineage["datasetRef"] == {"name": "later"}
    assert lineage["datasetDigest"] == made["artifact"]["digest"]
    said = f"small test split: accuracy measured on {made['splits']['test']} rows is uncertain by at least ±3."
    assert status["warnings"][0].startswith(said)


@pytest.mark.long
def test_a_training_on_a_failed_dataset_goes_on_once_that_is_mended(space: Space, rows: pa.Table) -> None:
    space.apply(dataset("poor", checks={"minRows": 5000}))
    space.apply(on_dataset("patient", "2.1.0", "poor"))
    status = space.until("patient", "is told", lambda seen: condition(seen).get("reason") == "DatasetFailed")
    assert condition(status)["message"].startswith(
        "Dataset poor failed: checks.minRows: the source has 1806 rows, and 5000 are asked for."
    )
    assert condition(status, "Stalled")["status"] == "True"
    space.apply(dataset("poor"))
    assert space.until("patient", "published", succeeded)["data"]["datasetRef"] == {"name": "poor"}


@pytest.mark.long
def test_rows_on_a_volume_are_read_where_the_pod_template_mounts_it(
    space: Space, target: Target, rows: pa.Table, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if not target.devcluster:
        pytest.skip("the volume is a folder of this machine, which another cluster's nodes do not see")
    folder = tmp_path_factory.mktemp("volume")
    pyarrow.csv.write_csv(rows.append_column("part", [PARTS * (rows.num_rows // 3)]), folder / "digits.csv")
    for one in (folder, *folder.parents[:2]):
        one.chmod(0o755)
    volume = {
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"{NAMESPACE}-rows"},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadOnlyMany"], "storageClassName": "",
            "hostPath": {"path": str(folder)}, "claimRef": {"namespace": NAMESPACE, "name": "rows"},
        },
    }  # fmt: skip
    claim = {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "rows"},
        "spec": {
            "accessModes": ["ReadOnlyMany"], "storageClassName": "", "volumeName": f"{NAMESPACE}-rows",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }  # fmt: skip
    target.kubectl("delete", "persistentvolume", f"{NAMESPACE}-rows", "--ignore-not-found")
    target.kubectl("apply", "--filename", "-", stdin=json.dumps(volume))
    try:
        space.apply(claim)
        made = dataset("mounted", source={"uri": "file:///data/"}, split={"column": "part"})
        made["spec"]["podTemplate"] = {
            "spec": {
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "rows", "readOnly": True}}],
                "containers": [
                    {"name": "dataset", "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": True}]}
                ],
            }
        }
        space.apply(made)
        status = until(space, "mounted", "prepared", succeeded)
        assert status["splits"] == {"train": 602, "validation": 602, "test": 602}
        assert status["columns"] == 65
    finally:
        space.kubectl("delete", "dataset", "mounted", "--ignore-not-found")
        space.kubectl("delete", "persistentvolumeclaim", "rows", "--wait=false")
        target.kubectl("delete", "persistentvolume", f"{NAMESPACE}-rows", "--wait=false")


def test_a_missing_secret_is_told_in_kubernetes_words_and_the_run_goes_on_once_it_is_there(
    space: Space, rows: pa.Table
) -> None:
    made = dataset("waiting")
    made["spec"]["storage"]["secretRef"]["name"] = "later"
    space.apply(made)
    status = until(space, "waiting", "waits", lambda seen: "later" in condition(seen).get("message", ""))
    assert condition(status)["reason"] == "CreateContainerConfigError"
    assert 'secret "later" not found' in condition(status)["message"]
    secret = json.loads(space.kubectl("get", "secret", "store", "--output=json"))
    secret["metadata"] = {"name": "later"}
    space.apply(secret)
    assert until(space, "waiting", "prepared", succeeded)["rows"] == 1806
