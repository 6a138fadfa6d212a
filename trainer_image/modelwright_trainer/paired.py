"""Two models on the same rows: which is better, how sure that is, and gates that bound how much worse one may be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from modelwright.contract import Outcome
from modelwright.derivation import DerivedGate

from modelwright_trainer.failures import TrainingFailed
from modelwright_trainer.metrics import Measured, bootstrap

LOWER_IS_BETTER = frozenset(
    {"log_loss", "calibration_error", "mae", "mse", "rmse", "perplexity", "reconstruction_error"}
)
"""Of all other metrics more is better."""
# 0.9 − 0.89 is more than 0.01 in binary.
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Reference:
    """What a model is compared with. `measured` is on the same rows in the same order."""

    name: str
    measured: Measured


@dataclasses.dataclass(frozen=True)
class Difference:
    """`figure` of a model and `reference` of another, of one metric. `interval` are bounds of figure − reference
    (95 %); None where nothing can be said."""

    metric: str
    figure: float
    reference: float
    rows: int
    interval: tuple[float, float] | None

    @property
    def value(self) -> float:
        return self.figure - self.reference

    @property
    def worse(self) -> float:
        """By how much the model is worse; negative where it is better."""
        return self.value if self.metric in LOWER_IS_BETTER else -self.value

    def to_dict(self) -> dict[str, Any]:
        interval = {"interval": list(self.interval)} if self.interval else {}
        return {"figure": self.figure, "reference": self.reference, "difference": self.value, **interval}


def difference(metric: str, ours: Measured, theirs: Measured) -> Difference:
    """Of `ours` against `theirs`, with the paired bootstrap's percentile interval (Efron and Tibshirani 1993): both are
    computed anew from the same resampled rows, so that what makes a row hard for both cancels. The seed is fixed; of
    more rows than `metrics.SMALL` there is no interval. Raises ValueError where the rows are not the same in number, or
    one of them has no such metric."""
    if ours.rows != theirs.rows:
        raise ValueError(f"{ours.rows} rows are compared with {theirs.rows}: measure both on the same ones")
    for measured in (ours, theirs):
        if metric not in measured.figures:
            raise ValueError(f"there is no {metric}; the metrics are {', '.join(sorted(measured.figures))}")
    interval = bootstrap(ours.rows, lambda chosen: ours.again(metric, chosen) - theirs.again(metric, chosen))
    return Difference(metric, ours.figures[metric], theirs.figures[metric], ours.rows, interval)


def differences(ours: Measured, theirs: Measured) -> dict[str, Difference]:
    """Of every metric that both have, by name."""
    return {name: difference(name, ours, theirs) for name in ours.figures if name in theirs.figures}


def check_gates(
    gates: Sequence[DerivedGate], ours: Measured, against: Callable[[DerivedGate], Reference], split: str = "test"
) -> list[Difference]:
    """The differences that gates with maxRegression looked at, where all gates pass. `against` gives what a gate
    compares with, and is called for those alone; `split` is the name of the rows' part. Raises TrainingFailed
    (GateFailed) naming each gate that does not pass, its figure and its threshold, and how sure that is."""
    breaches, seen = [], []
    for gate in gates:
        breach = gate.breach(ours.figures)
        if breach:
            between = ours.interval(gate.metric)
            sure = f" (95 % interval {between[0]:.4g} to {between[1]:.4g}, bootstrap)" if between else ""
            breaches.append(f"{breach}{sure}")
        if gate.max_regression is None or gate.metric not in ours.figures:
            continue
        reference = against(gate)
        if gate.metric not in reference.measured.figures:
            breaches.append(f"gate on {gate.metric}: {reference.name} has no such metric to compare with")
            continue
        found = difference(gate.metric, ours, reference.measured)
        seen.append(found)
        if not found.worse <= gate.max_regression + _ROUNDING:
            breaches.append(_told(found, reference.name, gate.max_regression))
    if breaches:
        raise TrainingFailed(
            Outcome.GATE_FAILED, f"not published: {'; '.join(breaches)}; measured on {ours.rows} {split} rows"
        )
    return seen


def _told(found: Difference, name: str, bound: float) -> str:
    sure = ""
    if found.interval:
        low, high = found.interval
        sure = f" (95 % interval of the difference {low:+.4g} to {high:+.4g}, paired bootstrap)"
    return (
        f"{found.metric} {found.figure:.6g} is {found.worse:.4g} worse than the {found.reference:.6g} of {name}{sure},"
        f" above maxRegression {bound:g}"
    )
