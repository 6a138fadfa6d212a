"""What retention keeps, how versions that are not kept go, and what a collection takes from the store."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelwright import artifact
from modelwright.api.model import Model
from modelwright.api.model_retention import Retention, RetentionStatus
from modelwright.api.versions import model_version_name, precedence
from modelwright.artifact import Manifest
from modelwright.collection import CollectSummary, Entry, sweep
from modelwright.controllers.model.collect import CollectPodView, CollectView, collect_job, job_name
from modelwright.controllers.model.plan import plan
from modelwright.controllers.model.retention import kept
from modelwright.controllers.model.retire import Retire, plan_retirement
from modelwright.controllers.model.uses import ServiceUse
from modelwright.controllers.modelversion.observed import VersionView
from modelwright.kube.resources import Key
from modelwright.settings import Settings, StorageDefaults

from tests.unit.test_model_plan import model as plain_model
from tests.unit.test_registry_channels import service

NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
VARIANTS = ("", "int8")


def a_job(uid: str, retired: tuple[str, ...], ended: str, message: str) -> CollectView:
    return CollectView(
        name="j", uid=uid, model="digits", retired=retired, ended=ended, message=message, deleting=False
    )  # fmt: skip


def version(number: str, variant: str = "", **more: Any) -> VersionView:
    name = model_version_name("digits", number, variant or None)
    uri = f"s3://b/models/team/digits/versions/{number}{'--' + variant if variant else ''}/manifest.json"
    view = VersionView(
        Key("team", name), "digits", number, variant, "job", ready=True, digest=artifact.digest_of(name.encode()),
        uri=uri, deleting=False, uid=f"uid of {name}", made_by_operator=True,
    )  # fmt: skip
    return dataclasses.replace(view, **more)


def model(retention: dict[str, Any] | None, asked: dict[str, Any] | None = None, /, **status: Any) -> Model:
    one = plain_model(asked or {}, status)
    stated = Retention.model_validate(retention) if retention else None
    return one.model_copy(update={"spec": one.spec.model_copy(update={"retention": stated})})


def names(versions: list[VersionView]) -> set[str]:
    return {one.key.name for one in versions}


def keeps(one: Model, versions: list[VersionView], uses: tuple[ServiceUse, ...] = (), **more: Any) -> set[str]:
    assert one.spec.retention is not None
    return kept(one, one.spec.retention, plan(one, versions, uses)[0], versions, uses, **more)


THREE = [version("1.0.0"), version("1.1.0"), version("1.2.0")]


def test_the_newest_of_the_originals_and_of_each_variant_are_kept() -> None:
    there = [*THREE, version("1.0.0", "int8"), version("1.1.0", "int8", made_by_operator=True)]
    assert keeps(model({"keepLast": 1}), there) == {"digits-v1-2-0", "digits-v1-1-0--int8"}
    assert keeps(model({"keepLast": 2}), there) == names(there) - {"digits-v1-0-0"}


def test_a_version_that_was_taken_back_does_not_count_as_one_of_the_newest() -> None:
    there = [*THREE[:2], version("1.2.0", retracted="wrong")]
    assert keeps(model({"keepLast": 1}), there) == {"digits-v1-1-0", "digits-v1-2-0"}


@pytest.mark.parametrize(
    ("why", "one", "uses", "more"),
    [
        ("pinned", model({"keepLast": 1, "pinned": ["1.0.0"]}), (), {}),
        ("named by a channel", model({"keepLast": 1}, {"old": {"version": "1.0.0"}}), (), {}),
        (
            "once in a channel",
            model(
                {"keepLast": 1},
                {"old": {"version": "1.2.0"}},
                channels={"old": {"history": [{"name": "digits-v1-0-0", "version": "1.0.0"}]}},
            ),
            (),
            {},
        ),
        ("served", model({"keepLast": 1}), (service(active="digits-v1-0-0"),), {}),
        ("about to be served", model({"keepLast": 1}), (service(target="digits-v1-0-0"),), {}),
        ("what a service may go back to", model({"keepLast": 1}), (service(previous="digits-v1-0-0"),), {}),
        ("named by a service", model({"keepLast": 1}), (service(named="digits-v1-0-0"),), {}),
        ("a training begins with it", model({"keepLast": 1}), (), {"read": {"digits-v1-0-0"}}),
    ],
)
def test_what_is_used_or_may_be_is_kept(
    why: str, one: Model, uses: tuple[ServiceUse, ...], more: dict[str, Any]
) -> None:
    assert keeps(one, THREE, uses, **more) == {"digits-v1-0-0", "digits-v1-2-0"}, why


def test_what_a_kept_version_was_made_of_is_kept_and_what_is_nobody_s_but_a_person_s_or_not_ready() -> None:
    small = version("1.0.0", "int8", parents=("digits-v1-0-0",), compared=("digits-v0-9-0",), made_by_operator=False)
    there = [version("0.9.0"), version("0.8.0", ready=False), version("0.7.0", made_by_operator=False), *THREE, small]
    assert keeps(model({"keepLast": 1}), there) == names(there) - {"digits-v1-1-0"}


number = st.integers(0, 6).map(lambda minor: f"1.{minor}.0")
views = st.dictionaries(
    st.tuples(number, st.sampled_from(VARIANTS)),
    st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.lists(number, max_size=2)),
    max_size=12,
)


@given(
    views, st.integers(1, 4), st.sets(number, max_size=2), number,
    st.lists(number, max_size=3), st.lists(number, max_size=3),
)  # fmt: skip
def test_nothing_that_is_kept_is_ever_deleted_and_all_else_is(
    made: dict[tuple[str, str], tuple[bool, bool, bool, bool, list[str]]],
    last: int,
    pinned: set[str],
    channel: str,
    history: list[str],
    used: list[str],
) -> None:
    def name(of: str, variant: str = "") -> str:
        return model_version_name("digits", of, variant or None)

    there = [
        version(
            of, variant, ready=ready, made_by_operator=ours, deleting=going, retracted="r" if back else "",
            parents=tuple(name(one) for one in parents),
        )
        for (of, variant), (ready, ours, going, back, parents) in made.items()
    ]  # fmt: skip
    held = [{"name": name(one), "version": one} for one in dict.fromkeys(history)]
    uses = tuple(service(f"s{index}", active=name(one)) for index, one in enumerate(used))
    stated = {"keepLast": last, "pinned": sorted(pinned)}
    one = model(stated, {"c": {"version": channel}}, channels={"c": {"history": held}})
    # Looked at again and again, until nothing changes: with what was deleted gone, and each Job done at once.
    deleted: set[str] = set()
    job: CollectView | None = None
    first = {view.key.name: view for view in there}
    for _ in range(12):
        status, _state = plan(one, there, uses)
        said = CollectPodView("digits", CollectSummary(freed_bytes=1).to_message())
        step = plan_retirement(one, status, there, uses, (), job, [said] if job else [], NOW, has_image=True)
        one = one.model_copy(update={"status": status.model_copy(update={"retention": step.status})})
        doomed = {each.uid for each in step.delete}
        assert doomed <= {view.uid for view in there if not view.deleting}
        deleted |= {view.key.name for view in there if view.uid in doomed}
        there = [view for view in there if view.uid not in doomed]
        digests = tuple(each.digest for each in step.gone) if step.folders else ()
        job = a_job(f"j{_}", digests, "Complete", "") if step.folders else None
    used_names = {name(one) for one in used} | {name(channel)} | {each["name"] for each in held}
    safe = {
        view.key.name for view in first.values()
        if view.key.name in used_names or view.version in pinned or not view.ready or not view.made_by_operator
    }  # fmt: skip
    for variant in VARIANTS:
        good = [view for view in first.values() if view.usable and view.variant == variant]
        good.sort(key=lambda view: precedence(view.version))
        safe |= {view.key.name for view in good[-last:]}
    waiting = list(safe)
    while waiting:
        for parent in first[waiting.pop()].parents:
            if parent in first and parent not in safe:
                safe.add(parent)
                waiting.append(parent)
    assert not deleted & safe
    final = one.status.retention
    assert final is not None
    assert {view.key.name for view in there} == set(first) - deleted
    left = keeps(one, there, uses) | {view.key.name for view in there if view.deleting}
    assert {view.key.name for view in there} == left, "all else is gone"


# How they go


def look(
    one: Model, versions: list[VersionView], job: CollectView | None = None, said: str = "", **more: Any
) -> Retire:
    options = {"now": NOW, "has_image": True, **more}
    status, _ = plan(one, versions)
    return plan_retirement(one, status, versions, (), (), job, [CollectPodView("digits", said)], **options)


def after(one: Model, made: Retire) -> Model:
    return one.model_copy(update={"status": one.status.model_copy(update={"retention": made.status})})


def test_a_version_is_written_down_then_deleted_then_collected_and_each_is_said_once() -> None:
    one = model({"keepLast": 2}, retention={"collectedAt": "2026-01-01T12:00:00Z", "retired": 3, "freedBytes": 7})
    written = look(one, THREE)
    assert (written.delete, written.folders) == ((), ()), "first it is written down"
    assert written.status is not None
    assert [each.name for each in written.status.retiring or ()] == ["digits-v1-0-0"]
    one = after(one, written)
    deleted = look(one, THREE)
    assert [each.uid for each in deleted.delete] == [THREE[0].uid]
    assert [event.reason for event in deleted.events] == ["VersionsRetired"]
    collected = look(one, THREE[1:])
    assert collected.folders == ("s3://b/models/team/digits",)
    assert [each.digest for each in collected.gone] == [THREE[0].digest]
    assert collected.status == one.status.retention, "as long as it is under way"
    job = a_job("7", (THREE[0].digest,), "", "")
    assert (look(one, THREE[1:], job).end, look(one, THREE[1:], job).folders) == (None, ())
    ended = dataclasses.replace(job, ended="Complete")
    summary = CollectSummary(manifests=1, blobs=4, freed_bytes=100, left_blobs=8, left_bytes=900)
    done = look(one, THREE[1:], ended, summary.to_message())
    assert done.end == ended
    assert done.status == RetentionStatus(
        retired=4, collected_at=NOW, collected_by="7", freed_bytes=107, last_freed_bytes=100, blobs=8, bytes=900
    )
    assert [event.note for event in done.events] == ["1 versions, 4 files, 100 bytes removed from the store"]
    again = look(after(one, done), THREE[1:], ended, summary.to_message())
    assert (again.status, again.events, again.end) == (done.status, (), ended), "it is counted once"
    rest = look(after(one, done), THREE[1:])
    assert (rest.folders, rest.look_again) == ((), 24 * 3600.0)


def test_the_store_is_looked_through_as_often_as_is_asked_and_work_is_left_while_a_compression_is_under_way() -> None:
    one = model({"keepLast": 5, "every": "2h"}, retention={"collectedAt": "2026-01-01T22:30:00Z"})
    assert look(one, THREE).look_again == 1800.0
    due = look(one, THREE, now=NOW + datetime.timedelta(hours=1))
    assert (due.folders, due.gone, due.work) == (("s3://b/models/team/digits",), (), True)
    at_work = version("1.2.0", "int8", ready=False, training_job="", uri="")
    assert not look(one, [*THREE, at_work], now=NOW + datetime.timedelta(hours=1)).work


def test_a_version_that_is_kept_after_all_or_is_another_one_by_now_loses_nothing() -> None:
    one = model({"keepLast": 2}, retention={"collectedAt": "2026-01-02T00:00:00Z"})
    one = after(one, look(one, THREE))
    pinned = model({"keepLast": 2, "pinned": ["1.0.0"]}).model_copy(update={"status": one.status})
    for made in (
        look(pinned, THREE),
        look(one, [dataclasses.replace(THREE[0], uid="imported again", made_by_operator=False), *THREE[1:]]),
        look(model(None).model_copy(update={"status": one.status}), THREE),
    ):
        assert made.status is not None
        assert (made.delete, made.folders, made.status.retiring) == ((), (), None)


def test_a_collection_that_fails_says_why_and_is_tried_again_in_time() -> None:
    one = model({"keepLast": 2}, retention={"collectedAt": "2026-01-01T12:00:00Z"})
    one = after(one, look(one, THREE))
    failed = a_job("7", (), "Failed", "backoff limit")
    made = look(one, THREE[1:], failed, CollectSummary(failure="s3://b: no access").to_message())
    assert made.status is not None
    assert (made.status.message, len(made.status.retiring or ())) == ("s3://b: no access", 1)
    assert made.events[0].warning
    assert look(after(one, made), THREE[1:]).look_again == 24 * 3600.0
    later = look(after(one, made), THREE[1:], now=NOW + datetime.timedelta(days=1))
    assert len(later.gone) == 1


def test_what_lies_in_another_namespace_s_folder_or_on_a_volume_is_not_looked_through() -> None:
    foreign = [version("1.0.0", uri="s3://b/models/other/digits/versions/1.0.0/manifest.json")]
    volume = [version("1.0.0", uri="file:///v/models/team/digits/versions/1.0.0/manifest.json")]
    assert look(model({"keepLast": 1}), foreign).folders == look(model({"keepLast": 1}), volume).folders == ()


def test_the_job_holds_no_credentials_of_kubernetes_and_is_made_once_for_one_state_of_things() -> None:
    one = model({"keepLast": 1, "storage": {"secretRef": {"name": "mine"}}}, retention={"collectedAt": NOW})
    assert one.spec.retention is not None
    settings = Settings("ns", "trainer", server_image="server", storage=StorageDefaults(endpoint="http://s3"))
    gone = look(one, THREE).status
    assert gone is not None
    made = collect_job(one, one.spec.retention, ["s3://b/m"], gone.retiring or (), settings, {"uid": "u"}, work=True)
    pod = made["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "mine"}}]
    assert len(made["metadata"]["name"]) <= 63
    assert made["metadata"]["name"] == job_name(one, NOW, reversed(gone.retiring or ()))
    assert made["metadata"]["name"] != job_name(one, NOW, ())


# What goes from the store

DAY = datetime.timedelta(days=1)


def manifest(*blobs: str) -> Manifest:
    files = [artifact.File(path=blob, digest=artifact.digest_of(blob.encode()), size=1) for blob in blobs]
    return Manifest.model_construct(files=tuple(files))


def blob(name: str, age: datetime.timedelta = 2 * DAY) -> Entry:
    return Entry(f"blobs/{artifact.digest_of(name.encode()).removeprefix('sha256:')}", 10, NOW - age)


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.sets(st.sampled_from("uvwxyz")), max_size=6),
    st.dictionaries(st.sampled_from("uvwxyz"), st.integers(0, 48)),
    st.dictionaries(st.sampled_from("abcdefg"), st.booleans()),
)
def test_no_blob_that_a_manifest_refers_to_goes_nor_one_that_is_young(
    versions: dict[str, set[str]], blobs: dict[str, int], retired: dict[str, bool]
) -> None:
    paths = {name: f"versions/{name}/manifest.json" for name in "abcdefg"}
    entries = [Entry(paths[name], 1, NOW - 2 * DAY) for name in versions]
    entries += [blob(name, datetime.timedelta(hours=age)) for name, age in blobs.items()]
    found = sweep(
        entries,
        {paths[name]: (f"digest of {name}", manifest(*held)) for name, held in versions.items()},
        {paths[name]: f"digest of {name if right else 'another'}" for name, right in retired.items()},
        now=NOW,
        min_age=DAY,
        work=True,
    )
    gone = {name for name in versions if retired.get(name)}
    assert {one.path for one in found.manifests} == {paths[name] for name in gone}
    referred = {held for name, blobs_of in versions.items() if name not in gone for held in blobs_of}
    doomed = {name for name, age in blobs.items() if age > 24 and name not in referred}
    assert {one.path for one in found.blobs} == {blob(name).path for name in doomed}
    assert len(found.left) == len(blobs) - len(doomed)


def test_a_folder_of_work_goes_when_nothing_was_written_there_lately_and_nothing_else_is_touched() -> None:
    entries = [
        Entry("work/old/state.json", 1, NOW - 2 * DAY),
        Entry("work/old/model", 1, NOW - 3 * DAY),
        Entry("work/new/model", 1, NOW - 3 * DAY),
        Entry("work/new/state.json", 1, NOW),
        Entry("notes/a.txt", 1, NOW - 3 * DAY),
        Entry("versions/1.0.0/notes.txt", 1, NOW - 3 * DAY),
    ]
    found = sweep(entries, {}, {}, now=NOW, min_age=DAY, work=True)
    assert {one.path for one in found.work} == {"work/old/state.json", "work/old/model"}
    assert (found.manifests, found.blobs) == ((), ())
    assert sweep(entries, {}, {}, now=NOW, min_age=DAY, work=False).work == ()
