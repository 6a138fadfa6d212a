"""What `collect` removes from a real folder of a model, and what it never touches."""

from __future__ import annotations

import datetime
import json
import os
import time
from pathlib import Path

import pytest
from modelwright import artifact, versions
from modelwright.collection import COLLECT_VARIABLE, CollectRun, CollectSummary, Retired
from modelwright.contract import StoreAccess
from modelwright.store import Store
from modelwright_server import collect
from modelwright_server.__main__ import main

from tests.server import artifacts

HOUR = 3600.0


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


def root(place: Path) -> Path:
    return place / "store/models/team-a/iris"


def store(place: Path) -> Store:
    return Store(StoreAccess(uri=f"file://{place}/store"), {})


def run(place: Path, *retired: artifacts.Published, **more: object) -> CollectRun:
    return CollectRun.model_validate(
        {
            "folders": [f"file://{root(place)}"],
            "store": {"uri": f"file://{place}/store"},
            "retired": [Retired(uri=one.uri, digest=one.digest) for one in retired],
            "min_age_seconds": 24 * HOUR,
            **more,
        }
    )


def aged(place: Path, hours: float = 48) -> None:
    """As if all of it had been written so long ago."""
    then = time.time() - hours * HOUR
    for path in root(place).rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


def files(place: Path) -> set[str]:
    return {str(path.relative_to(root(place))) for path in root(place).rglob("*") if path.is_file()}


def test_a_retired_version_goes_with_what_it_alone_refers_to(place: Path) -> None:
    first, second = artifacts.publish(place, version="1.0.0"), artifacts.publish(place, version="1.1.0", seed=1)
    aged(place)
    before = files(place)
    shared = {file.digest for file in first.manifest.files} & {file.digest for file in second.manifest.files}
    assert shared, "both have the same baseline"
    said = collect.main(run(place, first))
    alone = {file.digest for file in first.manifest.files} - shared
    assert before - files(place) == {
        "versions/1.0.0/manifest.json", *(f"blobs/{digest.removeprefix('sha256:')}" for digest in alone)
    }  # fmt: skip
    assert (said.manifests, said.blobs, said.failure) == (1, len(alone), None)
    assert said.freed_bytes > 0
    assert versions.fetch(store(place), second.uri, second.digest, place / "fetched") == second.manifest
    assert collect.main(run(place, first)) == CollectSummary(left_blobs=said.left_blobs, left_bytes=said.left_bytes)


def test_a_manifest_that_is_another_by_now_and_one_that_nobody_retired_stay(place: Path) -> None:
    first = artifacts.publish(place, version="1.0.0")
    artifacts.publish(place, version="1.1.0", seed=1)
    aged(place)
    before = files(place)
    other = Retired(uri=first.uri, digest=artifact.digest_of(b"another"))
    assert collect.main(run(place, retired=[other])).freed_bytes == 0
    assert files(place) == before


def test_what_is_young_stays_as_an_upload_may_be_in_progress(place: Path) -> None:
    first = artifacts.publish(place, version="1.0.0")
    aged(place)
    (root(place) / "blobs/upload").write_bytes(b"begun just now")
    old = root(place) / "blobs/orphan"
    old.write_bytes(b"of an upload that was given up")
    os.utime(old, (time.time() - 30 * HOUR,) * 2)
    said = collect.main(run(place))
    assert (said.blobs, said.young, said.freed_bytes) == (1, 1, 30)
    assert (root(place) / "blobs/upload").exists()
    assert not old.exists()
    assert versions.fetch(store(place), first.uri, first.digest, place / "fetched") == first.manifest


def test_where_a_manifest_cannot_be_read_nothing_is_removed(place: Path) -> None:
    first = artifacts.publish(place, version="1.0.0")
    broken = root(place) / "versions/1.1.0/manifest.json"
    broken.parent.mkdir()
    broken.write_text("{}")
    aged(place)
    before = files(place)
    said = collect.main(run(place, first))
    assert said.failure is not None
    assert "versions/1.1.0/manifest.json: it is no manifest that this version of modelwright reads" in said.failure
    assert files(place) == before


class Killed(BaseException):
    pass


class Fragile(Store):
    """Dies at its nth removal."""

    left = 0

    def remove(self, uris: object) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1
        super().remove(uris)  # type: ignore[arg-type]


@pytest.mark.parametrize("survived", range(5))
def test_a_collection_that_is_killed_at_any_removal_is_ended_by_the_next(place: Path, survived: int) -> None:
    first, second = artifacts.publish(place, version="1.0.0"), artifacts.publish(place, version="1.1.0", seed=1)
    aged(place)
    asked = run(place, first)
    fragile = Fragile(asked.store, {})
    fragile.left = survived
    removals = 1 + len({f.digest for f in first.manifest.files} - {f.digest for f in second.manifest.files})
    if survived < removals:
        with pytest.raises(Killed):
            collect.collected(asked, asked.folders[0], fragile, datetime.datetime.now(datetime.UTC))
    assert versions.fetch(store(place), second.uri, second.digest, place / "fetched") == second.manifest
    assert collect.main(asked).failure is None
    assert files(place) == {
        "versions/1.1.0/manifest.json",
        *(f"blobs/{file.digest.removeprefix('sha256:')}" for file in second.manifest.files),
    }


def test_a_publication_makes_an_old_blob_that_nobody_refers_to_young_before_it_refers_to_it(place: Path) -> None:
    first = artifacts.publish(place, version="1.0.0")
    (root(place) / "versions/1.0.0/manifest.json").unlink()
    aged(place)
    versions.publish(store(place), first.uri, first.manifest, first.folder)
    manifest = root(place) / "versions/1.0.0/manifest.json"
    manifest.unlink()
    said = collect.main(run(place))
    assert (said.blobs, said.young) == (0, len({file.digest for file in first.manifest.files}))


def test_the_command_says_in_its_termination_message_what_it_did(place: Path) -> None:
    first = artifacts.publish(place, version="1.0.0")
    aged(place)
    message = place / "termination"
    message.touch()
    assert main(["collect"], {COLLECT_VARIABLE: run(place, first).to_json()}, termination=message) == 0
    assert CollectSummary.from_message(message.read_text()) == CollectSummary(
        manifests=1, blobs=len(first.manifest.files), freed_bytes=json.loads(message.read_text())["freedBytes"]
    )
    assert main(["collect"], {}, termination=message) == 1
    said = CollectSummary.from_message(message.read_text())
    assert said is not None
    assert said.failure is not None
    assert COLLECT_VARIABLE in said.failure
