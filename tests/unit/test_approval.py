"""When a channel that waits for a person moves, and what it says meanwhile."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelwright.api.model import Model
from modelwright.api.model_approval import APPROVED, Approval, Word
from modelwright.api.model_version import ModelVersion
from modelwright.cli import approve
from modelwright.cli.cluster import Refused
from modelwright.controllers.model.plan import events, plan
from modelwright.controllers.modelversion.observed import VersionView

from tests.unit.test_model_plan import model, version
from tests.unit.test_registry_channels import pointed, retracted, stable

THERE = [version("1.0.0"), version("1.1.0")]


def guarded(number: str, before: Model | None = None, *words: Word, by: str = "Manual") -> Model:
    """A Model whose stable channel waits for a person, with what they said."""
    one = model(stable(number))
    approval = Approval.model_validate({"channels": ["stable"], "by": by})
    annotations = dict(before.metadata.annotations) if before else {}
    annotations |= {f"{APPROVED}stable": word.to_text() for word in words}
    return one.model_copy(
        update={
            "metadata": one.metadata.model_copy(update={"annotations": annotations}),
            "spec": one.spec.model_copy(update={"approval": approval}),
            "status": before.status if before else one.status,
        }
    )


def word(number: str, digest: str = "") -> Word:
    return Word(f"digits-v{number.replace('.', '-')}", digest or f"sha256:{number}", "mia", "tried on Monday")


def looked(one: Model, versions: Sequence[VersionView] = THERE) -> Model:
    return one.model_copy(update={"status": plan(one, versions)[0]})


def test_a_channel_that_waits_for_a_person_moves_once_one_has_approved_just_this_artifact() -> None:
    first = looked(guarded("1.0.0", None, word("1.0.0")))
    assert pointed(first.status) == "1.0.0"
    assert first.status.channels is not None
    told = first.status.channels["stable"].approved
    assert (told and told.by, told and told.reason) == ("mia", "tried on Monday")
    waiting = guarded("1.1.0", first)
    status, state = plan(waiting, THERE)
    assert status.channels is not None
    assert pointed(status) == "1.0.0"
    assert state.main.reason == "WaitingForApproval"
    assert state.main.message == (
        "stable: ModelVersion digits-v1-1-0 waits for approval: modelwright approve digits stable --version 1.1.0"
        " --reason …; it stays at 1.0.0"
    )
    waits_for = status.channels["stable"].waits_for
    assert waits_for is not None
    assert waits_for.name == "digits-v1-1-0"
    assert [one.reason for one in events(first.status, status)] == ["WaitingForApproval"]
    waited = waiting.model_copy(update={"status": status})
    assert pointed(plan(guarded("1.1.0", waited, word("1.1.0", "sha256:another")), THERE)[0]) == "1.0.0"
    status, state = plan(guarded("1.1.0", waited, word("1.1.0")), THERE)
    assert (pointed(status), state.main.status) == ("1.1.0", "True")
    assert [one.note for one in events(waited.status, status)] == [
        "stable=1.1.0", "stable: 1.1.0 by mia: tried on Monday",
    ]  # fmt: skip


def test_it_does_not_begin_without_approval_either_and_other_channels_do() -> None:
    one = guarded("1.0.0")
    channels = {**(one.spec.channels or {}), "edge": model(stable("1.1.0")).spec.channels["stable"]}  # type: ignore[index]
    one = one.model_copy(update={"spec": one.spec.model_copy(update={"channels": channels})})
    status, state = plan(one, THERE)
    assert (pointed(status), pointed(status, "edge")) == (None, "1.1.0")
    assert state.main.reason == "WaitingForApproval"
    assert pointed(plan(guarded("1.0.0", by="Automatic"), THERE)[0]) == "1.0.0"


def test_it_goes_back_to_what_it_held_without_another_word() -> None:
    first = looked(guarded("1.0.0", None, word("1.0.0")))
    second = looked(guarded("1.1.0", first, word("1.1.0")))
    assert pointed(second.status) == "1.1.0"
    assert pointed(looked(guarded("1.0.0", second)).status) == "1.0.0", "a rollback in Git"
    assert pointed(plan(second, [version("1.0.0"), retracted("1.1.0")])[0]) == "1.0.0", "a version that is taken back"
    other = [version("1.1.0"), dataclasses.replace(version("1.0.0"), digest="sha256:other")]
    assert pointed(looked(guarded("1.0.0", second), other).status) == "1.1.0", "another artifact of that name"


@given(st.lists(st.tuples(st.sampled_from("0123"), st.sampled_from(["", *"0123"])), max_size=12))
def test_it_never_points_at_what_nobody_approved(story: list[tuple[str, str]]) -> None:
    there = [version(f"1.{minor}.0") for minor in "0123"]
    one, said = guarded("1.0.0"), set[str]()
    for wanted, spoken in story:
        words = [word(f"1.{spoken}.0")] if spoken else []
        said |= {f"1.{spoken}.0"} if spoken else set()
        one = looked(guarded(f"1.{wanted}.0", one, *words), there)
        assert pointed(one.status) in {None, *said}


@given(st.text(alphabet="abc \n", max_size=20))
def test_a_word_is_read_as_it_was_written(reason: str) -> None:
    written = Word("digits-v1-0-0", "sha256:0", "mia", reason.strip())
    assert Word.from_text(written.to_text()) == written
    assert Word.from_text("digits-v1-0-0\nsha256:0\nmia") is None


def published(**spec: object) -> ModelVersion:
    fixed = {"model": "digits", "version": "1.0.0", "source": {"trainingJobRef": {"name": "job"}}, **spec}
    status = {"artifact": {"uri": "s3://b/m", "digest": "sha256:0"}}
    return ModelVersion.model_validate({"metadata": {"name": "digits-v1-0-0"}, "spec": fixed, "status": status})


def test_an_approval_that_would_have_no_effect_is_refused() -> None:
    one, ready = guarded("1.0.0"), published()
    assert approve.word(one, "stable", ready, "mia", " tried ") == Word("digits-v1-0-0", "sha256:0", "mia", "tried")
    with pytest.raises(Refused, match="Model digits has no channel edge; it has stable"):
        approve.word(one, "edge", ready, "mia", "r")
    with pytest.raises(Refused, match="channel stable of Model digits waits for no approval"):
        approve.word(guarded("1.0.0", by="Automatic"), "stable", ready, "mia", "r")
    with pytest.raises(Refused, match="is retracted: wrong labels"):
        approve.word(one, "stable", published(retracted={"reason": "wrong labels"}), "mia", "r")
    unready = ready.model_copy(update={"status": ready.status.model_copy(update={"artifact": None})})
    with pytest.raises(Refused, match="there is no artifact to approve"):
        approve.word(one, "stable", unready, "mia", "r")
    with pytest.raises(Refused, match="say why"):
        approve.word(one, "stable", ready, "mia", " ")
