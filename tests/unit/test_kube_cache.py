"""The cache never goes back in time, whatever way and in whatever order it hears of things."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st
from modelwright.kube.cache import Cache, Entry
from modelwright.kube.resources import Key

A = Key("ns", "a")


def _entry(key: Key, uid: str, version: int, record: str = "", owner: str | None = None) -> Entry[str]:
    return Entry(key, uid, version, owner, record or f"{uid}@{version}")


class Told(list[tuple[Key, str | None, str | None]]):
    def __call__(self, key: Key, old: str | None, new: str | None) -> None:
        self.append((key, old, new))


def test_a_fold_wins_over_an_older_event_and_its_echo_is_not_told() -> None:
    told = Told()
    cache = Cache(told)
    cache.observe(_entry(A, "u", 1))
    cache.fold(_entry(A, "u", 5))
    cache.observe(_entry(A, "u", 3))
    cache.observe(_entry(A, "u", 5))
    assert cache.get(A) == "u@5"
    assert told == [(A, None, "u@1"), (A, "u@1", "u@5")]


def test_a_late_answer_does_not_bring_back_the_dead() -> None:
    cache = Cache(Told())
    cache.observe(_entry(A, "u", 2))
    cache.observe_deletion(A, "u", 3)
    cache.fold(_entry(A, "u", 2))
    assert cache.get(A) is None


def test_what_a_write_of_ours_ended_stays_gone_until_the_watch_knows() -> None:
    told = Told()
    cache = Cache(told)
    cache.observe(_entry(A, "u", 2))
    cache.fold_end("u")
    cache.observe(_entry(A, "u", 3))
    assert cache.get(A) is None
    cache.observe_deletion(A, "u", 4)
    cache.observe(_entry(A, "v", 5))
    assert told == [(A, None, "u@2"), (A, "u@2", None), (A, None, "v@5")]


def test_a_relist_tells_of_deletions_and_keeps_what_is_newer_than_it() -> None:
    told = Told()
    cache = Cache(told)
    for version, name in enumerate("abc", start=1):
        cache.observe(_entry(Key("ns", name), name, version))
    cache.fold(_entry(Key("ns", "d"), "d", 20))
    told.clear()
    cache.replace([_entry(A, "a", 1), _entry(Key("ns", "b"), "b", 8)], 10)
    assert told == [(Key("ns", "c"), "c@3", None), (Key("ns", "b"), "b@2", "b@8")]
    assert sorted(cache) == ["a@1", "b@8", "d@20"]


def test_another_object_of_the_name_is_an_end_and_a_beginning() -> None:
    told = Told()
    cache = Cache(told)
    cache.observe(_entry(A, "u", 1, owner="x"))
    cache.replace([_entry(A, "v", 5, owner="y")], 9)
    assert told[1:] == [(A, "u@1", None), (A, None, "v@5")]
    assert (cache.owned_by("x"), cache.owned_by("y")) == ([], ["v@5"])


def test_a_change_that_the_record_does_not_hold_wakes_nobody() -> None:
    told = Told()
    cache = Cache(told)
    cache.observe(_entry(A, "u", 1, "same"))
    cache.observe(_entry(A, "u", 2, "same"))
    assert told == [(A, None, "same")]


def test_indexes_follow_the_record() -> None:
    cache = Cache(Told(), {"letter": lambda record: record})
    cache.observe(_entry(A, "u", 1, "xy"))
    cache.observe(_entry(Key("ns", "b"), "w", 2, "y"))
    cache.observe(_entry(A, "u", 3, "x"))
    assert cache.by_index("letter", "x") == ["x"]
    assert cache.by_index("letter", "y") == ["y"]
    cache.observe_deletion(A, "u", 4)
    assert cache.by_index("letter", "x") == []


@given(st.data())
def test_any_history_heard_in_any_way_ends_as_the_server_has_it(data: st.DataObject) -> None:
    versions = itertools.count(1)
    server: dict[Key, Entry[str]] = {}
    events: list[tuple[str, Entry[str]]] = []
    answers: list[tuple[str, Entry[str]]] = []
    told = Told()
    cache = Cache(told)

    def change(key: Key) -> None:
        version, known = next(versions), server.get(key)
        if known is not None and data.draw(st.booleans(), label="delete"):
            del server[key]
            events.append(("end", _entry(key, known.uid, version)))
        else:
            server[key] = _entry(key, f"u{version}" if known is None else known.uid, version)
            events.append(("put", server[key]))
        if data.draw(st.booleans(), label="ours"):
            answers.append(events[-1])

    def hear() -> None:
        kind, entry = events.pop(0)
        if kind == "put":
            cache.observe(entry)
        else:
            cache.observe_deletion(entry.key, entry.uid, entry.version)

    def steps() -> Iterator[str]:
        for _ in range(data.draw(st.integers(1, 25))):
            yield data.draw(st.sampled_from(["change", "change", "hear", "answer", "relist"]))

    for step in steps():
        if step == "change":
            change(Key("ns", data.draw(st.sampled_from("ab"))))
        elif step == "hear" and events:
            hear()
        elif step == "answer" and answers:
            kind, entry = answers.pop(data.draw(st.integers(0, len(answers) - 1)))
            if kind == "put":
                cache.fold(entry)
            else:
                cache.fold_end(entry.uid)
        elif step == "relist":
            events.clear()
            cache.replace(list(server.values()), next(versions))
    while events:
        hear()
    assert {key: cache.get(key) for key in server} == {key: entry.record for key, entry in server.items()}
    assert len(cache) == len(server)
    # Of no object was an older state told after a newer one, and each was told to begin once.
    last: dict[str, int] = {}
    for _, old, new in told:
        uid, version = (new or old or "").split("@")
        assert int(version) >= last.get(uid, 0)
        assert old is not None or uid not in last
        last[uid] = int(version)
