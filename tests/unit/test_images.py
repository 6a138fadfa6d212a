"""The images' tags, the split of the requirements, the OCI documents: all that is decided before a build begins."""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base_image import add_code, split_requirements
from dev import base, buildah, images, inputs, layers, oci, registry

ROOT = Path(__file__).parents[2]
LOCKED = {name: (ROOT / "requirements" / f"{name}.txt").read_text() for name in images.NAMES}
CODE = "trainer_image/modelwright_trainer/__main__.py"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the images are built from."""
    leave = shutil.ignore_patterns("__pycache__")
    for folder in ("base_image", "trainer_image", "server_image", "requirements", "operator"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=leave)
    return tmp_path


def parts(name: str, root: Path) -> dict[str, str]:
    plan = images.plan(name, root)
    return {part.stage: part.tag for part in (plan.settings, *plan.layers)}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {stage for stage in before if before[stage] != after[stage]}


def test_a_changed_byte_of_code_changes_the_image_and_the_layer_of_code_alone(checkout: Path) -> None:
    image, before = images.plan("trainer", checkout), parts("trainer", checkout)
    (checkout / CODE).write_bytes((checkout / CODE).read_bytes() + b"#")
    assert images.plan("trainer", checkout).tag != image.tag
    assert changed(before, parts("trainer", checkout)) == {"code"}


def test_one_images_code_is_no_input_of_the_other(checkout: Path) -> None:
    before = images.plan("server", checkout)
    (checkout / CODE).write_text("changed = True\n")
    assert images.plan("server", checkout) == before


def test_times_and_bytecode_change_no_tag(checkout: Path) -> None:
    before = images.plan("trainer", checkout)
    os.utime(checkout / CODE, (1, 1))
    cache = (checkout / CODE).parent / "__pycache__"
    cache.mkdir()
    (cache / "__main__.cpython-313.pyc").write_bytes(b"compiled")
    assert images.plan("trainer", checkout) == before


def test_a_new_file_and_a_new_name_change_the_tag(checkout: Path) -> None:
    before = images.plan("trainer", checkout).tag
    fresh = (checkout / CODE).with_name("fresh.py")
    fresh.touch()
    added = images.plan("trainer", checkout).tag
    fresh.rename(fresh.with_name("renamed.py"))
    assert len({before, added, images.plan("trainer", checkout).tag}) == 3


@pytest.mark.parametrize(("package", "layer"), [("triton", "torch"), ("numpy", "rest")])
def test_a_changed_requirement_changes_its_layer_alone(checkout: Path, package: str, layer: str) -> None:
    before = parts("trainer", checkout)
    locked = checkout / "requirements" / "trainer.txt"
    locked.write_text(re.sub(rf"^{package}==\S+", f"{package}==99.9", locked.read_text(), flags=re.MULTILINE))
    assert changed(before, parts("trainer", checkout)) == {layer}


def test_another_way_to_lock_the_same_requirements_changes_nothing(checkout: Path) -> None:
    before = images.plan("trainer", checkout)
    locked = checkout / "requirements" / "trainer.txt"
    locked.write_text("# by another command\n" + re.sub(r"\n    # via \w+$", "", locked.read_text(), count=1))
    assert images.plan("trainer", checkout) == before


@pytest.mark.parametrize("path", ["base_image/packages.txt", "base_image/finish.sh", "base_image/dpkg.cfg"])
def test_another_base_changes_everything(checkout: Path, path: str) -> None:
    before = parts("server", checkout)
    (checkout / path).write_bytes((checkout / path).read_bytes() + b"# more\n")
    assert changed(before, parts("server", checkout)) == {"settings", "dependencies", "code"}


def test_a_comment_in_a_dockerfile_changes_no_tag(checkout: Path) -> None:
    before = images.plan("trainer", checkout)
    dockerfile = checkout / before.dockerfile
    dockerfile.write_text("# a remark\n" + dockerfile.read_text())
    assert images.plan("trainer", checkout) == before


def test_torch_and_our_code_are_layers_of_their_own() -> None:
    stages = [part.stage for part in images.plan("trainer").layers]
    assert stages == ["torch", "rest", "code"], "what changes most comes last"


@pytest.mark.parametrize("extra", ["RUN true", "COPY --from=a /etc /etc", "USER 0"])
def test_a_last_stage_that_does_more_than_join_layers_is_refused(extra: str) -> None:
    dockerfile = f"FROM x AS a\nFROM x AS s\nFROM s\nCOPY --from=a /v /v\n{extra}\n"
    with pytest.raises(ValueError, match="may only copy"):
        inputs.joined(inputs.parse(dockerfile), "/v")


@pytest.mark.parametrize("instruction", ["ADD x /x", "COPY *.py /x", "COPY ${FOLDER} /x", "COPY alone"])
def test_an_instruction_whose_inputs_cannot_be_told_is_refused(instruction: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(instruction))):
        inputs.parse(f"FROM base\n{instruction}\n")


@given(
    st.dictionaries(st.text(min_size=1), st.binary(), max_size=4),
    st.dictionaries(st.text(min_size=1), st.binary(), max_size=4),
)
def test_only_equal_files_have_equal_tags(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    assert (inputs.tag([], one, {}) == inputs.tag([], other, {})) == (one == other)


@given(st.permutations(["a", "b", "c"]))
def test_the_order_in_which_files_are_found_changes_no_tag(names: list[str]) -> None:
    assert inputs.tag([], dict.fromkeys(names, b""), {}) == inputs.tag([], dict.fromkeys("abc", b""), {})


@pytest.mark.parametrize("name", images.NAMES)
def test_each_locked_package_has_hashes_and_no_address(name: str) -> None:
    requirements = split_requirements.parse(LOCKED[name])
    assert len(requirements) > 5
    assert [r.name for r in requirements if "--hash=sha256:" not in r.text] == []
    assert "://" not in LOCKED[name]
    assert not re.search(r"^-", LOCKED[name], re.MULTILINE), "an option, such as an index"


def test_the_server_has_no_torch() -> None:
    assert "torch" not in {requirement.name for requirement in split_requirements.parse(LOCKED["server"])}


def test_torchs_layer_and_the_rest_are_all_packages() -> None:
    whole = split_requirements.parse(LOCKED["trainer"])
    torch, rest = split_requirements.split(whole, "torch")
    assert sorted(r.name for r in torch + rest) == sorted(r.name for r in whole)
    assert {"torch", "triton", "nvidia-nccl-cu13", "cuda-toolkit"} <= {r.name for r in torch}
    assert {"numpy", "onnx", "pyarrow", "obstore"} <= {r.name for r in rest}


@given(st.lists(st.sets(st.integers(0, 9)), min_size=1, max_size=10))
def test_a_split_keeps_each_package_and_what_the_root_needs(asked_by: list[set[int]]) -> None:
    names = [f"p{number}" for number in range(len(asked_by))]
    whole = [
        split_requirements.Requirement(name, f"{name}==1\n", frozenset(f"p{n}" for n in via))
        for name, via in zip(names, asked_by, strict=True)
    ]
    needed, rest = split_requirements.split(whole, "p0")
    assert sorted(r.name for r in needed + rest) == sorted(names)
    assert not any(r.via & {n.name for n in needed} for r in rest)
    assert all(r.name == "p0" or r.via & {n.name for n in needed} for r in needed)


def test_a_line_that_is_no_locked_package_is_refused() -> None:
    with pytest.raises(ValueError, match="line 1"):
        split_requirements.parse("torch>=2\n")
    with pytest.raises(ValueError, match="torch is not among"):
        split_requirements.split(split_requirements.parse("numpy==2.0\n"), "torch")


def test_a_binarys_layer_is_the_same_bytes_each_time_and_holds_it_executable() -> None:
    layer, blob = oci.layer_of_file("pause", b"\x7fELF")
    assert oci.layer_of_file("pause", b"\x7fELF") == (layer, blob)
    plain = gzip.decompress(blob)
    assert (layer.digest, layer.size, layer.diff_id) == (oci.digest_of(blob), len(blob), oci.digest_of(plain))
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        (entry,) = archive.getmembers()
    assert (entry.name, entry.mode, entry.size) == ("pause", 0o755, 4)


def test_a_layer_on_top_keeps_the_image_below() -> None:
    below_layer, layer = oci.layer_of_file("a", b"a")[0], oci.layer_of_file("b", b"b")[0]
    below = oci.image_from_scratch(below_layer, architecture="amd64", settings={"User": "1:1"})
    above = oci.with_layer(below, layer, created_by="test")
    assert oci.layers_of(above) == (below_layer, layer)
    assert above.config["config"] == {"User": "1:1"}
    assert above.manifest["config"]["digest"] == oci.digest_of(oci.encode(above.config))
    assert oci.layers_of(below) == (below_layer,), "the image below is left as it was"


@pytest.mark.skipif(not shutil.which("zstd"), reason="zstd is not installed")
def test_a_folders_layer_is_what_its_descriptor_says_and_knows_no_times(tmp_path: Path) -> None:
    described = []
    for number in (1, 2):
        root = tmp_path / str(number)
        folder = layers.empty_layer_root(root, "/opt/venv")
        (folder / "file").write_text("content")
        os.utime(folder / "file", (number, number))
        packing = layers.Packing(root)
        blob = b"".join(packing.blocks())
        assert (packing.descriptor.digest, packing.descriptor.size) == (oci.digest_of(blob), len(blob))
        described.append(packing.descriptor)
    assert described[0] == described[1]
    plain = subprocess.run(["zstd", "-dc"], input=blob, capture_output=True, check=True).stdout
    assert described[0].diff_id == oci.digest_of(plain)
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        entries = {entry.name: (entry.mode, entry.uid) for entry in archive}
    assert entries["opt/venv"] == (0o755, 0)
    assert set(entries) == {"opt", "opt/venv", "opt/venv/file"}


@pytest.mark.parametrize(
    ("address", "chosen", "insecure"),
    [
        ("127.0.0.1:5000", None, True),
        ("localhost:5000", None, True),
        ("10.88.0.1:5000", None, True),
        ("[::1]:5000", None, True),
        ("registry.example:5000", None, False),
        ("203.0.113.200", None, True),  # TEST-NET-3 counts as private
        ("9.9.9.9:5000", None, False),
        ("registry.example", "1", True),
        ("127.0.0.1:5000", "0", False),
    ],
)
def test_plain_http_is_for_this_machine_and_private_addresses(address: str, chosen: str | None, insecure: bool) -> None:
    assert registry.is_insecure(address, chosen) is insecure


def test_references_name_registry_image_and_tag() -> None:
    found = images.references("127.0.0.1:5000", ("trainer", "base"))
    assert re.fullmatch(r"127\.0\.0\.1:5000/modelwright/trainer:[0-9a-f]{16}", found["trainer"])
    assert found["base"].endswith(f"/modelwright/base:{base.key()}")


def test_an_indexs_password_is_mounted_and_quoted() -> None:
    text = buildah.settings(
        {"UV_INDEX_URL": "x://u:p@h/ $(false)", "HOME": "/h"}, certificates=True, configuration=False
    )
    assert "export UV_INDEX_URL='x://u:p@h/ $(false)'\n" in text
    assert "SSL_CERT_FILE=/mnt/build/certificates.pem" in text
    assert "HOME" not in text


def test_copied_code_becomes_an_installed_distribution(tmp_path: Path) -> None:
    package = tmp_path / "code" / "modelwright"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "1.2.3"\n')
    add_code.main(tmp_path / "code", tmp_path / "site")
    metadata = tmp_path / "site" / "modelwright-1.2.3.dist-info"
    assert "Version: 1.2.3" in (metadata / "METADATA").read_text()
    assert re.search(r"^modelwright/__init__\.py,sha256=[\w-]{43},22$", (metadata / "RECORD").read_text(), re.MULTILINE)
    assert list((tmp_path / "site" / "modelwright").glob("__pycache__/*.pyc"))


def test_a_version_that_is_not_assigned_is_said() -> None:
    with pytest.raises(ValueError, match="__version__"):
        add_code.version_in("version = 1")


def test_no_committed_file_of_the_images_names_a_host() -> None:
    folders = ("base_image", "trainer_image", "server_image", "requirements", "dev")
    named = re.compile(r"\b(docker\.io|pypi\.org|pythonhosted|deb\.debian|quay\.io|ghcr\.io)\b")
    texts = {p: p.read_text() for f in folders for p in (ROOT / f).rglob("*") if p.is_file() and inputs.is_input(p)}
    assert [str(path) for path, text in texts.items() if named.search(text)] == []
