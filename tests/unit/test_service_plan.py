"""The blue-green plan in a world of its own: what is promised holds in every order of events."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from modelwright.controllers.inferenceservice.plan import Wanted

from tests.unit.serving_world import World, revision

QUICK = {"after_seconds": 10.0, "scale_down_delay": 5.0, "drain_timeout": 5.0, "ready_timeout": 30.0}


def wanted(version: str, **more: object) -> Wanted:
    options = {"replicas": 2, "asked": version, "target": revision(version), **QUICK, **more}
    return Wanted(**options)  # type: ignore[arg-type]


@pytest.fixture
def world() -> World:
    """1.0.0 is served."""
    one = World()
    one.run(wanted("1.0.0"))
    assert one.status.version == "1.0.0"
    assert one.status.phase == "Ready"
    return one


def test_the_first_version_is_served_once_it_has_answered_its_golden_samples() -> None:
    one = World()
    one.run(wanted("1.0.0"), until=lambda: one.job is not None)
    assert one.active == "none", "nobody is sent anywhere yet"
    one.run(wanted("1.0.0"))
    assert (one.active, one.preview, one.status.version, one.status.ready) == ("svc-100", "svc-100", "1.0.0", "2/2")
    assert one.lost == []


def test_the_first_version_waits_for_no_promotion() -> None:
    one = World()
    one.run(wanted("1.0.0", manual=True))
    assert one.status.version == "1.0.0"


def test_a_change_to_a_version_that_is_taken_back_is_dropped_before_the_switch(world: World) -> None:
    world.run(wanted("1.1.0", manual=True), until=lambda: "svc-110" in world.deployments)
    nothing = Wanted(
        replicas=2,
        asked="none",
        target=None,
        problem_reason="VersionRetracted",
        withdrawn="digits-v1-1-0 is retracted (wrong)",
        **QUICK,
    )
    world.run(nothing)
    assert (world.status.rollout, world.status.version, world.active) == (None, "1.0.0", "svc-100")
    assert "svc-110" not in world.deployments
    assert world.lost == []


def test_an_upgrade_switches_watches_keeps_and_only_then_scales_down(world: World) -> None:
    steps: list[str] = []

    def note() -> bool:
        if world.status.rollout is not None and world.status.rollout.step not in steps:
            steps.append(world.status.rollout.step)
        if world.status.rollout is not None and world.status.rollout.step in ("Observing", "Keeping"):
            assert world.deployments["svc-100"].replicas == 2, "the old pods stay whole"
        return world.status.rollout is None and world.status.version == "1.1.0"

    world.run(wanted("1.1.0"), until=note)
    world.run(wanted("1.1.0"))
    assert steps == ["Starting", "Analysing", "Switching", "Observing", "Keeping"]
    assert world.deployments["svc-100"].replicas == 0
    assert world.status.previous is not None
    assert world.status.previous.version == "1.0.0"
    assert world.lost == []


def test_a_version_that_cannot_be_loaded_is_refused_and_the_old_one_serves_on(world: World) -> None:
    world.broken.add("1.1.0")
    world.run(wanted("1.1.0"))
    assert world.status.version == "1.0.0"
    assert world.status.failed is not None
    assert world.status.failed.reason == "ArtifactDamaged"
    assert world.status.phase == "Degraded"
    assert set(world.deployments) == {"svc-100"}, "what failed is taken away"
    assert world.active == world.preview == "svc-100"


def test_what_failed_is_not_tried_again_until_something_else_is_asked_for(world: World) -> None:
    world.broken.add("1.1.0")
    world.run(wanted("1.1.0"))
    deeds = len(world.deeds)
    world.run(dataclasses.replace(wanted("1.1.0"), replicas=2))
    assert len(world.deeds) == deeds
    world.broken.clear()
    world.run(wanted("1.0.0"))
    assert world.status.failed is None
    world.run(wanted("1.1.0"))
    assert world.status.version == "1.1.0"


def test_a_retry_is_made_once_for_each_failure(world: World) -> None:
    world.broken.add("1.1.0")
    world.run(wanted("1.1.0"))
    assert world.status.failed is not None
    at = world.status.failed.at.strftime("%Y-%m-%dT%H:%M:%SZ")
    world.run(wanted("1.1.0", retry=at))
    assert world.events.count("ArtifactDamaged") == 2
    world.broken.clear()
    world.run(wanted("1.1.0", retry=at))
    assert world.status.version == "1.0.0", "the annotation stands for the first failure only"


def test_golden_samples_that_disagree_keep_the_old_version(world: World) -> None:
    world.mismatches.add("1.1.0")
    world.run(wanted("1.1.0"))
    assert world.status.version == "1.0.0"
    assert world.status.failed is not None
    assert "50 of 50 answers differ from the golden samples" in world.status.failed.message


def test_a_version_that_errs_under_real_requests_is_taken_back(world: World) -> None:
    world.errs.add("1.1.0")
    world.run(wanted("1.1.0"))
    assert world.status.version == "1.0.0"
    assert world.status.failed is not None
    assert world.status.failed.reason == "AnalysisFailed"
    assert "requests failed" in world.status.failed.message
    assert world.active == "svc-100"
    assert not world.deployments["svc-100"].draining, "it is asked again, and keeps its connections"
    assert "svc-110" not in world.deployments
    assert world.lost == []


def test_no_room_is_waited_out_in_the_schedulers_words(world: World) -> None:
    world.room = 2
    said = "1 Insufficient cpu"
    world.run(
        wanted("1.1.0"), until=lambda: bool(world.status.rollout and said in (world.status.rollout.message or ""))
    )
    for _ in range(120):
        world.second()
        world.reconcile(wanted("1.1.0"))
    assert world.status.rollout is not None, "it did not give up after readyTimeout"
    assert world.status.version == "1.0.0"
    world.room = 10
    world.run(wanted("1.1.0"))
    assert world.status.version == "1.1.0"


def test_manual_promotion_waits_for_this_revisions_name(world: World) -> None:
    manual = wanted("1.1.0", manual=True, promote="svc-999")
    world.run(manual, until=lambda: bool(world.status.rollout and world.status.rollout.step == "AwaitingPromotion"))
    for _ in range(60):
        world.second()
        world.reconcile(manual)
    assert (world.status.version, world.preview) == ("1.0.0", "svc-110")
    world.run(wanted("1.1.0", manual=True, promote="svc-110"))
    assert world.status.version == "1.1.0"


def test_green_pods_that_die_right_before_the_switch_are_waited_for(world: World) -> None:
    world.run(wanted("1.1.0"), until=lambda: bool(world.status.rollout and world.status.rollout.step == "Switching"))
    world.kill("1.1.0")
    world.reconcile(wanted("1.1.0"))
    assert world.active == "svc-100"
    world.run(wanted("1.1.0"))
    assert (world.status.version, world.lost) == ("1.1.0", [])


def test_a_version_whose_pods_all_die_after_the_switch_is_taken_back(world: World) -> None:
    world.run(wanted("1.1.0"), until=lambda: bool(world.status.rollout and world.status.rollout.step == "Observing"))
    world.kill("1.1.0")
    world.run(wanted("1.1.0"))
    assert world.status.version == "1.0.0"
    assert world.status.failed is not None
    assert "none of its pods is ready" in world.status.failed.message
    assert world.lost == []


def test_old_pods_that_are_not_ready_are_not_gone_back_to(world: World) -> None:
    world.run(wanted("1.1.0"), until=lambda: bool(world.status.rollout and world.status.rollout.step == "Keeping"))
    world.kill("1.0.0")
    world.reconcile(wanted("1.0.0"))
    world.reconcile(wanted("1.0.0"))
    assert world.active == "svc-110"
    world.run(wanted("1.0.0"))
    assert (world.status.version, world.lost) == ("1.0.0", [])


def test_abort_before_the_switch(world: World) -> None:
    manual = wanted("1.1.0", manual=True)
    world.run(manual, until=lambda: bool(world.status.rollout and world.status.rollout.step == "AwaitingPromotion"))
    world.run(wanted("1.1.0", manual=True, abort="svc-110"))
    assert world.status.version == "1.0.0"
    assert world.status.failed is not None
    assert world.status.failed.reason == "Aborted"
    assert set(world.deployments) == {"svc-100"}


@pytest.mark.parametrize("step", ["Observing", "Keeping"])
def test_a_reverted_channel_goes_back_at_once_while_the_old_pods_are_there(world: World, step: str) -> None:
    world.run(wanted("1.1.0"), until=lambda: bool(world.status.rollout and world.status.rollout.step == step))
    began = world.now
    world.run(wanted("1.0.0"), until=lambda: world.active == "svc-100")
    assert (world.now - began).total_seconds() <= 2
    world.run(wanted("1.0.0"))
    assert (world.status.version, world.status.failed) == ("1.0.0", None)
    assert world.lost == []


def test_rollback_on_request_after_everything_was_scaled_down(world: World) -> None:
    world.run(wanted("1.1.0"))
    assert world.deployments["svc-100"].replicas == 0
    back = wanted("1.1.0", rollback="svc-110")
    world.run(back)
    assert world.status.version == "1.0.0"
    assert world.status.failed is not None
    assert world.status.failed.reason == "RolledBack"
    world.run(back)
    assert world.status.version == "1.0.0", "once"
    assert world.lost == []


def test_green_comes_with_as_many_pods_as_an_autoscaler_has_made_of_blue(world: World) -> None:
    world.run(wanted("1.1.0"), until=lambda: bool(world.status.rollout and world.status.rollout.step == "Analysing"))
    world.run(wanted("1.1.0", replicas=5), until=lambda: world.active == "svc-110")
    assert world.deployments["svc-110"].ready(world.starts_in) >= 5


def test_a_third_version_in_mid_upgrade_takes_the_place_of_the_second(world: World) -> None:
    world.run(wanted("1.1.0"), until=lambda: bool(world.status.rollout and world.status.rollout.step == "Analysing"))
    world.run(wanted("1.2.0"))
    assert world.status.version == "1.2.0"
    assert set(world.deployments) == {"svc-100", "svc-120"}
    assert world.lost == []


def test_at_rest_there_is_nothing_to_do(world: World) -> None:
    before = (world.status, len(world.deeds))
    for _ in range(50):
        world.second()
        made = world.reconcile(wanted("1.0.0"))
        assert made.look_again is None
    assert (world.status, len(world.deeds)) == before


def test_a_word_acts_once_and_another_asking_again(world: World) -> None:
    world.run(wanted("1.1.0"))
    said = "svc-110@now"
    world.run(wanted("1.1.0", rollback=said))
    world.run(wanted("1.0.0", rollback=said))
    world.run(wanted("1.1.0", rollback=said))
    assert world.status.version == "1.1.0", "the annotation is still there, and was obeyed"
    world.run(wanted("1.1.0", rollback="svc-110@later"))
    assert world.status.version == "1.0.0"
    world.run(wanted("1.1.0", rollback=""))
    assert world.status.acted is None


VERSIONS = st.sampled_from(["1.0.0", "1.1.0", "1.2.0"])


@st.composite
def happenings(draw: st.DrawFn) -> list[tuple[str, object]]:
    kinds = {
        "ask": VERSIONS,
        "seconds": st.integers(1, 15),
        "crash": st.integers(0, 3),
        "replicas": st.integers(1, 4),
        "break": VERSIONS,
        "mend": VERSIONS,
        "err": VERSIONS,
        "kill": VERSIONS,
        "room": st.integers(4, 12),
        "abort": VERSIONS,
        "rollback": VERSIONS,
        "operator is away": st.integers(1, 60),
    }
    names = draw(st.lists(st.sampled_from(sorted(kinds)), max_size=14))
    return [(name, draw(kinds[name])) for name in names]


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(happenings())
def test_whatever_happens_and_wherever_it_crashes_requests_are_answered(story: list[tuple[str, object]]) -> None:
    """The first version answers throughout; nobody is ever sent where nobody is ready; in the end all is at rest, with
    nothing left that belongs to no one."""
    world = World(room=12)
    asked = wanted("1.0.0")
    world.run(asked)
    for name, value in story:
        match name, value:
            case "ask", str(version):
                asked = dataclasses.replace(asked, target=revision(version), asked=version, abort="", rollback="")
            case "seconds", int(seconds):
                for _ in range(seconds):
                    world.reconcile(asked)
                    world.second()
            case "crash", int(deeds):
                world.reconcile(asked, dies_after=deeds)
            case "replicas", int(replicas):
                asked = dataclasses.replace(asked, replicas=replicas)
            case "break", "1.1.0" | "1.2.0" as version:
                # A version that has shown itself is not damaged afterwards in this world.
                if revision(str(version)).name not in world.deployments:
                    world.broken.add(str(version))
            case "mend", str(version):
                world.broken.discard(version)
            case "err", "1.1.0" | "1.2.0" as version:
                world.errs.add(str(version))
            case "kill", str(version):
                world.kill(version)
            case "room", int(room):
                world.room = room
            case "abort", str(version):
                asked = dataclasses.replace(asked, abort=revision(version).name)
            case "rollback", str(version):
                asked = dataclasses.replace(asked, rollback=revision(version).name)
            case "operator is away", int(seconds):
                for _ in range(seconds):
                    world.second()
    assert world.lost == []
    world.room = 100
    world.run(asked, 600)
    assert world.lost == []
    assert world.status.rollout is None
    assert world.status.active is not None
    assert world.active == world.endpoints == world.preview == world.status.active.name
    kept = {one.name for one in (world.status.active, world.status.previous) if one}
    assert set(world.deployments) <= kept
    assert world.deployments[world.status.active.name].replicas == asked.replicas
    assert world.job is None
