"""Where channels go when a version is taken back, and who serves what."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from modelwright.api.model import HISTORY, Model, ModelStatus
from modelwright.api.model_version import ModelVersion, ModelVersionSpec, VersionUse, unchanged
from modelwright.controllers.model.plan import events, plan
from modelwright.controllers.model.uses import ServiceUse, service_use, told, users
from modelwright.controllers.modelversion import use
from modelwright.controllers.modelversion.observed import VersionView
from modelwright.kube import conditions
from modelwright.kube.resources import Key

from tests.unit.test_model_plan import model, version


def retracted(number: str, why: str = "wrong labels") -> VersionView:
    return dataclasses.replace(version(number), retracted=why)


def moved(before: Model, channels: Mapping[str, Any], versions: Sequence[VersionView]) -> Model:
    """The model after one more look, with other channels in its spec."""
    asked = model(dict(channels)).model_copy(update={"status": before.status})
    return asked.model_copy(update={"status": plan(asked, versions)[0]})


def pointed(status: ModelStatus, channel: str = "stable") -> str | None:
    return (status.channels or {})[channel].version


def stable(number: str) -> dict[str, Any]:
    return {"stable": {"version": number}}


def test_a_channel_that_names_a_version_which_is_taken_back_goes_back_to_what_it_held_before() -> None:
    there = [version("1.0.0"), version("1.1.0"), version("1.2.0")]
    one = moved(moved(moved(model({}), stable("1.2.0"), there), stable("1.0.0"), there), stable("1.1.0"), there)
    now = [version("1.0.0"), retracted("1.1.0"), version("1.2.0")]
    status, state = plan(one, now)
    assert pointed(status) == "1.0.0", "what it held, not what is newest"
    assert state.main.message == (
        "stable: ModelVersion digits-v1-1-0 is retracted (wrong labels); it went back to 1.0.0. Point the channel at"
        " another version"
    )
    assert (state.main.reason, state.activity) == ("VersionRetracted", conditions.Activity.STALLED)
    assert [event.reason for event in events(one.status, status)] == ["ChannelsResolved", "ChannelMovedBack"]
    again = one.model_copy(update={"status": status})
    assert plan(again, now) == (status, state), "and stays there, with nothing more to say"
    status, _ = plan(again, [retracted("1.0.0"), retracted("1.1.0"), version("1.2.0")])
    assert pointed(status) == "1.2.0", "or further back"
    status, state = plan(again, there)
    assert pointed(status) == "1.1.0", "a retraction that is taken back is as if it had not been"
    assert state.main.status == "True"


def test_latest_is_the_newest_that_is_not_taken_back() -> None:
    status, state = plan(model({"stable": {"latest": True}}), [version("1.0.0"), retracted("1.1.0")])
    assert (pointed(status), status.latest, state.main.status) == ("1.0.0", "1.0.0", "True")


def test_a_channel_with_nothing_to_go_back_to_points_at_nothing() -> None:
    one = moved(model({}), stable("1.0.0"), [version("1.0.0")])
    status, state = plan(one, [retracted("1.0.0")])
    assert pointed(status) is None
    assert "is retracted (wrong labels). Point the channel at another version" in state.main.message


def test_a_version_that_is_taken_back_before_the_channel_came_to_it_changes_nothing() -> None:
    there = [version("1.0.0"), version("1.1.0")]
    one = moved(moved(model({}), stable("1.0.0"), there), stable("1.1.0"), [version("1.0.0"), retracted("1.1.0")])
    assert pointed(one.status) == "1.0.0"


@given(st.lists(st.integers(0, 40), max_size=60))
def test_a_channel_remembers_each_version_once_the_latest_first(numbers: list[int]) -> None:
    there = [version(f"1.{number}.0") for number in set(numbers)]
    one = model({})
    for number in numbers:
        one = moved(one, stable(f"1.{number}.0"), there)
    held = [f"1.{number}.0" for number in dict.fromkeys(reversed(numbers))]
    if numbers:
        assert one.status.channels is not None
        assert [pointed(one.status), *(past.version for past in one.status.channels["stable"].history or ())] == held[
            : HISTORY + 1
        ]


# Who serves what


def service(name: str = "front", **more: str | bool) -> ServiceUse:
    plain: dict[str, Any] = {"channel": "", "named": "", "active": "", "target": "", "before": "", "deleting": False}
    return ServiceUse(key=Key("team", name), model="digits", **(plain | more))


def test_a_service_is_read_with_what_it_serves_and_what_it_changes_to() -> None:
    def revision(name: str) -> dict[str, Any]:
        return {"modelVersionRef": {"name": name}}

    status: dict[str, Any] = {"active": revision("a"), "previous": revision("b")}
    obj = {
        "metadata": {"name": "front", "namespace": "team"},
        "spec": {"model": {"name": "digits", "version": "1.0.0", "variant": "int8"}},
        "status": status,
    }
    assert service_use(obj) == service(named="digits-v1-0-0--int8", active="a", previous="b"), (
        "at rest the one before is history"
    )
    status["rollout"] = {"target": revision("c")}
    assert service_use(obj) == service(named="digits-v1-0-0--int8", active="a", target="c", before="b", previous="b")
    assert service_use({**obj, "status": None}) == service(named="digits-v1-0-0--int8")


def test_who_uses_a_version_is_told_by_name_and_role() -> None:
    uses = [
        service("next", active="b", target="a"),
        service("front", active="a"),
        service("back", active="b", before="a"),
        service("asks", channel="stable"),
        service("names", named="a"),
        service("goes", active="a", deleting=True),
        service("other", active="b", channel="edge"),
    ]
    found = users("a", uses, {"stable": "a", "edge": "b"})
    assert told(found) == "asks (next), back (before), front, names (next), next (next)"
    assert told(users("a", uses, {"stable": "a"}, asked=False)) == "back (before), front, next (next)"


def test_the_model_lists_who_serves_which_version_the_newest_first() -> None:
    uses = [service("front", active="digits-v1-0-0", target="digits-v1-1-0"), service("edge", active="digits-v1-0-0")]
    status, _ = plan(model({}), [version("1.0.0"), version("1.1.0"), version("1.2.0")], uses)
    assert status.serving == "1.1.0 by front (next); 1.0.0 by edge, front"
    assert status.served is not None
    assert [(one.name, len(one.services)) for one in status.served] == [("digits-v1-1-0", 1), ("digits-v1-0-0", 2)]


# What the version says


def plain(**spec: Any) -> ModelVersion:
    fixed = {"model": "digits", "version": "1.0.0", "source": {"trainingJobRef": {"name": "job"}}, **spec}
    metadata = {"name": "digits-v1-0-0", "namespace": "team", "uid": "v", "generation": 1}
    return ModelVersion.model_validate({"metadata": metadata, "spec": fixed, "status": {"phase": "Ready"}})


def test_a_version_that_was_taken_back_says_so_and_why() -> None:
    one = plain(retracted={"reason": "wrong labels"})
    ready = conditions.achieved("Ready", "Published", "published")
    status, state = use.shown(one, one.status, ready, ())
    assert (status.phase, state.main.status) == ("Retracted", "True"), "its artifact is as good as it was"
    assert [(one.type, one.message) for one in state.others] == [("Retracted", "wrong labels")]
    assert list(use.events("Ready", status.phase, state)) == [("Retracted", "taken back: wrong labels", True)]
    assert list(use.events("Retracted", "Ready", ready)) == [("RetractionRevoked", "it can be used again", False)]
    assert list(use.events("Retracted", "Retracted", state)) == []
    assert list(use.events("Pending", "Ready", ready)) == [("Published", "published", False)]


def test_a_version_that_failed_is_not_ready_when_it_is_taken_back_too() -> None:
    one = plain(retracted={"reason": "wrong labels"})
    failed = one.status.model_copy(update={"phase": "Failed"})
    status, _ = use.shown(one, failed, conditions.stalled("Ready", "CheckFailed", "no"), ())
    assert status.phase == "Failed"


def test_a_version_says_who_serves_it_and_who_holds_its_deletion() -> None:
    found = (VersionUse(name="edge", role="Active"), VersionUse(name="front", role="Next"))
    one = plain()
    status, _ = use.shown(one, one.status, conditions.achieved("Ready", "Published"), found)
    assert (status.serving, status.served_by) == ("edge, front (next)", found)
    assert use.held(found).message == (
        "still served by InferenceService edge, front (next): it goes once nobody serves it. Let them serve another"
        " version, by their channel or spec.model.version, or delete them"
    )


def test_every_field_of_a_version_but_retracted_is_immutable() -> None:
    declared = [
        (field.alias or name) + ("" if field.is_required() else "?")
        for name, field in ModelVersionSpec.model_fields.items()
        if name != "retracted"
    ]
    assert ModelVersionSpec.rules[0].cel == unchanged(*declared)
