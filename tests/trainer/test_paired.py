"""Two models on the same rows, and gates that bound how much worse one may be than the other."""

from __future__ import annotations

import numpy as np
import pytest
from modelwright.api.evaluation import MEASURED
from modelwright.contract import Outcome
from modelwright.derivation import DerivedGate
from modelwright_trainer import metrics, paired
from modelwright_trainer.failures import TrainingFailed
from modelwright_trainer.metrics import Measured


def guesses(right: float, rows: int = 200, seed: int = 0) -> Measured:
    """Of two classes: so large a share is right, the same rows first whatever the share."""
    labels = np.arange(rows) % 2
    hard = np.random.default_rng(seed).permutation(rows)
    wrong = hard >= round(right * rows)
    sure = np.where(wrong, 0.2, 0.9)
    probabilities = np.stack([np.where(labels == 0, sure, 1 - sure), np.where(labels == 1, sure, 1 - sure)], axis=1)
    return metrics.classification(probabilities, labels, ("no", "yes"))


def gate(metric: str, **bounds: float) -> DerivedGate:
    return DerivedGate(metric=metric, **bounds)  # type: ignore[arg-type]


def test_which_way_is_worse_is_the_metric_s_own() -> None:
    better, worse = guesses(0.9), guesses(0.8)
    assert paired.difference("accuracy", worse, better).worse == pytest.approx(0.1)
    assert paired.difference("log_loss", worse, better).worse > 0
    assert paired.difference("log_loss", better, worse).worse < 0


def test_each_metric_s_direction_is_known() -> None:
    listed = {name for names in MEASURED.values() for name in names}
    assert listed >= paired.LOWER_IS_BETTER


def test_rows_that_are_hard_for_both_do_not_widen_the_interval() -> None:
    ours, theirs = guesses(0.85), guesses(0.9)
    found = paired.difference("accuracy", ours, theirs)
    apart = paired.difference("accuracy", guesses(0.85, seed=1), theirs)
    assert found.value == pytest.approx(apart.value) == pytest.approx(-0.05)
    assert found.interval is not None
    assert apart.interval is not None
    assert found.interval[0] < -0.05 < found.interval[1] < 0
    assert found.interval[1] - found.interval[0] < apart.interval[1] - apart.interval[0]


def test_the_interval_holds_the_true_difference_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        targets = generator.normal(size=150)
        one, two = (metrics.regression(targets + generator.normal(scale=s, size=150), targets) for s in (1.0, 1.2))
        low, high = paired.difference("mse", two, one).interval or (0, 0)
        covered += low <= 1.2**2 - 1 <= high
    assert 50 <= covered <= 60


def test_a_gate_says_figure_reference_interval_and_threshold() -> None:
    best = paired.Reference("digits-v1-0-0", guesses(0.9))
    with pytest.raises(TrainingFailed) as caught:
        paired.check_gates([gate("accuracy", max_regression=0.01)], guesses(0.85), lambda _: best)
    assert caught.value.outcome is Outcome.GATE_FAILED
    assert str(caught.value).startswith(
        "not published: accuracy 0.85 is 0.05 worse than the 0.9 of digits-v1-0-0"
        " (95 % interval of the difference -0.08"
    )
    assert str(caught.value).endswith("paired bootstrap), above maxRegression 0.01; measured on 200 test rows")


def test_a_gate_that_passes_says_what_it_looked_at() -> None:
    best = paired.Reference("digits-v1-0-0", guesses(0.9))
    gates = [gate("accuracy", max_regression=0.05), gate("log_loss", max=3), gate("f1_macro", min=0.5)]
    (seen,) = paired.check_gates(gates, guesses(0.88), lambda _: best)
    assert (seen.metric, seen.reference) == ("accuracy", 0.9)


def test_a_regression_of_just_the_bound_passes() -> None:
    best = paired.Reference("best", guesses(0.9))
    assert paired.check_gates([gate("accuracy", max_regression=0.01)], guesses(0.89), lambda _: best)


def test_all_gates_that_fail_are_named() -> None:
    best = paired.Reference("best", guesses(0.9))
    gates = [gate("accuracy", min=0.95), gate("log_loss", max_regression=0.0), gate("mse", max=1)]
    with pytest.raises(TrainingFailed, match=r"accuracy 0.85 is below min 0.95 \(95 % interval 0.795.*log_loss .* worse"
                       r" than the .* of best.*gate on mse: there is no such metric"):  # fmt: skip
        paired.check_gates(gates, guesses(0.85), lambda _: best, "validation")


def test_models_on_other_rows_are_not_compared() -> None:
    with pytest.raises(ValueError, match="200 rows are compared with 100: measure both on the same ones"):
        paired.difference("accuracy", guesses(0.9), guesses(0.9, rows=100))
