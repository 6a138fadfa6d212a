"""The API's models: what they read of real objects, what they refuse and in which words, what is made from them."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from modelwright.api.conditions import Condition
from modelwright.api.errors import problems
from modelwright.api.kinds import KINDS
from modelwright.api.model_version import ModelVersion
from modelwright.api.rules import VALIDATIONS, Rule
from modelwright.api.training_job import TrainingJob, TrainingJobStatus
from modelwright.api.versions import is_nameable, is_semver, model_version_name, precedence
from modelwright.crdgen import structural
from modelwright.crdgen.__main__ import drift, main, write
from pydantic import BaseModel, Field, ValidationError

from dev import examples

ROOT = Path(__file__).parents[2]


def refused(manifest: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(ValidationError) as error:
        TrainingJob.model_validate(manifest)
    return problems(error.value)


# What is generated


def test_what_is_generated_is_what_is_checked_in() -> None:
    assert drift(ROOT) == []


def test_the_check_names_each_file_that_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path)
    (tmp_path / "crds" / "models.yaml").write_text("changed by hand")
    (tmp_path / "docs" / "reference" / "recipes.md").unlink()
    (tmp_path / "crds" / "gone.yaml").write_text("of a kind that is gone")
    capsys.readouterr()
    assert main(["--check", "--root", str(tmp_path)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "crds/models.yaml: differs from operator/modelwright/api",
        "docs/reference/recipes.md: missing",
        "crds/gone.yaml: is generated from nothing; remove it",
        "run: python -m modelwright.crdgen",
    ]


def fields(schema: dict[str, Any], path: str) -> dict[str, dict[str, Any]]:
    found = {path: schema}
    for name, member in schema.get("properties", {}).items():
        found |= fields(member, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            found |= fields(schema[key], f"{path}.{key}")
    return found


def every_field() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((ROOT / "crds").glob("*.yaml")):
        crd = yaml.safe_load(path.read_text())
        root = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        found |= fields(root["properties"]["spec"], f"{path.stem}.spec")
        found |= fields(root["properties"]["status"], f"{path.stem}.status")
    return found


def test_every_field_is_described() -> None:
    scalars = (".items", ".additionalProperties")
    assert [
        path for path, one in every_field().items() if "description" not in one and not path.endswith(scalars)
    ] == []


def test_enums_are_in_camel_case_but_for_the_names_of_metrics_recipes_and_splits() -> None:
    words = {
        word
        for path, one in every_field().items()
        for word in one.get("enum", ())
        if isinstance(word, str) and "metric" not in path and not path.endswith(("recipe", "split"))
    }
    assert {word for word in words if not re.fullmatch("[A-Z][A-Za-z0-9]*", word)} == set()


def test_rules_stand_on_the_root_for_the_name_alone() -> None:
    for kind in KINDS:
        assert all("self.metadata.name" in rule.cel for rule in kind.rules)


def test_there_is_no_rule_on_a_status() -> None:
    assert [path for path, one in every_field().items() if ".status" in path and VALIDATIONS in one] == []


class _Number(BaseModel):
    share: float


class _Union(BaseModel):
    either: int | str


class _Unbounded(BaseModel):
    names: list[str] = Field(max_length=3)


class _Exclusive(BaseModel):
    count: int = Field(gt=0)


class _Set(BaseModel):
    names: set[int]


class _Anything(BaseModel):
    what: Any


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (_Number, ".share: a number; write decimals as strings"),
        (_Union, ".either: a union of 2 types; a field has one type"),
        (_Unbounded, ".names[]: no maxLength; every string, list and map has a bound"),
        (_Exclusive, ".count: exclusiveMinimum cannot be said in a CRD; write a rule"),
        (_Set, ".names: uniqueItems cannot be said in a CRD; write a rule"),
        (_Anything, ".what: no type"),
    ],
)
def test_what_a_crd_cannot_say_is_an_error_that_names_the_field(model: type[BaseModel], said: str) -> None:
    with pytest.raises(structural.NotStructural, match=re.escape(said)):
        structural.structural(model)


def test_a_message_says_the_refused_value_in_cel_and_in_python() -> None:
    rule = Rule("self.x == 'a'", "'{self.oneName}' is not \"{wanted}\"", terms={"wanted": ("string(1)", lambda _: "1")})
    assert rule.to_validation()["messageExpression"] == '"\'" + self.oneName + "\' is not \\"" + string(1) + "\\""'

    class Value:
        one_name = "{b}"

    assert rule.told(Value()) == "'{b}' is not \"1\""


# Reading objects


def test_a_real_object_is_read_with_all_that_the_api_server_adds() -> None:
    manifest = examples.training_job()
    manifest["metadata"] |= {
        "namespace": "team-a", "uid": "0b1c", "resourceVersion": "12", "generation": 3,
        "creationTimestamp": "2026-01-02T03:04:05Z", "managedFields": [{"manager": "kubectl"}],
        "deletionTimestamp": "2026-01-02T03:05:05Z", "finalizers": ["modelwright.dev/children"],
    }  # fmt: skip
    job = TrainingJob.model_validate(manifest)
    assert (job.metadata.namespace, job.metadata.generation, job.metadata.finalizers) == (
        "team-a", 3, ("modelwright.dev/children",),
    )  # fmt: skip
    assert job.spec.workers.resources is not None
    assert job.spec.workers.resources.requests == {"cpu": "500m", "memory": "1Gi"}
    assert job.status.phase == "Pending"


def test_the_overlay_of_a_pod_is_kept_as_it_was_written() -> None:
    manifest = examples.training_job()
    overlay = {"spec": {"nodeSelector": {"disk_type": "ssd"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]}}
    manifest["spec"]["workers"]["podTemplate"] = overlay
    job = TrainingJob.model_validate(manifest)
    assert job.spec.workers.pod_template is not None
    assert job.spec.workers.pod_template.to_object() == overlay


def test_every_problem_is_told_with_its_path() -> None:
    manifest = examples.training_job()
    manifest["spec"]["publish"]["version"] = "1.0"
    manifest["spec"]["workers"]["replicas"] = "2"
    manifest["spec"]["evaluation"]["gates"] = [{"metric": "accuracy"}]
    del manifest["spec"]["data"]["uri"]
    manifest["spec"]["queue"] = "team-a"
    assert refused(manifest) == (
        "spec.publish.version: '1.0' is not a semantic version; write MAJOR.MINOR.PATCH, such as 1.0.0 or 1.0.0-rc.1",
        "spec.data: give exactly one of uri and datasetRef",
        "spec.workers.replicas: Input should be a valid integer",
        "spec.evaluation.gates[0]: give min, max or both",
        "spec.queue: unknown field; the CRD may be newer than this operator",
    )


def test_two_broken_rules_of_one_object_are_two_lines() -> None:
    manifest = {
        "metadata": {"name": "Digits.v1"},
        "spec": {"model": "digits", "version": "1.0.0", "source": {"trainingJobRef": {"name": "x"}}},
    }
    with pytest.raises(ValidationError) as error:
        ModelVersion.model_validate(manifest)
    said = problems(error.value)
    assert [line.split(":")[0] for line in said] == ["metadata.name", "metadata.name"]
    assert said[1] == "metadata.name: 'Digits.v1' must say which version it is; write 'digits-v1-0-0'"


def test_what_a_newer_operator_wrote_in_status_is_passed_over() -> None:
    manifest = examples.training_job() | {"status": {"phase": "Running", "energy": "3kWh"}}
    assert TrainingJob.model_validate(manifest).status == TrainingJobStatus(phase="Running")


def test_times_are_written_as_kubernetes_writes_them() -> None:
    condition = Condition.model_validate(
        {
            "type": "Ready",
            "status": "True",
            "reason": "Ready",
            "message": "",
            "lastTransitionTime": "2026-01-02T03:04:05.9+01:00",
        }
    )
    assert condition.to_object()["lastTransitionTime"] == "2026-01-02T02:04:05Z"


def test_an_object_of_the_api_imports_nothing_of_the_operator() -> None:
    code = "import sys, modelwright.api.kinds, modelwright.api.recipes; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    ours = {name for name in loaded if name.startswith("modelwright.") and not name.startswith("modelwright.api")}
    assert ours == set()
    assert {"kopf", "kubernetes", "aiohttp", "yaml"} & set(loaded) == set()


# Versions

# The order that section 11 of SemVer 2.0 gives, with some between.
ORDERED = [
    "0.9.9", "1.0.0-1", "1.0.0-2", "1.0.0-10", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta",
    "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1", "1.2.0", "1.10.0", "2.0.0",
]  # fmt: skip


def test_versions_are_ordered_as_semver_orders_them() -> None:
    assert sorted(sorted(ORDERED), key=precedence) == ORDERED


@pytest.mark.parametrize("text", ["1.0", "v1.0.0", "01.0.0", "1.0.0-", "1.0.0-01", "1.0.0\n", "", "1.0.0+", "١.0.0"])
def test_another_string_is_no_version(text: str) -> None:
    assert not is_semver(text)
    with pytest.raises(ValueError, match="is not a semantic version"):
        precedence(text)


@functools.cache
def _identifiers() -> st.SearchStrategy[str]:
    numbers = st.integers(0, 99).map(str)
    pre_release = st.lists(numbers | st.from_regex("[a-z][a-z0-9]{0,3}", fullmatch=True), max_size=3).map(".".join)
    core = st.tuples(numbers, numbers, numbers).map(".".join)
    return st.tuples(core, pre_release).map(lambda parts: "-".join(part for part in parts if part))


@given(_identifiers(), _identifiers())
def test_two_versions_of_a_model_never_share_a_name(one: str, other: str) -> None:
    assert is_semver(one)
    assert is_nameable(one)
    assert (model_version_name("m", one) == model_version_name("m", other)) == (one == other)
    assert model_version_name("m", one, "int8") != model_version_name("m", other)


def test_the_default_of_every_kind_is_in_progress_for_kstatus() -> None:
    from modelwright.kube.conditions import kstatus

    for path in sorted((ROOT / "crds").glob("*.yaml")):
        crd = yaml.safe_load(path.read_text())
        status = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["default"]
        assert json.dumps(status)
        assert kstatus({"metadata": {"generation": 1}, "status": status}) == "InProgress"
