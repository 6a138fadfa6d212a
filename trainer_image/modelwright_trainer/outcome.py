"""How a command ends: a document in the store, and a summary in the pod's termination message."""

from __future__ import annotations

import contextlib
import json
import os
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TERMINATION_LOG = Path("/dev/termination-log")
# The kubelet keeps 4 KiB, and of a longer message the tail, which is no JSON.
SUMMARY_BYTES = 3072


class Failed(Exception):  # noqa: N818 - it reads as what happened
    """A command did not succeed; its text is one line for the reader, `reason` one word for programs."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def summary(document: Mapping[str, Any], limit: int = SUMMARY_BYTES) -> str:
    """`document` as JSON of at most `limit` bytes: lists are cut to their first entries, then texts, until it fits."""

    def fitted(entries: int, letters: int) -> str:
        def cut(value: Any) -> Any:
            if isinstance(value, str):
                return value if len(value) <= letters else f"{value[:letters]}…"
            if isinstance(value, list):
                return [cut(entry) for entry in value[:entries]]
            return {key: cut(entry) for key, entry in value.items()} if isinstance(value, dict) else value

        return json.dumps(cut(dict(document)), ensure_ascii=False)

    entries, letters = 1024, 2048
    text = fitted(entries, letters)
    while len(text.encode()) > limit and entries + letters > 1:
        entries, letters = (entries // 2, letters) if entries else (0, letters // 2)
        text = fitted(entries, letters)
    return text


def report(document: Mapping[str, Any], path: Path = TERMINATION_LOG) -> None:
    """Writes the summary of `document` where the kubelet reads it; outside a pod there is no such file."""
    if path.exists():
        with contextlib.suppress(OSError):  # the result stands elsewhere: its summary must not fail the command
            path.write_text(summary(document))


def report_failure(failed: Failed) -> None:
    report({"error": failed.reason, "message": str(failed)})


def output_place(url: str) -> tuple[str, str, str]:
    """Scheme, bucket ("" for a file) and key or path of an output. Raises Failed for what is neither s3 nor file."""
    parts = urllib.parse.urlsplit(url)
    path = urllib.parse.unquote(parts.path)
    if parts.scheme == "s3" and parts.netloc and path.strip("/"):
        return "s3", parts.netloc, path.lstrip("/")
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and path.startswith("/") and not path.endswith("/"):
        return "file", "", path
    raise Failed("BadOutput", f"--output {url}: write it like s3://bucket/key or file:///path")


def write_output(url: str, content: bytes) -> None:
    """Writes `content` to s3://bucket/key or file:///path. Endpoint and credentials of S3 are those of the AWS_*
    environment. Raises Failed."""
    scheme, bucket, key = output_place(url)
    import obstore
    from obstore.store import LocalStore, S3Store

    try:
        if scheme == "file":
            folder = Path(key).parent
            obstore.put(LocalStore(folder, mkdir=True), Path(key).name, content)
            return
        plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
        store = S3Store(bucket, client_options={"allow_http": plain, "timeout": "30s"})
        obstore.put(store, key, content)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise Failed("OutputNotWritten", f"--output {url}: {lines[0][:500]}") from error
