"""A data set of ten times a pod's memory: what it takes, and that what is wrong with it is found all the same.

    .venv/bin/python -m pytest tests/bench/test_dataset_memory.py -s

On the whole cluster (NAME says which), with real pods under a real limit and a real S3 server. DATASET_BYTES (5e9) are
the bytes of parquet, random numbers that do not compress; DATASET_LIMIT (512Mi) is the pod's memory limit. The disk
holds up to four times the bytes meanwhile, and none of them afterwards.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from modelwright.datasets import DatasetManifest

from dev import digits
from dev.demo import BUCKET, ensure_bucket, prepare, s3
from dev.install import install
from dev.target import Store, Target
from devcluster.progress import Steps, wait_for
from tests.e2e.conftest import refs, server, target  # noqa: F401 - fixtures
from tests.e2e.training.jobs import Space, condition

pytestmark = [pytest.mark.long, pytest.mark.timeout(7200)]

NAMESPACE = "modelwright-bench-dataset"
FOLDER = "bench/dataset"
BYTES = int(float(os.environ.get("DATASET_BYTES", "5e9")))
LIMIT = os.environ.get("DATASET_LIMIT", "512Mi")
COLUMNS, FILE_ROWS = 32, 500_000
# Equal rows that lie far from each other: with so many of each all but surely in more than one part.
CONTENTS, COPIES = 20, 40
SECONDS = 3600


@pytest.fixture(scope="module")
def space(
    target: Target,  # noqa: F811 - the fixtures
    server: Store,  # noqa: F811
    refs: Mapping[str, str],  # noqa: F811
    steps: Steps,
) -> Iterator[Space]:
    install(target, refs, server, steps)
    ensure_bucket(server)
    digits.forget(s3(server), BUCKET, FOLDER)
    prepare(target, server, NAMESPACE)
    yield Space(target, NAMESPACE)
    target.kubectl("delete", "namespace", NAMESPACE, f"{NAMESPACE}-host", "--wait", "--timeout=120s", timeout=130)
    digits.forget(s3(server), BUCKET, FOLDER)


@pytest.fixture(scope="module")
def rows(space: Space, server: Store, steps: Steps) -> int:  # noqa: F811
    """How many rows there are in the store: numbers, an id, one of ten labels; some rows many times."""
    client, generator = s3(server), np.random.default_rng(7)
    planted = _table(generator, np.arange(CONTENTS) + 10**12)
    size = count = 0
    with steps.step(f"{BYTES / 1e9:g} GB of random rows go into the store", usual=120) as step:
        while size < BYTES or count < 2 * FILE_ROWS:
            table = _table(generator, np.arange(count, count + FILE_ROWS))
            file = io.BytesIO()
            # Half of the copies in each of the first two files.
            copies = [planted] * (COPIES // 2 if count < 2 * FILE_ROWS else 0)
            pq.write_table(pa.concat_tables([table, *copies]), file, compression="none", use_dictionary=False)
            client.put_object(Bucket=BUCKET, Key=f"{FOLDER}/raw/{count:012}.parquet", Body=file.getvalue())
            size += len(file.getvalue())
            count += FILE_ROWS
            step.note(f"{size / 1e9:.1f} GB")
        step.note("")
    print(f"\n{size:,} bytes of parquet, {count:,} rows and {COPIES} copies of {CONTENTS} rows among them")
    return count


def _table(generator: np.random.Generator, ids: np.ndarray[Any, np.dtype[np.int64]]) -> pa.Table:
    columns = {f"x{index}": generator.normal(size=len(ids)) for index in range(COLUMNS)}
    return pa.table({"id": ids, **columns, "label": generator.integers(0, 10, len(ids))})


def _dataset(name: str, **checks: Any) -> dict[str, Any]:
    return {
        "apiVersion": "modelwright.dev/v1alpha1",
        "kind": "Dataset",
        "metadata": {"name": name},
        "spec": {
            "source": {"uri": f"s3://{BUCKET}/{FOLDER}/raw/"},
            "storage": {"uri": f"s3://{BUCKET}/{FOLDER}/{name}", "secretRef": {"name": "store"}},
            "schema": {"target": "label", "task": "Classification"},
            "split": {"seed": 7},
            "checks": checks,
            "resources": {"requests": {"cpu": "500m", "memory": LIMIT}, "limits": {"memory": LIMIT}},
        },
    }


def _ended(space: Space, name: str, **checks: Any) -> dict[str, Any]:
    """Its status once it has ended. It takes one pod: none is killed for its memory and followed by another."""
    began = time.monotonic()
    space.apply(_dataset(name, **checks))
    selector = f"--selector=modelwright.dev/dataset={name}"
    pods: set[str] = set()

    def phase(*of: str) -> bool:
        pods.update(pod["metadata"]["name"] for pod in space.items("pods", selector=selector.partition("=")[2]))
        return space.status(name, "dataset").get("phase") in of

    wait_for(f"Dataset {name} runs", lambda: phase("Running", "Succeeded", "Failed"), seconds=300, every=0.5)
    # The Job goes once its word is written down, and its log with it: it is followed from the start.
    command = space.target.kubectl_command("logs", "--follow", selector, f"--namespace={space.name}")
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "NO_PROXY": "*", "no_proxy": "*"},
    ) as following:
        wait_for(f"Dataset {name} ends", lambda: phase("Succeeded", "Failed"), seconds=SECONDS, every=1)
        seconds = time.monotonic() - began
        log, _ = following.communicate(timeout=60)
    assert len(pods) == 1, pods
    told = next((line for line in log.splitlines() if line.startswith("modelwright_trainer: ")), log)
    print(f"{seconds:.0f} s; {told}")
    found = re.search(r"with (\d+) MiB of memory at most \(limit (\d+) MiB\)", told)
    assert found, log
    assert int(found[1]) <= int(found[2])
    return space.status(name, "dataset")


def test_equal_rows_in_two_parts_are_found_under_the_limit(space: Space, server: Store, rows: int) -> None:  # noqa: F811
    status = _ended(space, "rows")
    print(json.dumps({key: status.get(key) for key in ("rows", "bytes", "splits", "warnings")}, indent=2))
    assert status["phase"] == "Succeeded", condition(status)
    assert status["rows"] == rows + COPIES * CONTENTS
    said = f"leakage: {COPIES * CONTENTS} rows have an equal one in another split, such as row "
    assert status["warnings"][0].startswith(said)
    uri = status["artifact"]["uri"].removeprefix(f"s3://{BUCKET}/")
    manifest = DatasetManifest.model_validate_json(s3(server).get_object(Bucket=BUCKET, Key=uri)["Body"].read())
    assert manifest.leakage.contents == CONTENTS
    # The planted rows are the last ones of their files.
    positions = [
        int(number) for one in manifest.leakage.examples for text in one for number in re.findall(r"^row (\d+)", text)
    ]
    assert len(positions) == 9
    assert all(number > FILE_ROWS for number in positions)
    assert sum(part.rows for part in manifest.splits.values()) == status["rows"]
    digits.forget(s3(server), BUCKET, f"{FOLDER}/rows")


def test_a_failing_check_is_found_under_the_limit(space: Space, rows: int) -> None:
    status = _ended(space, "checked", unique=["id"])
    assert (status["phase"], condition(status)["reason"]) == ("Failed", "ChecksFailed")
    copies = COPIES * CONTENTS
    assert condition(status)["message"].startswith(
        f"checks.unique: column id has in {copies} of {rows + copies} rows a value that another row has too, such as"
        f" row {FILE_ROWS + 1} of 000000000000.parquet, row "
    )
