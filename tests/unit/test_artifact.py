"""The manifest: what it refuses, and that equal content is equal bytes; versions in a store on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from modelwright import artifact, versions
from modelwright.artifact import Manifest
from modelwright.contract import StoreAccess
from modelwright.store import Store, StoreError, Trouble
from pydantic import ValidationError

FILES = ("model.onnx", "model.safetensors", "golden.safetensors", "baseline.json")


def stated(folder: Path, **more: Any) -> dict[str, Any]:
    """A manifest's content, whose files are written to `folder`."""
    for name in FILES:
        (folder / name).write_bytes(name.encode())
    return {
        "model": "digits", "version": "1.0.0", "task": "Classification", "classes": ("a", "b"),
        "formats": {"onnx": {"opset": 21, "ir_version": 10}},
        "files": [versions.file_entry(folder / name, name) for name in FILES],
        "inputs": [{"name": "features", "dtype": "float32", "shape": (None, 2), "names": ("x", "y")}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": (None, 2), "names": ("a", "b")}],
        "golden": {"rows": 2, "provider": "CPUExecutionProvider", "instruction_set": "x86_64/avx2", "runtime": "r 1"},
        "metrics": {"test": {"accuracy": 0.9}},
        "lineage": {
            "training_job": "digits-v1", "fingerprint": artifact.digest_of(b"asked"), "seed": 0, "epochs": 1,
            "steps": 3, "world_size": 2,
            "data": {"uri": "file:///d", "digest": artifact.digest_of(b"d"), "target": "t", "rows": 10, "split": {},
                     "split_rows": {"train": 8, "validation": 1, "test": 1}},
        },
        "frameworks": {"torch": "2"},
        **more,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    made.mkdir()
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(StoreAccess(uri=f"file://{tmp_path}/store"), {})


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return artifact.manifest_uri(f"file://{tmp_path}/store", "team-a", "digits", "1.0.0")


def test_what_is_written_is_read_back_with_the_same_digest(folder: Path) -> None:
    manifest = Manifest.model_validate(stated(folder))
    assert Manifest.from_bytes(manifest.to_bytes(), manifest.digest) == manifest
    assert b'"shape":[null,2]' in manifest.to_bytes()


@pytest.mark.parametrize("path", ["../up", "/etc/passwd", "a/../b", "", ".", "a\\b", "a//b"])
def test_a_path_that_leads_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="is not a plain relative path"):
        artifact.File(path=path, digest=artifact.digest_of(b""), size=0)


def test_a_file_that_is_used_and_not_listed_is_refused(folder: Path) -> None:
    content = stated(folder)
    with pytest.raises(ValidationError, match=r"baseline\.json is used, and not among them"):
        Manifest.model_validate({**content, "files": content["files"][:3]})


def test_a_graph_without_golden_samples_is_refused_and_files_without_a_graph_need_none(folder: Path) -> None:
    content = {**stated(folder), "golden": None}
    with pytest.raises(ValidationError, match="golden: a graph has golden samples"):
        Manifest.model_validate(content)
    own = Manifest.model_validate({**content, "formats": {"native": {}}, "inputs": (), "outputs": (), "baseline": ""})
    assert Manifest.from_bytes(own.to_bytes(), own.digest) == own


def test_a_version_of_no_format_is_refused(folder: Path) -> None:
    with pytest.raises(ValidationError, match="an artifact has at least one format"):
        Manifest.model_validate({**stated(folder), "formats": {}})


@pytest.mark.parametrize("image", ["registry/team/trainer:1", "registry/team/trainer@sha256:ab"])
def test_a_module_is_only_built_anew_in_an_image_that_never_changes(folder: Path, image: str) -> None:
    rebuild = {"kind": "factory", "image": image, "entrypoint": "net:build", "kwargs": {"depth": 3, "wide": True}}
    with pytest.raises(ValidationError, match=r"rebuild\.factory\.image"):
        Manifest.model_validate({**stated(folder), "rebuild": rebuild})
    fixed = {**rebuild, "image": f"registry/team/trainer@{artifact.digest_of(b'image')}"}
    made = Manifest.model_validate({**stated(folder), "rebuild": fixed})
    assert Manifest.from_bytes(made.to_bytes(), made.digest) == made


def test_blobs_lie_beside_versions() -> None:
    manifest = artifact.manifest_uri("s3://b/p/", "ns", "m", "1.0.0", "int8")
    assert manifest == "s3://b/p/models/ns/m/versions/1.0.0--int8/manifest.json"
    assert artifact.blob_uri(manifest, "sha256:ab") == "s3://b/p/models/ns/m/blobs/ab"
    with pytest.raises(ValueError, match="a version's URI ends with"):
        artifact.blob_uri("s3://b/p/manifest.json", "sha256:ab")


def test_a_published_version_is_fetched_whole(store: Store, uri: str, folder: Path, tmp_path: Path) -> None:
    digest = versions.publish(store, uri, Manifest.model_validate(stated(folder)), folder)
    fetched = versions.fetch(store, uri, digest, tmp_path / "fetched")
    assert versions.verify(tmp_path / "fetched", digest) == fetched
    assert [(tmp_path / "fetched" / name).read_text() for name in FILES] == list(FILES)


def test_the_same_content_again_is_success_and_other_content_is_not(store: Store, uri: str, folder: Path) -> None:
    first = Manifest.model_validate(stated(folder))
    digest = versions.publish(store, uri, first, folder)
    assert versions.publish(store, uri, first, folder) == digest
    lineage = {**stated(folder)["lineage"], "fingerprint": artifact.digest_of(b"something else")}
    with pytest.raises(versions.Conflict, match=r"1\.0\.0 of digits is published already, with other content"):
        versions.publish(store, uri, Manifest.model_validate(stated(folder, lineage=lineage)), folder)
    assert artifact.digest_of(store.read(uri)) == digest


def test_a_second_attempt_at_the_same_gets_the_first_one_s_digest(store: Store, uri: str, folder: Path) -> None:
    digest = versions.publish(store, uri, Manifest.model_validate(stated(folder)), folder)
    later = Manifest.model_validate(stated(folder, metrics={"test": {"accuracy": 0.91}}))
    assert versions.publish(store, uri, later, folder) == digest != later.digest


def test_an_altered_file_on_the_disk_is_named(store: Store, uri: str, folder: Path, tmp_path: Path) -> None:
    versions.publish(store, uri, Manifest.model_validate(stated(folder)), folder)
    versions.fetch(store, uri, None, tmp_path / "fetched")
    (tmp_path / "fetched" / "model.onnx").write_bytes(b"altered")
    with pytest.raises(versions.Damaged, match=r"model\.onnx is sha256:.*, not sha256:"):
        versions.verify(tmp_path / "fetched")


def test_what_is_no_manifest_is_refused(store: Store, uri: str, tmp_path: Path) -> None:
    store.write(uri, b'{"schemaVersion": 1}')
    with pytest.raises(versions.Damaged, match="no manifest: model: Field required"):
        versions.fetch(store, uri, None, tmp_path)
    with pytest.raises(StoreError, match="there is no such object") as told:
        versions.fetch(store, uri + "x", None, tmp_path)
    assert told.value.trouble is Trouble.NO_OBJECT


@pytest.mark.parametrize("uri", ["ftp://x/y", "s3://bucket", "s3:///key", "file://host/x", "/plain", "s3://b/../x"])
def test_an_address_of_another_kind_is_refused_with_how_to_write_it(store: Store, uri: str) -> None:
    with pytest.raises(StoreError, match="write it like s3://bucket/key or file:///path"):
        store.read(uri)


def test_without_keys_nothing_is_asked_for_any(tmp_path: Path) -> None:
    """Not even the cloud's metadata service, which would give the node's."""
    keyless = Store(StoreAccess(uri="s3://b", endpoint="http://127.0.0.1:9"), {"AWS_ACCESS_KEY_ID": "half"})
    with pytest.raises(StoreError, match="there are no credentials: name a Secret") as told:
        keyless.read("s3://b/k")
    assert told.value.trouble is Trouble.CREDENTIALS
    assert told.value.__cause__ is None
