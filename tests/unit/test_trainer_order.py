"""Which rows are trained on when, and which are for what: pure arithmetic."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "trainer_image"))

import itertools

from modelwright_trainer.order import Cursor, Plan, share
from modelwright_trainer.split import split

plans = st.builds(
    Plan,
    rows=st.integers(1, 60),
    batch=st.integers(1, 70),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)


@given(plans, st.lists(st.tuples(st.integers(1, 9), st.integers(0, 25)), max_size=8), st.integers(1, 9))
def test_resumes_with_any_world_sizes_neither_lose_nor_repeat_a_row(
    plan: Plan, attempts: list[tuple[int, int]], last_world_size: int
) -> None:
    """Each attempt has a world size and the steps that it gets to; the cursor is all that the next one is given."""
    cursor = Cursor()
    trained: Counter[tuple[int, int]] = Counter()
    steps = 0
    for world_size, most in [*attempts, (last_world_size, plan.steps)]:
        for _ in range(most):
            if plan.done(cursor):
                break
            begin, end = plan.batch_at(cursor)
            order = plan.order(cursor.epoch)
            for rank in range(world_size):
                first, last = share(begin, end, rank, world_size)
                trained.update((cursor.epoch, int(row)) for row in order[first:last])
            cursor = plan.after(cursor)
            steps += 1
    assert trained == Counter({(epoch, row): 1 for epoch in range(plan.epochs) for row in range(plan.rows)})
    assert steps == cursor.step == plan.steps


@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 12))
def test_shares_follow_each_other_and_differ_by_at_most_a_row(begin: int, length: int, world_size: int) -> None:
    shares = [share(begin, begin + length, rank, world_size) for rank in range(world_size)]
    assert shares[0][0] == begin
    assert shares[-1][1] == begin + length
    assert all(a[1] == b[0] for a, b in itertools.pairwise(shares))
    sizes = [last - first for first, last in shares]
    assert max(sizes) - min(sizes) <= 1


def test_the_order_is_a_function_of_seed_and_epoch_that_no_release_changes() -> None:
    plan = Plan(rows=8, batch=4, epochs=2, seed=7)
    assert plan.order(0).tolist() == Plan(8, 1, 9, 7).order(0).tolist()
    assert plan.order(0).tolist() != plan.order(1).tolist()
    assert plan.order(0).tolist() == [1, 7, 5, 6, 4, 3, 2, 0]


@given(st.integers(1, 300), st.integers(0, 2**32 - 1), st.lists(st.integers(0, 5), min_size=1, max_size=300))
def test_a_split_is_a_partition_near_its_fractions(rows: int, seed: int, classes: list[int]) -> None:
    fractions = {"train": 0.7, "validation": 0.2, "test": 0.1}
    labels = np.array((classes * rows)[:rows])
    for given_classes in (None, labels):
        parts = split(rows, fractions, seed, given_classes)
        together = np.concatenate(list(parts.values()))
        assert sorted(together.tolist()) == list(range(rows))
        slack = 1 if given_classes is None else len(set(classes))
        assert all(abs(len(parts[part]) - rows * fractions[part]) <= slack for part in parts)


def test_a_stratified_split_keeps_each_class_s_share() -> None:
    labels = np.repeat([0, 1, 2], [900, 90, 10])
    parts = split(1000, {"train": 0.8, "validation": 0.1, "test": 0.1}, 3, labels)
    assert [np.bincount(labels[parts[part]]).tolist() for part in parts] == [[720, 72, 8], [90, 9, 1], [90, 9, 1]]


def test_many_small_classes_do_not_starve_a_small_part() -> None:
    labels = np.repeat(np.arange(200), 4)
    parts = split(800, {"train": 0.8, "validation": 0.1, "test": 0.1}, 3, labels)
    assert abs(len(parts["test"]) - 80) <= 3
    assert abs(len(parts["validation"]) - 80) <= 3


@pytest.mark.parametrize("seed", [0, 7])
def test_the_same_seed_gives_the_same_split(seed: int) -> None:
    fractions = {"train": 0.8, "validation": 0.0, "test": 0.2}
    first, again = (split(50, fractions, seed, None) for _ in range(2))
    assert {part: rows.tolist() for part, rows in first.items()} == {
        part: rows.tolist() for part, rows in again.items()
    }
    assert len(first["validation"]) == 0
