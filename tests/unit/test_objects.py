"""What the operator keeps of its own kinds' objects."""

from __future__ import annotations

from typing import Any

from modelwright.controllers.shell import Objects
from modelwright.kube.client import Client
from modelwright.kube.events import EventRecorder
from modelwright.kube.resources import MODELS, Key, Object


class _Nothing(Client, EventRecorder):
    """Stands where a client is not asked for anything."""

    def __init__(self) -> None:
        pass


KEY = Key("team", "digits")


def objects() -> Objects:
    return Objects(MODELS, _Nothing(), _Nothing())


def told(version: int, *, uid: str = "1", **more: Any) -> Object:
    metadata = {"namespace": "team", "name": "digits", "uid": uid, "resourceVersion": str(version), **more}
    return {"metadata": metadata, "spec": {"channels": {"stable": {"version": f"1.{version}.0"}}}}


def test_an_object_is_given_back_as_it_was_told_but_for_who_manages_its_fields() -> None:
    known = objects()
    known.observe(told(9, labels={"team": "é"}, managedFields=[{"manager": "kubectl"}]))
    assert known.get(KEY) == told(9, labels={"team": "é"})


def test_an_older_version_is_dropped_also_where_it_has_fewer_digits_or_more() -> None:
    known = objects()
    known.observe(told(10))
    known.observe(told(9))
    assert known.get(KEY) == told(10)
    known.observe(told(11))
    assert known.get(KEY) == told(11)


def test_another_object_of_the_name_replaces_the_first_whatever_its_version() -> None:
    known = objects()
    known.observe(told(10))
    known.observe(told(9, uid="2"))
    assert known.get(KEY) == told(9, uid="2")


def test_what_a_caller_does_to_its_copy_is_nobody_else_s() -> None:
    known = objects()
    known.observe(told(10))
    copy = known.get(KEY)
    assert copy is not None
    copy["spec"].clear()
    assert known.get(KEY) == told(10)


def test_a_forgotten_object_is_unknown() -> None:
    known = objects()
    known.observe(told(10))
    known.forget(KEY)
    assert known.get(KEY) is None
