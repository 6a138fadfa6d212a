"""The work queue's promise, in jumping time."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from modelwright.kube.backoff import Backoff
from modelwright.kube.errors import Conflict, TooManyRequests
from modelwright.kube.metrics import Metrics
from modelwright.kube.queue import WorkQueue
from prometheus_client import CollectorRegistry

from tests import clock


async def _during(queue: WorkQueue[str], seconds: float) -> None:
    running = asyncio.create_task(queue.run())
    await asyncio.sleep(seconds)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


def _passes(
    reconcile: Callable[[str, int], Awaitable[float | None]], *, seconds: float, keys: str = "a", workers: int = 2
) -> list[tuple[float, str]]:
    """When passes over which keys began; `reconcile` is told how many of the key there were before."""
    seen: list[tuple[float, str]] = []

    async def one(key: str) -> float | None:
        before = sum(known == key for _, known in seen)
        seen.append((asyncio.get_running_loop().time(), key))
        return await reconcile(key, before)

    async def story() -> None:
        queue = WorkQueue(one, workers=workers, backoff=Backoff(1.0, 60.0), deadline=30.0)
        for key in keys:
            queue.add(key)
        await _during(queue, seconds)

    clock.run(story())
    return seen


def test_a_key_added_often_is_passed_once() -> None:
    async def nothing(key: str, before: int) -> None:
        return None

    assert _passes(nothing, seconds=100, keys="aaabab") == [(0.0, "a"), (0.0, "b")]


def test_the_next_look_comes_when_the_pass_asked_for_it() -> None:
    async def twice(key: str, before: int) -> float | None:
        return 7.0 if before == 0 else None

    assert _passes(twice, seconds=100) == [(0.0, "a"), (7.0, "a")]


def test_a_failing_key_backs_off_with_jitter_and_holds_up_no_other() -> None:
    async def fail_a(key: str, before: int) -> None:
        if key == "a":
            raise ValueError("still broken")

    seen = _passes(fail_a, seconds=1000, keys="ab", workers=1)
    assert (0.0, "b") in seen
    times = [at for at, key in seen if key == "a"]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    for number, gap in enumerate(gaps):
        assert min(60.0, 2.0**number) / 2 <= gap <= min(60.0, 2.0**number)


def test_success_forgets_the_failures() -> None:
    async def every_third(key: str, before: int) -> float | None:
        if before % 3 != 2:
            raise Conflict("changed since")
        return 100.0

    times = [at for at, _ in _passes(every_third, seconds=1000)]
    assert times[4] - times[3] <= 1.0


def test_retry_after_is_honoured() -> None:
    async def asked_to_wait(key: str, before: int) -> None:
        if before == 0:
            raise TooManyRequests("later", retry_after=42.0)

    assert [at for at, _ in _passes(asked_to_wait, seconds=100)] == [0.0, 42.0]


def test_a_pass_that_hangs_is_ended_at_its_deadline() -> None:
    async def hang_once(key: str, before: int) -> None:
        if before == 0:
            await asyncio.Event().wait()

    times = [at for at, _ in _passes(hang_once, seconds=100)]
    assert len(times) == 2
    assert 30.5 <= times[1] <= 31.0


def test_an_add_during_the_pass_brings_another_after_it() -> None:
    async def story() -> list[float]:
        began: list[float] = []

        async def slow(key: str) -> None:
            began.append(asyncio.get_running_loop().time())
            await asyncio.sleep(5)

        queue = WorkQueue(slow, workers=4)
        queue.add("a")
        asyncio.get_running_loop().call_later(1, queue.add, "a")
        await _during(queue, 20)
        return began

    assert clock.run(story()) == [0.0, 5.0]


@pytest.mark.parametrize("delays", [(3.0, 50.0), (50.0, 3.0)])
def test_of_several_delays_the_shortest_counts_and_fulfils_the_others(delays: tuple[float, ...]) -> None:
    async def story() -> list[float]:
        began: list[float] = []

        async def note(key: str) -> None:
            began.append(asyncio.get_running_loop().time())

        queue = WorkQueue(note)
        for delay in delays:
            queue.add("a", after=delay)
        await _during(queue, 100)
        return began

    assert clock.run(story()) == [3.0]


def test_stop_lets_the_pass_in_hand_end_and_begins_no_other() -> None:
    async def story() -> tuple[list[str], float]:
        ended: list[str] = []

        async def slow(key: str) -> None:
            await asyncio.sleep(3)
            ended.append(key)

        queue = WorkQueue(slow, workers=1)
        for key in "ab":
            queue.add(key)
        queue.add("c", after=4)
        running = asyncio.create_task(queue.run())
        await asyncio.sleep(1)
        queue.add("a")
        await queue.stop(grace=10)
        at = asyncio.get_running_loop().time()
        queue.add("d")
        await asyncio.sleep(50)
        running.cancel()
        return ended, at

    assert clock.run(story()) == (["a"], 3.0)


def test_what_it_does_is_measured() -> None:
    registry = CollectorRegistry()

    async def story() -> None:
        async def conflict_once(key: str) -> None:
            await asyncio.sleep(2)
            if registry.get_sample_value("modelwright_reconciles_total", {"queue": "q", "result": "conflict"}) is None:
                raise Conflict("changed since")

        queue = WorkQueue(conflict_once, name="q", workers=1, metrics=Metrics(registry))
        queue.add("a")
        queue.add("b")
        await _during(queue, 20)

    clock.run(story())
    for name, value in {
        "queue_depth": 0, "queue_retries_total": 1, "queue_latency_seconds_count": 3,
        "reconcile_duration_seconds_sum": 6, "busy_workers": 0,
    }.items():  # fmt: skip
        assert registry.get_sample_value(f"modelwright_{name}", {"queue": "q"}) == pytest.approx(value), name
    assert registry.get_sample_value("modelwright_reconciles_total", {"queue": "q", "result": "success"}) == 2


class AnyUse(RuleBasedStateMachine):
    """Whatever is added, in whatever order, with passes of any length that fail or not: the promise holds."""

    keys = st.sampled_from("abcde")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=clock.JumpingLoop)
        self.loop = self.runner.get_loop()
        # Until when each add wants a pass to begin, by its key, of the adds that no pass has followed yet.
        self.wanted: dict[str, list[float]] = collections.defaultdict(list)
        self.busy: collections.Counter[str] = collections.Counter()
        self.most_at_once = self.most_on_one_key = 0
        self.lasts: dict[str, float] = {}
        self.fails: set[str] = set()

        async def start() -> asyncio.Task[None]:
            self.queue = WorkQueue(self.reconcile, workers=3, backoff=Backoff(0.5, 8.0), deadline=None)
            return asyncio.create_task(self.queue.run())

        self.running = self.runner.run(start())

    async def reconcile(self, key: str) -> None:
        self.wanted.pop(key, None)
        self.busy[key] += 1
        self.most_at_once = max(self.most_at_once, sum(self.busy.values()))
        self.most_on_one_key = max(self.most_on_one_key, self.busy[key])
        try:
            await asyncio.sleep(self.lasts.get(key, 0.0))
            if key in self.fails:
                raise ValueError("on order")
        finally:
            self.busy[key] -= 1

    def do(self, act: Callable[[], None]) -> None:
        async def within() -> None:
            act()

        self.runner.run(within())

    @rule(key=keys, after=st.sampled_from([0.0, 0.0, 0.1, 1.0, 5.0]))
    def add(self, key: str, after: float) -> None:
        self.wanted[key].append(self.loop.time() + after)
        self.do(lambda: self.queue.add(key, after=after))

    @rule(key=keys, seconds=st.sampled_from([0.0, 0.3, 2.0]))
    def passes_last(self, key: str, seconds: float) -> None:
        self.lasts[key] = seconds

    @rule(key=keys)
    def begin_to_fail(self, key: str) -> None:
        self.fails.add(key)

    @precondition(lambda self: self.fails)
    @rule()
    def end_of_failures(self) -> None:
        self.fails.clear()

    @rule(seconds=st.sampled_from([0.0, 0.2, 1.0, 4.0]))
    def time_passes(self, seconds: float) -> None:
        self.runner.run(asyncio.sleep(seconds))

    @invariant()
    def the_queue_works(self) -> None:
        assert not self.running.done()
        assert self.most_at_once <= 3
        assert self.most_on_one_key <= 1

    @invariant()
    def no_key_is_late(self) -> None:
        # Each pass before it in line lasts 2 s at most, and there are five keys for three workers.
        for key, times in self.wanted.items():
            assert self.loop.time() <= min(times) + 6.0, f"{key} is late"

    def teardown(self) -> None:
        self.fails.clear()
        self.runner.run(asyncio.sleep(60))
        assert not self.wanted, "keys were lost"
        assert self.queue.idle
        self.running.cancel()
        self.runner.close()


AnyUse.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyUse = AnyUse.TestCase
