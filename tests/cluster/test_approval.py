"""Who may approve, as a real API server judges by the chart's admission policy."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from modelwright.api.model_approval import APPROVED, Word
from modelwright.cli import main

from devcluster.light import LightCluster
from devcluster.progress import StepFailed
from tests.cluster import crds
from tests.cluster.test_registry import World

POLICY = crds.ROOT / "charts/modelwright/policies/approval.yaml"
DIGEST = "sha256:" + "0" * 64
KEY = f"{APPROVED}stable"


def account(name: str, *verbs: str) -> list[dict[str, Any]]:
    """A user who may do this with models."""
    subject = [{"kind": "ServiceAccount", "name": name}]
    api = "rbac.authorization.k8s.io/v1"
    rules = [
        {"apiGroups": ["modelwright.dev"], "resources": ["models"], "verbs": ["get", "create", "patch", *verbs]},
        {"apiGroups": ["modelwright.dev"], "resources": ["modelversions"], "verbs": ["get"]},
    ]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}},
        {"apiVersion": api, "kind": "Role", "metadata": {"name": name}, "rules": rules},
        {"apiVersion": api, "kind": "RoleBinding", "metadata": {"name": name}, "roleRef": role, "subjects": subject},
    ]


@pytest.fixture
def space(light: LightCluster, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A Model whose stable channel waits for a person; ed may change it, mia may approve, too."""
    crds.install(light)
    light.kubectl("apply", "--filename", str(POLICY))
    namespace = f"approval-{abs(hash(request.node.name)) % 10**8}"
    light.kubectl("create", "namespace", namespace)
    one = World(light, namespace, tmp_path / "operator.log")
    one.create(*account("ed"), *account("mia", "approve"))
    one.publish("1.0.0")
    manual = {"channels": ["stable"], "by": "Manual"}
    one.create(crds.edited(crds.model("digits", stable={"version": "1.0.0"}), approval=manual))

    def guarded() -> bool:
        return bool(refusal(one, "ed", annotations={KEY: text(one, "ed")}, dry=True))

    one.until("the policy is in force", guarded)
    yield one
    light.kubectl("delete", "--filename", str(POLICY))


def user(world: World, name: str) -> str:
    return f"system:serviceaccount:{world.namespace}:{name}"


def text(world: World, name: str, reason: str = "tried") -> str:
    return Word("digits-v1-0-0", DIGEST, user(world, name), reason).to_text()


def refusal(
    world: World, who: str, *, annotations: dict[str, str | None] | None = None, spec: object = None, dry: bool = False
) -> str:
    """Why a change of the Model by this user is refused; empty where it is made."""
    patch = {"metadata": {"annotations": annotations or {}}, **({"spec": spec} if spec is not None else {})}
    words = ["patch", "model", "digits", "--type=merge", "--patch", json.dumps(patch), "--as", user(world, who)]
    try:
        world.kubectl(*words, *(["--dry-run=server"] if dry else []))
    except StepFailed as failed:
        return failed.output
    return ""


def test_only_who_may_approve_writes_an_approval_and_only_in_their_own_name(space: World) -> None:
    said = refusal(space, "ed", annotations={KEY: text(space, "ed")})
    assert f"{user(space, 'ed')} may not approve models in namespace {space.namespace}" in said
    assert "the verb approve on models.modelwright.dev is needed" in said
    said = refusal(space, "mia", annotations={KEY: text(space, "ed")})
    assert f"the user is whoever writes it, here {user(space, 'mia')}: use modelwright approve" in said
    assert "has the lines" in refusal(space, "mia", annotations={KEY: "yes"})
    assert refusal(space, "mia", annotations={KEY: text(space, "mia")}) == ""
    assert "may not approve" in refusal(space, "ed", annotations={KEY: None}), "nor takes one away"
    assert "may not approve" in refusal(space, "ed", annotations={KEY: text(space, "mia", "another reason")})
    assert refusal(space, "ed", annotations={"team": "a"}, spec={"channels": {"edge": {"latest": True}}}) == ""
    assert refusal(space, "mia", annotations={KEY: None}) == ""


def test_which_channels_wait_is_for_those_to_change_who_may_approve(space: World) -> None:
    for spec in (
        {"approval": None},
        {"approval": {"by": "Automatic"}},
        {"approval": {"channels": ["edge"]}, "channels": {"edge": {"latest": True}}},
    ):
        assert "nor change spec.approval" in refusal(space, "ed", spec=spec, dry=True)
        assert refusal(space, "mia", spec=spec, dry=True) == ""


def test_a_model_is_not_created_with_another_s_word(space: World) -> None:
    other = crds.model("letters", stable={"version": "1.0.0"})
    other["metadata"]["annotations"] = {KEY: text(space, "mia")}

    def create(who: str) -> str:
        words = ("create", "--filename", "-", "--dry-run=server", "--as", user(space, who))
        return space.kubectl(*words, stdin=crds.text(other))

    with pytest.raises(StepFailed) as refused:
        create("ed")
    assert "may not approve" in refused.value.output
    assert "created" in create("mia")


def kubeconfig(world: World, name: str, folder: Path) -> Path:
    config = json.loads(world.light.kubeconfig.read_text())
    token = world.kubectl("create", "token", name).strip()
    config["users"] = [{"name": one["name"], "user": {"token": token}} for one in config["users"]]
    path = folder / name
    path.write_text(json.dumps(config))
    return path


def test_the_channel_moves_when_somebody_approves_by_the_command(
    space: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")

    def command(who: str) -> int:
        where = ["--namespace", space.namespace, "--kubeconfig", str(kubeconfig(space, who, tmp_path))]
        return main(["approve", "digits", "stable", "--version", "1.0.0", "--reason", "tried on Monday", *where])

    def ready() -> dict[str, Any]:
        found = space.objects("models")["digits"]["status"]["conditions"]
        return next(dict(one) for one in found if one["type"] == "Ready")

    with space.operator():
        space.until("it waits", lambda: ready()["reason"] == "WaitingForApproval")
        assert "modelwright approve digits stable --version 1.0.0 --reason" in ready()["message"]
        assert command("ed") == 1
        assert "may not approve models" in capsys.readouterr().err
        time.sleep(0.5)
        assert space.channel() == ""
        assert command("mia") == 0
        assert f"is approved for channel stable of digits by {user(space, 'mia')}" in capsys.readouterr().out
        space.until("it moves", lambda: space.channel() == "1.0.0")
        approved = space.objects("models")["digits"]["status"]["channels"]["stable"]["approved"]
        assert approved == {"by": user(space, "mia"), "reason": "tried on Monday"}
