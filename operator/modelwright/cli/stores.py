"""The store as the user reaches it: with the AWS_* variables of the environment, as Amazon's own command line takes
them. What the cluster calls it by may be a name that only the cluster knows."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator, Mapping

from modelwright.cli.cluster import Refused
from modelwright.contract import StoreAccess
from modelwright.store import Store, StoreError, Trouble
from modelwright.versions import Damaged


@contextlib.contextmanager
def opened(uri: str, environment: Mapping[str, str] = os.environ) -> Iterator[Store]:
    """The store that `uri` lies in. What it refuses, or holds damaged, becomes Refused."""
    if importlib.util.find_spec("obstore") is None:
        raise Refused("reading the store needs the package obstore: pip install 'modelwright[cli]'")
    bucket = "/".join(uri.split("/")[:3]) if uri.startswith("s3://") else "file:///"
    try:
        access = StoreAccess(
            uri=bucket,
            endpoint=environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or None,
            region=environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or None,
            ca_file=environment.get("AWS_CA_BUNDLE") or None,
        )
    except ValueError as wrong:
        raise Refused(f"{uri}: write it like s3://bucket/path or file:///path") from wrong
    try:
        yield Store(access, environment)
    except StoreError as error:
        remedy = {
            Trouble.CREDENTIALS: " (set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in your own environment)",
            Trouble.UNREACHABLE: " (set AWS_ENDPOINT_URL to where you reach the store from here)",
        }
        raise Refused(f"{error}{remedy.get(error.trouble, '')}") from error
    except Damaged as damaged:
        raise Refused(str(damaged)) from damaged
