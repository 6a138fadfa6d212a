"""What a model's folder in the store holds that nobody refers to any more, and the contract of the Job that removes it.

In: a `CollectRun` as JSON in `COLLECT_VARIABLE`; store credentials as AWS_* variables from the user's Secret. Out: a
`CollectSummary` as termination message; the exit code is 0 where it has done its work.

A blob is referred to by a manifest of its folder. Of manifests only those go that the run names, by their digests: that
an artifact's ModelVersion is not in the cluster says nothing, since it may be about to be imported again. A manifest
goes before its blobs do; a run that was cut off leaves blobs that nobody refers to, which the next one finds.
"""

from __future__ import annotations

import dataclasses
import datetime
import posixpath
from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import Field

from modelwright.artifact import MANIFEST, Manifest
from modelwright.contract import Message, Shape, StoreAccess

COLLECT = ("collect",)
"""Arguments of the server image's entry point."""
COLLECT_VARIABLE = "MODELWRIGHT_COLLECT"

_BLOBS, _VERSIONS, _WORK = "blobs/", "versions/", "work/"
# Letters of a failure.
_LONG = 600


class Retired(Shape):
    """A version that is to go from the store: its manifest, which must have this digest."""

    uri: str
    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")


class CollectRun(Shape):
    """`folders` are the model's: one, or several where its versions were published to several stores. What is younger
    than `min_age_seconds` stays: an upload may be in progress. `work` says whether the folders of compressions go, too;
    not while one is under way."""

    contract: Literal[1] = 1
    folders: tuple[str, ...]
    store: StoreAccess
    retired: tuple[Retired, ...] = ()
    min_age_seconds: float = Field(ge=0)
    work: bool = True


class CollectSummary(Message):
    """What was removed and what is left; sizes in bytes. `failure` is why nothing, or not all, was done."""

    manifests: int = 0
    blobs: int = 0
    work: int = 0
    freed_bytes: int = 0
    left_blobs: int = 0
    left_bytes: int = 0
    young: int = 0
    failure: str | None = None

    def __add__(self, other: CollectSummary) -> CollectSummary:
        counts = {
            name: getattr(self, name) + getattr(other, name) for name in type(self).model_fields if name != "failure"
        }
        return CollectSummary(**counts, failure=self.failure or other.failure)

    def shorter(self) -> CollectSummary | None:
        """The failure's end goes."""
        failure = self.failure or ""
        return self.model_copy(update={"failure": failure[:_LONG]}) if len(failure) > _LONG else None


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """An object of the folder: its path there, its size in bytes, and when it was written."""

    path: str
    size: int
    modified: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Sweep:
    """What is to go, in this order, and what is left. `young` blobs are referred to by nobody, and too young."""

    manifests: tuple[Entry, ...]
    blobs: tuple[Entry, ...]
    work: tuple[Entry, ...]
    left: tuple[Entry, ...]
    young: int


def manifests_of(entries: Iterable[Entry]) -> list[Entry]:
    """Those of published versions."""
    return [one for one in entries if one.path.startswith(_VERSIONS) and posixpath.basename(one.path) == MANIFEST]


def sweep(
    entries: Iterable[Entry],
    manifests: Mapping[str, tuple[str, Manifest]],
    retired: Mapping[str, str],
    *,
    now: datetime.datetime,
    min_age: datetime.timedelta,
    work: bool,
) -> Sweep:
    """`manifests` are all of the folder, with their digests, and `retired` digests, by their paths in the folder.

    Nothing else than blobs, folders of work and the retired manifests is ever touched."""
    found = sorted(entries, key=lambda one: one.path)
    gone = {path for path, (digest, _) in manifests.items() if retired.get(path) == digest}
    referred = {
        file.digest.removeprefix("sha256:")
        for path, (_, manifest) in manifests.items()
        if path not in gone
        for file in manifest.files
    }
    old = now - min_age
    blobs = [one for one in found if one.path.startswith(_BLOBS)]
    loose = [one for one in blobs if one.path.removeprefix(_BLOBS) not in referred]
    doomed = {one.path for one in loose if one.modified < old}
    return Sweep(
        manifests=tuple(one for one in found if one.path in gone),
        blobs=tuple(one for one in blobs if one.path in doomed),
        work=_work(found, old) if work else (),
        left=tuple(one for one in blobs if one.path not in doomed),
        young=len(loose) - len(doomed),
    )


def _work(entries: Iterable[Entry], old: datetime.datetime) -> tuple[Entry, ...]:
    """Of folders of work in which nothing was written lately, all."""
    folders: dict[str, list[Entry]] = {}
    for one in entries:
        if one.path.startswith(_WORK) and "/" in one.path.removeprefix(_WORK):
            folders.setdefault(one.path.split("/")[1], []).append(one)
    return tuple(one for held in folders.values() if max(each.modified for each in held) < old for one in held)
