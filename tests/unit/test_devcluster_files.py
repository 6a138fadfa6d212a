"""What the devcluster writes: supervisor, components, images, binaries' names."""

from __future__ import annotations

import configparser
import json
import shlex
import tarfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from devcluster import components, configuration, ociimage
from devcluster.binaries import PROGRAMS, content_hash
from devcluster.components import Component, Credentials
from devcluster.config import default_cluster
from devcluster.hoststate import differences
from devcluster.supervise import configuration as supervisor_configuration

words = st.lists(
    st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S")), min_size=1), min_size=1, max_size=4
)


@given(words)
def test_a_command_passes_the_supervisor_unchanged(command: list[str]) -> None:
    text = supervisor_configuration(Path("/s"), [Component("c", tuple(command))], log=Path("/l"), marker="m")
    parsed = configparser.RawConfigParser()
    parsed.read_string(text)
    assert shlex.split(parsed["program:c"]["command"].replace("%%", "%")) == command


def test_each_component_can_be_found_from_outside() -> None:
    cluster = default_cluster("c", slot=3)
    parts = components.control_plane(cluster, Path("/b"), Path("/p"), Credentials("key", "secret"))
    parsed = configparser.RawConfigParser()
    parsed.read_string(supervisor_configuration(cluster.state, parts, log=cluster.log, marker="c"))
    for part in parts:
        environment = parsed[f"program:{part.name}"]["environment"]
        assert f'MODELWRIGHT_COMPONENT="{part.name}"' in environment
        assert 'MODELWRIGHT_DEVCLUSTER="c"' in environment


def test_the_control_plane_listens_on_the_bridge_alone() -> None:
    cluster = default_cluster("c", slot=3)
    for part in components.control_plane(cluster, Path("/b"), Path("/p"), Credentials("key", "secret")):
        assert "0.0.0.0" not in " ".join(part.command)  # noqa: S104
    assert "bind 10.88.3.1" in configuration.corefile(cluster, Path("/p"))
    assert json.loads(configuration.registry_configuration(cluster, Path("/r")))["http"]["addr"] == "10.88.3.1:5000"


def test_the_audit_log_has_every_write_with_its_content_and_no_secrets() -> None:
    rules = configuration.audit_policy()["rules"]
    assert isinstance(rules, list)
    levels = [(rule["level"], rule.get("verbs"), rule.get("resources")) for rule in rules]
    secrets = next(i for i, (level, _, resources) in enumerate(levels) if resources and level == "Metadata")
    writes = next(i for i, (level, verbs, _) in enumerate(levels) if level == "Request" and verbs and "patch" in verbs)
    silent_by_user = [i for i, rule in enumerate(rules) if rule["level"] == "None" and "nonResourceURLs" not in rule]
    assert secrets < writes < min(silent_by_user)


def test_an_image_of_one_program_is_whole(tmp_path: Path) -> None:
    program = tmp_path / "pause-0123"
    program.write_bytes(b"\x7fELF")
    ociimage.write_archive(tmp_path / "image.tar", "example/pause:1", program)
    with tarfile.open(tmp_path / "image.tar") as archive:
        files = {name: archive.extractfile(name).read() for name in archive.getnames()}  # type: ignore[union-attr]
    descriptor = json.loads(files["index.json"])["manifests"][0]
    assert descriptor["annotations"]["io.containerd.image.name"] == "example/pause:1"
    manifest = json.loads(files["blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")])
    config = json.loads(files["blobs/sha256/" + manifest["config"]["digest"].removeprefix("sha256:")])
    assert config["config"]["Entrypoint"] == ["/pause"]
    assert config["rootfs"]["diff_ids"] == [manifest["layers"][0]["digest"]]


def test_a_binary_s_name_follows_its_module_s_content(tmp_path: Path) -> None:
    program = PROGRAMS["pause"]
    folder = tmp_path / program.module
    folder.mkdir()
    (folder / "main.go").write_text("package main")
    (folder / "notes.txt").write_text("not part of it")
    first = content_hash(program, go_version="go1.26.8", modules=tmp_path)
    (folder / "notes.txt").write_text("changed")
    assert content_hash(program, go_version="go1.26.8", modules=tmp_path) == first
    assert content_hash(program, go_version="go1.26.9", modules=tmp_path) != first
    (folder / "main.go").write_text("package main // changed")
    assert content_hash(program, go_version="go1.26.8", modules=tmp_path) != first


def test_differences_name_what_was_left_behind_and_what_was_taken() -> None:
    before = {"links": {"lo", "eth0"}, "processes": {"1 init", "2 sh"}}
    after = {"links": {"lo", "mw0"}, "processes": {"1 init", "9 etcd"}}
    assert differences(before, after) == ["links: + mw0", "links: - eth0", "processes: + 9 etcd"]
    assert differences(before, before) == []
