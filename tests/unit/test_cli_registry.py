"""What `modelwright pull`, `lineage` and `import` make of what is in the cluster and in the store."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml
from modelwright import artifact, versions
from modelwright.api.model_version import ModelVersion
from modelwright.artifact import Manifest
from modelwright.cli import drawing, lineage, main, pull, restore
from modelwright.cli.cluster import Refused, Where
from modelwright.contract import StoreAccess
from modelwright.store import Store

from tests.unit.test_artifact import stated
from tests.unit.test_model_plan import model

DIGEST = "sha256:" + "0" * 64
NOWHERE = Where(None, None, None)


# pull

STATUS = {
    "channels": {
        "edge": {"version": "1.0.0", "variant": "int8", "modelVersionRef": {"name": "digits-v1-0-0--int8"}},
        "next": {"message": "ModelVersion digits-v2-0-0 does not exist"},
    },
    "latest": "1.1.0",
}


@pytest.mark.parametrize(
    ("what", "variant", "name"),
    [
        ("", None, "digits-v1-1-0"),
        ("", "int8", "digits-v1-1-0--int8"),
        ("1.0.0", None, "digits-v1-0-0"),
        ("edge", None, "digits-v1-0-0--int8"),
        ("edge", "int4", "digits-v1-0-0--int4"),
    ],
)
def test_what_is_pulled_is_a_channel_s_version_the_newest_or_one_by_its_number(
    what: str, variant: str | None, name: str
) -> None:
    assert pull.wanted(model({}, STATUS), what, variant) == name


def test_a_channel_that_is_not_there_or_points_at_nothing_is_refused() -> None:
    with pytest.raises(Refused, match="Model digits has no channel stable; it has edge, next"):
        pull.wanted(model({}, STATUS), "stable", None)
    with pytest.raises(Refused, match="channel next of Model digits points at nothing: ModelVersion digits-v2-0-0"):
        pull.wanted(model({}, STATUS), "next", None)
    with pytest.raises(Refused, match="has no version that is Ready"):
        pull.wanted(model({}), "", None)


# import


def publish(place: Path, version: str, variant: str | None = None) -> str:
    """The digest of a version in the store of `place`."""
    folder = place / f"made-{version}-{variant}"
    folder.mkdir(parents=True)
    manifest = Manifest.model_validate(stated(folder, version=version, variant=variant))
    uri = artifact.manifest_uri(f"file://{place}/store", "team-a", "digits", version, variant)
    return versions.publish(Store(StoreAccess(uri=f"file://{place}/store"), {}), uri, manifest, folder)


def imported(uri: str, **more: Any) -> list[dict[str, Any]]:
    options = {"every": True, "apply": False, **more}
    digest, reach = options.pop("digest", None), restore.Reach(secret="store")  # noqa: S106 - a Secret's name
    return list(yaml.safe_load_all(asyncio.run(restore.run(uri, digest, reach, NOWHERE, **options))))


def test_all_versions_of_a_store_become_model_versions_with_the_digests_that_they_have(tmp_path: Path) -> None:
    digests = [publish(tmp_path, *one) for one in (("1.0.0",), ("1.0.0", "int8"), ("1.10.0",), ("1.9.0",))]
    objects = imported(f"file://{tmp_path}/store/models/team-a/")
    assert [one["metadata"]["name"] for one in objects] == [
        "digits-v1-0-0", "digits-v1-0-0--int8", "digits-v1-9-0", "digits-v1-10-0",
    ]  # fmt: skip
    read = [ModelVersion.model_validate(one) for one in objects]
    assert [one.spec.source.artifact.digest for one in read if one.spec.source.artifact] == [
        digests[0], digests[1], digests[3], digests[2],
    ]  # fmt: skip
    source = read[1].spec.source.artifact
    assert source is not None
    assert source.uri == f"file://{tmp_path}/store/models/team-a/digits/versions/1.0.0--int8/manifest.json"
    assert source.storage is not None
    assert source.storage.secret_ref is not None
    assert source.storage.secret_ref.name == "store"


def test_one_manifest_is_imported_with_the_digest_that_it_must_have(tmp_path: Path) -> None:
    digest = publish(tmp_path, "1.0.0")
    uri = artifact.manifest_uri(f"file://{tmp_path}/store", "team-a", "digits", "1.0.0")
    assert imported(uri, every=False, digest=digest)[0]["spec"]["source"]["artifact"]["digest"] == digest
    with pytest.raises(Refused, match=f"the manifest is {digest}, and {DIGEST} was asked for"):
        imported(uri, every=False, digest=DIGEST)


def test_what_cannot_be_imported_is_said_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(tmp_path, "1.0.0")
    store = f"file://{tmp_path}/store"
    with pytest.raises(Refused, match=r"there is no versions/<version>/manifest\.json below it"):
        imported(f"{store}/models/team-b")
    twin = tmp_path / "store/models/team-b/digits/versions/1.0.0"
    twin.mkdir(parents=True)
    (twin / "manifest.json").write_bytes(
        (tmp_path / "store/models/team-a/digits/versions/1.0.0/manifest.json").read_bytes()
    )
    with pytest.raises(Refused, match="are both digits-v1-0-0; name the folder of one namespace"):
        imported(f"{store}/models")
    (twin / "manifest.json").write_text("{}")
    with pytest.raises(Refused, match=r"team-b/digits/versions/1\.0\.0/manifest\.json: it is no manifest"):
        imported(f"{store}/models/team-b")
    assert main(["import", f"{store}/models"]) == 1
    assert "for all below a folder add --all" in capsys.readouterr().err


# lineage


def version(name: str, source: dict[str, Any], **status: Any) -> dict[str, Any]:
    spec = {"model": "digits", "version": "1.0.0", "source": source}
    return {"metadata": {"name": name}, "spec": spec, "status": {"artifact": {"digest": DIGEST}, **status}}


def known() -> lineage.Known:
    trained = {"trainingJob": {"name": "train"}, "datasetRef": {"name": "rows"}, "datasetDigest": DIGEST}
    compress = {"from": {"version": "1.0.0"}, "steps": [{"prune": {}}, {"quantize": {}}]}
    members = [{"version": "1.0.0", "weight": "2"}, {"version": "1.0.0", "variant": "int8"}]
    return lineage.Known(
        versions={
            "digits-v1-0-0": version("digits-v1-0-0", {"trainingJobRef": {"name": "train"}}, lineage=trained),
            "digits-v1-0-0--int8": version("digits-v1-0-0--int8", {"compress": compress}, metrics={"accuracy": "0.97"}),
            "digits-v1-0-0--both": version("digits-v1-0-0--both", {"combine": {"members": members, "method": "Vote"}}),
            "digits-v0-9-0": version("digits-v0-9-0", {"artifact": {"uri": "s3://b/m", "digest": DIGEST}}),
        },
        jobs={"train": {"spec": {"trainer": {"recipe": "mlp"}}}},
        datasets={"rows": {"spec": {"source": {"uri": "s3://b/rows.parquet"}}}},
        services={
            "front": {
                "status": {
                    "active": {"modelVersionRef": {"name": "digits-v1-0-0"}},
                    "rollout": {"target": {"modelVersionRef": {"name": "digits-v1-0-0--both"}}},
                }
            }
        },
    )


def test_the_lineage_leads_from_the_data_to_the_service() -> None:
    made = lineage.graph(known(), ["digits-v1-0-0--both"])
    assert set(made.edges) == {
        ("Data s3://b/rows.parquet", "Dataset rows", "prepared"),
        ("Dataset rows", "TrainingJob train", "trained on"),
        ("TrainingJob train", "ModelVersion digits-v1-0-0", "published"),
        ("ModelVersion digits-v1-0-0", "ModelVersion digits-v1-0-0--int8", "compressed: prune, quantize"),
        ("ModelVersion digits-v1-0-0", "ModelVersion digits-v1-0-0--both", "combined: Vote, weight 2"),
        ("ModelVersion digits-v1-0-0--int8", "ModelVersion digits-v1-0-0--both", "combined: Vote"),
        ("ModelVersion digits-v1-0-0--both", "InferenceService front", "changes to"),
    }
    assert made.nodes["Dataset rows"].digest == DIGEST
    assert set(made.nodes) == {end for source, target, _ in made.edges for end in (source, target)}


def test_in_the_terminal_it_is_a_tree_back_to_the_data() -> None:
    made = lineage.graph(known(), ["digits-v1-0-0--int8"])
    assert drawing.text(*lineage.plain(made)).splitlines() == [
        "ModelVersion digits-v1-0-0--int8",
        "│ sha256:000000000000…",
        "│ accuracy 0.97",
        "└─ compressed: prune, quantize ModelVersion digits-v1-0-0",
        "   │ sha256:000000000000…",
        "   └─ published TrainingJob train",
        "      │ mlp",
        "      └─ trained on Dataset rows",
        "         │ sha256:000000000000…",
        "         └─ prepared Data s3://b/rows.parquet",
    ]


def test_as_svg_each_thing_stands_right_of_what_it_was_made_of() -> None:
    nodes, edges = lineage.plain(lineage.graph(known(), ["digits-v1-0-0--both"]))
    ranks = drawing.ranks(nodes, edges)
    assert all(ranks[source] < ranks[target] for source, target, _ in edges)
    drawn = ElementTree.fromstring(drawing.svg(nodes, edges))  # noqa: S314 - our own
    told = {text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert set(nodes) <= told
    assert "combined: Vote, weight 2" in told


def test_an_imported_version_begins_with_its_artifact_and_what_is_gone_is_said() -> None:
    made = lineage.graph(known(), ["digits-v0-9-0"])
    assert made.edges == [("Artifact s3://b/m", "ModelVersion digits-v0-9-0", "imported")]
    alone = lineage.Known(versions={"digits-v1-0-0--int8": known().versions["digits-v1-0-0--int8"]})
    assert lineage.graph(alone, ["digits-v1-0-0--int8"]).nodes["ModelVersion digits-v1-0-0"].notes == (
        "it does not exist any more",
    )


def test_a_name_is_a_version_s_a_service_s_or_a_model_s() -> None:
    assert known().asked("digits-v0-9-0") == ["digits-v0-9-0"]
    assert known().asked("front") == ["digits-v1-0-0", "digits-v1-0-0--both"]
    assert len(known().asked("digits")) == 4
    with pytest.raises(Refused, match="nothing is no ModelVersion, InferenceService or Model"):
        known().asked("nothing")


def test_a_graph_with_a_cycle_is_drawn_all_the_same() -> None:
    edges = [("A a", "A b", ""), ("A b", "A a", "")]
    assert "A a" in drawing.svg({"A a": ("A a",), "A b": ("A b",)}, edges)
