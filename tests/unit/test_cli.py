"""What each command asks for, and what it says where there is nothing to do."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from modelwright.api.inference_service import FailedRevision, InferenceService, RolloutStatus
from modelwright.cli.services import Refused, annotation, story

from tests.unit.serving_world import revision

NOW = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)


def service(**status: Any) -> InferenceService:
    made = InferenceService.model_validate(
        {"metadata": {"name": "digits"}, "spec": {"model": {"name": "digits", "channel": "stable"}}}
    )
    return made.model_copy(update={"status": made.status.model_copy(update=status)})


def rollout(step: str) -> RolloutStatus:
    return RolloutStatus.model_validate(
        {"step": step, "since": NOW, "startedAt": NOW, "target": revision("1.1.0").to_object()}
    )


@pytest.mark.parametrize(
    ("command", "status", "key", "value"),
    [
        ("promote", {"rollout": rollout("AwaitingPromotion")}, "promote", "svc-110@2026-01-01T12:00:00Z"),
        ("abort", {"rollout": rollout("Analysing")}, "abort", "svc-110@2026-01-01T12:00:00Z"),
        (
            "rollback",
            {"active": revision("1.1.0"), "previous": revision("1.0.0")},
            "rollback",
            "svc-110@2026-01-01T12:00:00Z",
        ),
        (
            "retry",
            {"failed": FailedRevision(revision="r", version="1", asked="a", reason="R", message="m", at=NOW)},
            "retry",
            "2026-01-01T12:00:00Z",
        ),
    ],
)
def test_a_command_is_an_annotation_that_names_what_it_is_about(
    command: str, status: dict[str, Any], key: str, value: str
) -> None:
    made, said, told = annotation(command, service(**status), NOW)
    assert (made, said) == (f"modelwright.dev/{key}", value)
    assert "digits" in told


@pytest.mark.parametrize("command", ["promote", "abort", "rollback", "retry"])
def test_where_there_is_nothing_to_do_it_says_so(command: str) -> None:
    with pytest.raises(Refused, match="digits has no"):
        annotation(command, service(), NOW)


def test_a_rollback_in_mid_upgrade_is_an_abort() -> None:
    status = {"active": revision("1.0.0"), "previous": revision("0.9.0"), "rollout": rollout("Analysing")}
    with pytest.raises(Refused, match="modelwright abort"):
        annotation("rollback", service(**status), NOW)


def test_the_story_names_what_answers_what_comes_and_what_failed() -> None:
    told = story(service(active=revision("1.0.0"), rollout=rollout("Analysing"), phase="Upgrading"))
    assert "answers   1.0.0" in told
    assert "to 1.1.0, step Analysing" in told
