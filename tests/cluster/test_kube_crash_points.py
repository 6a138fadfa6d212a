"""The harness itself: it passes a controller that is right, and catches those that are wrong only when they crash."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from modelwright.kube.resources import CONFIGMAPS

from devcluster.light import LightCluster
from tests.faults.copier import PHASE
from tests.faults.proxy import Moment
from tests.faults.scenario import Run, Scenario, crash_everywhere


def _scenario(name: str, *, wrong: str = "", delete: bool = False) -> Scenario:
    def command(run: Run) -> list[str | Path]:
        return [sys.executable, "-m", "tests.faults.copier", run.kubeconfig, run.namespace, f"--wrong={wrong}"]

    def copied(run: Run) -> bool:
        source = run.get(CONFIGMAPS, "s")
        return source is not None and (source["metadata"].get("annotations") or {}).get(PHASE) == "Copied"

    def act(run: Run) -> None:
        run.create(CONFIGMAPS, {"metadata": {"name": "s", "labels": {"copier": "source"}}, "data": {"k": "v"}})
        if delete:
            run.wait("copied", lambda: copied(run))
            run.delete(CONFIGMAPS, "s")

    def settled(run: Run) -> bool:
        return run.get(CONFIGMAPS, "s") is None if delete else copied(run)

    return Scenario(name, command, act, settled, [CONFIGMAPS], patience=30)


def test_a_right_controller_is_the_same_after_a_kill_at_any_write(light: LightCluster) -> None:
    report = crash_everywhere(_scenario("copy-delete", delete=True), light.kubeconfig)
    print("\n" + report.table())
    # Finalizer, two copies, done; two deletions, finalizer.
    assert len(report.undisturbed.writes) == 7
    assert report.violations == []
    assert all(outcome.reached for outcome in report.disturbed)
    assert not report.undisturbed.left


def test_a_right_controller_copes_alive_with_lost_answers_and_refusals(light: LightCluster) -> None:
    alive: list[tuple[int | str, Moment]] = [
        (2, Moment.LOST),
        (3, Moment.CONFLICT),
        (5, Moment.BUSY),
        (7, Moment.ERROR),
        (7, Moment.LOST),
    ]
    report = crash_everywhere(_scenario("alive", delete=True), light.kubeconfig, only=alive)
    print("\n" + report.table())
    assert report.violations == []
    assert all(outcome.reached for outcome in report.disturbed)


@pytest.mark.parametrize(
    ("wrong", "delete", "point", "told"),
    [
        ("doubles", False, (2, Moment.AFTER), "too much: ConfigMap/s-* of ConfigMap/s"),
        ("orphans", True, (6, Moment.BEFORE), "too much: ConfigMap/s-a of ConfigMap/s (gone)"),
    ],
)
def test_a_wrong_controller_is_caught(
    light: LightCluster, wrong: str, delete: bool, point: tuple[int, Moment], told: str
) -> None:
    report = crash_everywhere(_scenario(wrong, wrong=wrong, delete=delete), light.kubeconfig, only=[point])
    print("\n" + report.table())
    assert any(told in violation for violation in report.violations), report.table()
