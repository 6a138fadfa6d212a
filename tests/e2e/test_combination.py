"""Versions combined of several, on a cluster: published and served, or kept back by what they are compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from dev.demo import BUCKET
from dev.target import Store, Target
from devcluster.progress import StepFailed, Steps, wait_for
from tests.e2e.test_compression import API_VERSION, ready, until
from tests.e2e.training.jobs import Space, condition, failed, fresh, small, succeeded, trainer

NAMESPACE = "modelwright-e2e-combination"
FOLDER = "e2e-combination"
STORAGE = {"uri": f"s3://{BUCKET}/{FOLDER}", "secretRef": {"name": "store"}}
RESOURCES = {"requests": {"cpu": "100m", "memory": "384Mi"}}
MEMBERS = {"1.0.0": {"hiddenSizes": "32", "epochs": "6"}, "1.1.0": {"hiddenSizes": "64", "epochs": "4", "seed": "5"}}


@pytest.fixture(scope="module")
def space(target: Target, server: Store, refs: Mapping[str, str], steps: Steps) -> Iterator[Space]:
    """A namespace with two versions of the digits."""
    with fresh(target, server, refs, steps, NAMESPACE, FOLDER) as made:
        names = []
        for version, given in MEMBERS.items():
            name = f"digits-v{version.replace('.', '-')}"
            job = small(name, version)
            job["spec"] |= {"trainer": trainer(**given), "storage": STORAGE}
            made.apply(job)
            names.append(name)
        for name in names:
            made.until(name, "trained", succeeded)
        yield made


def combined(version: str, method: str, members: list[dict[str, Any]], **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelVersion",
        "metadata": {"name": f"digits-v{version.replace('.', '-')}"},
        "spec": {
            "model": "digits", "version": version, "storage": STORAGE,
            "source": {"combine": {"members": members, "method": method, "resources": RESOURCES}}, **spec,
        },
    }  # fmt: skip


def test_two_versions_are_combined_compared_with_the_best_and_served(space: Space) -> None:
    members = [{"version": "1.0.0", "weight": "1"}, {"version": "1.1.0", "weight": "2"}]
    gates = [{"metric": "accuracy", "maxRegression": "0.1"}]
    space.apply(combined("2.0.0", "Weighted", members, evaluation={"gates": gates}))
    status = until(space, "digits-v2-0-0", "combined", ready)
    assert [one["name"] for one in status["lineage"]["parents"]] == ["digits-v1-0-0", "digits-v1-1-0"]
    assert status["lineage"]["method"] == "Weighted"
    notes = status["steps"][0]["notes"]
    print(*notes, sep="\n")
    assert any(one.startswith("accuracy ") and "best member digits-v1-" in one and "95 %" in one for one in notes)
    space.apply({
        "apiVersion": API_VERSION, "kind": "InferenceService", "metadata": {"name": "combined"},
        "spec": {
            "model": {"name": "digits", "version": "2.0.0"}, "replicas": 1,
            "resources": {"requests": {"cpu": "20m", "memory": "96Mi"}},
        },
    })  # fmt: skip
    wait_for(
        "it is served", lambda: space.status("combined", "inferenceservice").get("phase") == "Ready", seconds=180,
        every=1,
    )  # fmt: skip
    assert space.status("combined", "inferenceservice")["active"]["digest"] == status["artifact"]["digest"]
    space.kubectl("delete", "inferenceservice", "combined", "--wait")


def test_one_that_is_not_good_enough_is_kept_back_with_both_figures(space: Space) -> None:
    gates = [{"metric": "accuracy", "min": "0.9999"}]
    space.apply(combined("2.1.0", "Vote", [{"version": one} for one in MEMBERS], evaluation={"gates": gates}))
    status = until(space, "digits-v2-1-0", "refused", failed)
    said = condition(status, "Ready")
    assert said["reason"] == "GateFailed"
    assert "is below min 0.9999 (95 % interval" in said["message"]
    assert "artifact" not in status


def test_a_stack_is_not_judged_by_the_rows_that_it_learned_from(space: Space) -> None:
    members = [{"version": one} for one in MEMBERS]
    with pytest.raises(StepFailed, match=r"spec\.evaluation\.split: .*Stack is fitted on the validation split"):
        space.apply(combined("2.2.0", "Stack", members, evaluation={"split": "validation"}))
    space.apply(combined("2.3.0", "Stack", members))
    until(space, "digits-v2-3-0", "combined", ready)
