"""Versions in the store: publish one so that nothing is ever overwritten, fetch one with every digest checked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from modelwright import artifact
from modelwright.artifact import Manifest
from modelwright.store import Store, StoreError, Trouble

_BLOCK = 4 * 1024 * 1024
# Less than the least age of a blob that is collected (`collection`): one that nobody refers to, and that is about to be
# referred to, is made young.
_YOUNG = timedelta(minutes=30)


class Conflict(Exception):  # noqa: N818 - it reads as what happened
    """Under this version there is another content."""


class Damaged(Exception):  # noqa: N818
    """What is in the store, or on the disk, is not what its digest says."""


def file_entry(path: Path, name: str) -> artifact.File:
    """The manifest's entry for a file on the disk."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return artifact.File(path=name, digest=f"sha256:{digest.hexdigest()}", size=path.stat().st_size)


def publish(store: Store, uri: str, manifest: Manifest, folder: Path) -> str:
    """Uploads the manifest's files from `folder`, then creates the manifest at `uri`; returns the version's digest.

    Publishing equal content again is success. So is a manifest of equal fingerprint that is there already: an earlier
    attempt asked for the same and came first, perhaps on another kind of processor; then the digest is of the one that
    stands. Raises Conflict, Damaged, StoreError.
    """
    for file in manifest.files:
        _give_blob(store, artifact.blob_uri(uri, file.digest), folder / file.path, file)
    content = manifest.to_bytes()
    try:
        store.create(uri, content)
    except StoreError as error:
        if error.trouble is not Trouble.EXISTS:
            raise
        there = store.read(uri)
        if there != content:
            return agreed(uri, there, manifest.lineage.fingerprint)
    for file in manifest.files:
        # A collection may have met a blob that was there already, before this manifest referred to it.
        if store.size(blob := artifact.blob_uri(uri, file.digest)) is None:
            store.write(blob, folder / file.path)
    return artifact.digest_of(content)


def agreed(uri: str, there: bytes, fingerprint: str) -> str:
    """The digest of the manifest that is at `uri` already, of content `there`, where it answers to `fingerprint`.
    Raises Conflict, Damaged."""
    standing = _parsed(uri, there)
    if standing.lineage.fingerprint != fingerprint:
        raise Conflict(
            f"{uri}: version {standing.version} of {standing.model} is published already, with other content"
            f" (by {standing.lineage.made_by}, {artifact.digest_of(there)}); a version never changes:"
            " publish under another one"
        )
    return artifact.digest_of(there)


def _give_blob(store: Store, uri: str, path: Path, file: artifact.File) -> None:
    """Blobs are named by their content, so whoever writes one writes the same; one that is there is checked."""
    if store.size(uri) is None:
        store.write(uri, path)
        return
    digest, _ = store.download(uri, None)
    if digest != file.digest:
        raise Damaged(f"{uri}: its content is {digest}; it was altered: remove it, then publish again")
    written = store.modified(uri)
    if written is not None and datetime.now(UTC) - written > _YOUNG:
        store.write(uri, path)


def standing(store: Store, uri: str) -> bytes | None:
    """The manifest that is at `uri`; None where there is none."""
    try:
        return store.read(uri)
    except StoreError as error:
        if error.trouble is Trouble.NO_OBJECT:
            return None
        raise


def read(store: Store, uri: str, digest: str | None) -> Manifest:
    """The manifest at `uri`, checked against `digest` where one is given. Raises Damaged, StoreError."""
    return _parsed(uri, store.read(uri), digest)


def fetch(store: Store, uri: str, digest: str | None, folder: Path) -> Manifest:
    """Brings the version whose manifest is at `uri` into `folder`, its manifest last.

    Every file is checked against the manifest, and that against `digest`. A file that is there, and right, is kept.
    Raises Damaged naming what does not agree, StoreError.
    """
    content = store.read(uri)
    manifest = _parsed(uri, content, digest)
    for file in manifest.files:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and file_entry(path, file.path) == file:
            continue
        blob = artifact.blob_uri(uri, file.digest)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            found, size = store.download(blob, fresh)
            if (found, size) != (file.digest, file.size):
                raise Damaged(
                    f"{blob}: {file.path} is {found} of {size} bytes; the manifest says {file.digest} of {file.size}"
                )
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
    (folder / artifact.MANIFEST).write_bytes(content)
    return manifest


def verify(folder: Path, digest: str | None = None) -> Manifest:
    """Checks a fetched version on the disk, and against `digest` where one is given. Raises Damaged."""
    path = folder / artifact.MANIFEST
    if not path.exists():
        raise Damaged(f"{path}: there is none, so the version was not fetched to its end")
    manifest = _parsed(str(path), path.read_bytes(), digest)
    wrong = _wrong_files(folder, {file.path: file for file in manifest.files})
    if wrong:
        raise Damaged(f"{folder}: {'; '.join(wrong)}")
    return manifest


def _wrong_files(folder: Path, files: Mapping[str, artifact.File]) -> list[str]:
    wrong = []
    for name, file in files.items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif (found := file_entry(path, name)) != file:
            wrong.append(f"{name} is {found.digest}, not {file.digest}")
    return wrong


def _parsed(uri: str, content: bytes, digest: str | None = None) -> Manifest:
    try:
        return Manifest.from_bytes(content, digest)
    except ValidationError as error:
        first = error.errors()[0]
        raise Damaged(f"{uri}: no manifest: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except ValueError as error:
        raise Damaged(f"{uri}: {error}") from error
