"""A real S3 server on the loopback, scikit-learn's digits in it, and training pods as processes of this machine."""

from __future__ import annotations

import io
import os
import subprocess
import time
from collections.abc import Iterator

import boto3
import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from modelwright.contract import StoreAccess
from modelwright.store import Store
from sklearn.datasets import load_digits

from devcluster import binaries
from devcluster.progress import Steps
from tests.trainer.pods import KEYS, free_port

BUCKET = "modelwright"


@pytest.fixture(scope="session")
def endpoint(steps: Steps, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running S3 server."""
    gateway = binaries.build(steps, "versitygw")["versitygw"]
    folder = tmp_path_factory.mktemp("s3")
    port = free_port()
    with (folder.parent / "s3.log").open("wb") as log:
        server = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", gateway, "--port", f"127.0.0.1:{port}", "--region", "us-east-1",
             "--health", "/health", "--quiet", "posix", folder],
            env={**os.environ, "ROOT_ACCESS_KEY": KEYS["AWS_ACCESS_KEY_ID"],
                 "ROOT_SECRET_KEY": KEYS["AWS_SECRET_ACCESS_KEY"]},
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/health")
                break
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="session")
def access(endpoint: str) -> StoreAccess:
    """The store: a bucket with the digits in raw/digits.parquet."""
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1",
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"], aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key="raw/digits.parquet", Body=digits())
    return StoreAccess(uri=f"s3://{BUCKET}/store", endpoint=endpoint)


@pytest.fixture(scope="session")
def store(access: StoreAccess) -> Store:
    return Store(access, KEYS)


def digits() -> bytes:
    """1,797 rows of 64 pixels and a label, as parquet."""
    pixels, labels = load_digits(return_X_y=True)
    columns = {f"pixel_{index}": pixels[:, index].astype(np.float32) for index in range(pixels.shape[1])}
    buffer = io.BytesIO()
    pq.write_table(pa.table({**columns, "label": labels}), buffer)
    return buffer.getvalue()


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's credentials in this process's environment, as a pod has them."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
