"""The search for the steps of a target: candidates are tried, scored on the validation split, and one is chosen.

Test rows are never looked at: the publication alone measures on them, once. What was tried is kept in the store beside
the steps' states, so that a Job that is killed goes on after the last candidate that it has measured.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path

from modelwright.contract import Failure, Outcome, Shape
from modelwright.derivation import Candidate, CompressRun, DerivationSummary, Searched, Size, TargetSearch
from modelwright.store import Store, StoreError, Trouble

from modelwright_trainer.compress import measure, state, steps
from modelwright_trainer.compress.candidates import Chain, ladders, words
from modelwright_trainer.compress.state import State
from modelwright_trainer.compress.work import Work
from modelwright_trainer.failures import DataFailed, TrainingFailed, UserFailed
from modelwright_trainer.paired import LOWER_IS_BETTER

TRIED_FILE = "tried.json"
_FIELD = "spec.source.compress.target"
_USUAL = {
    "Classification": "accuracy", "Regression": "rmse", "LanguageModelling": "accuracy",
    "AnomalyDetection": "reconstruction_error",
}  # fmt: skip
_FRONT = 16
_KEPT_BYTES = 2**28
# 0.9 − 0.89 is more than 0.01 in binary.
_ROUNDING = 1e-9


class _Tried(Shape):
    """Sizes by the candidate's words; why one could not be tried at all."""

    sizes: Mapping[str, Size] = {}
    left: Mapping[str, str] = {}


@dataclasses.dataclass
class Search:
    """One Job's. `known` are candidates of an earlier try, too."""

    asked: CompressRun
    work: Work
    store: Store
    begun: State
    sizes: dict[str, Size] = dataclasses.field(default_factory=dict)
    left: dict[str, str] = dataclasses.field(default_factory=dict)
    chains: dict[str, Chain] = dataclasses.field(default_factory=dict)
    prefixes: dict[Chain, State] = dataclasses.field(default_factory=dict)

    @property
    def target(self) -> TargetSearch:
        assert self.asked.target is not None  # noqa: S101 - the caller's to look at
        return self.asked.target

    def climb(self) -> None:
        """Tries what there is, within the number of candidates."""
        for ladder in ladders(self.target):
            for chain in ladder:
                if len(self.sizes) + len(self.left) >= self.target.candidates and words(chain) not in self.sizes:
                    return
                size = self.tried(chain)
                if size is None or fits(self.target, size):
                    break

    def tried(self, chain: Chain) -> Size | None:
        """What a candidate comes to; None where a step does not work on this model."""
        name = words(chain)
        self.chains[name] = chain
        if name in self.left:
            return None
        if name not in self.sizes:
            try:
                self.sizes[name] = measure.of_state(self.work, self.made(chain))
            except (TrainingFailed, UserFailed) as error:
                self.left[name] = str(error)
            self.keep()
            print(f"tried {name}: {self.left.get(name) or self.sizes[name].to_json()}", flush=True)
        return self.sizes.get(name)

    def made(self, chain: Chain) -> State:
        """The state after all steps of a candidate. Raises TrainingFailed, UserFailed."""
        found = self.begun
        for count in range(1, len(chain) + 1):
            prefix = chain[:count]
            if prefix not in self.prefixes:
                self.work.notes.clear()
                made = steps.apply(self.work, found, chain[count - 1])
                if count == len(chain):
                    return made
                # What others begin with, too, is kept as long as there is room.
                self.prefixes = {**self.prefixes, prefix: made} if self._room_for(made) else {prefix: made}
            found = self.prefixes[prefix]
        return found

    def _room_for(self, made: State) -> bool:
        known = sum(value.nbytes for one in (*self.prefixes.values(), made) for value in one.weights.values())
        return known <= _KEPT_BYTES

    def keep(self) -> None:
        told = _Tried(sizes=self.sizes, left=self.left)
        self.store.write(f"{self.asked.work_folder}/{TRIED_FILE}", told.to_json().encode())

    def recall(self) -> None:
        try:
            known = _Tried.model_validate_json(self.store.read(f"{self.asked.work_folder}/{TRIED_FILE}"))
        except StoreError as error:
            if error.trouble is Trouble.NO_OBJECT:
                return
            raise
        self.sizes, self.left = dict(known.sizes), dict(known.left)


def run(asked: CompressRun, work: Work, store: Store, begun: State, size: Size, scratch: Path) -> DerivationSummary:
    """Leaves the accepted candidate as the stage's state. Raises DataFailed, UserFailed where nothing can be scored,
    StoreError."""
    started = time.monotonic()
    search = Search(asked, work, store, begun)
    metric = _metric(search.target, work, size)
    search.recall()
    search.climb()
    reference = size.metrics[metric]
    found = {name: _candidate(search.target, name, one, metric, reference) for name, one in search.sizes.items()}
    fitting = [one for one in found.values() if one.fits]
    good = [one for one in fitting if one.regression <= search.target.max_regression + _ROUNDING]
    told = Searched(
        metric=metric, reference=reference, tried=len(found) + len(search.left), front=front(tuple(found.values()))
    )
    summary = DerivationSummary(
        outcome=Outcome.SUCCEEDED.reason,
        stage=asked.stage,
        before=size,
        notes=tuple(f"{name} was left out: {why}" for name, why in sorted(search.left.items())),
        search=told,
    )
    if not good:
        outcome, message = _refused(search.target, list(found.values()), fitting, metric)
        return summary.model_copy(
            update={
                "outcome": outcome.reason,
                "failure": Failure(type="TargetMissed", message=f"{_FIELD}: {message}"),
                "seconds": round(time.monotonic() - started, 3),
            }
        )
    best = min(good, key=lambda one: (one.regression, one.bytes, one.steps))
    chosen = search.chains[best.steps]
    made = search.made(chosen)
    after = search.sizes[best.steps]
    summary = summary.model_copy(
        update={
            "after": after,
            "notes": (*work.notes, *summary.notes),
            "search": told.model_copy(update={"chosen": chosen, "chosen_words": best.steps}),
            "seconds": round(time.monotonic() - started, 3),
        }
    )
    state.save(store, asked, made, after, summary, scratch)
    return summary


def _metric(target: TargetSearch, work: Work, size: Size) -> str:
    if not size.metrics:
        raise DataFailed(
            f"{_FIELD}: candidates are scored on the validation split, and the data of {work.parent.name} has none:"
            " give steps, or train the parent on data with one"
        )
    metric = target.metric or _USUAL.get(work.parent.manifest.task or "", "")
    if metric not in size.metrics:
        raise UserFailed(
            f"{_FIELD}.metric: there is no {metric or 'usual metric'} of {work.parent.name}; the metrics are"
            f" {', '.join(sorted(size.metrics))}"
        )
    return metric


def fits(target: TargetSearch, size: Size) -> bool:
    """Whether it is as small and as fast as the target says."""
    fast = target.latency_p50_ms is None or (
        size.latency_p50_ms is not None and size.latency_p50_ms <= target.latency_p50_ms
    )
    return fast and (target.bytes is None or size.bytes <= target.bytes)


def _candidate(target: TargetSearch, name: str, size: Size, metric: str, reference: float) -> Candidate:
    figure = size.metrics[metric]
    worse = figure - reference if metric in LOWER_IS_BETTER else reference - figure
    return Candidate(
        steps=name, bytes=size.bytes, latency_p50_ms=size.latency_p50_ms, figure=figure, regression=worse,
        fits=fits(target, size),
    )  # fmt: skip


def front(found: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    """Those to which no other is superior in all of bytes, latency and metric, the smallest first."""

    def axes(one: Candidate) -> tuple[float, ...]:
        return one.bytes, one.latency_p50_ms or 0.0, one.regression

    def dominated(one: Candidate) -> bool:
        return any(
            axes(other) != axes(one)
            and all(theirs <= ours for theirs, ours in zip(axes(other), axes(one), strict=True))
            for other in found
        )

    return tuple(sorted((one for one in found if not dominated(one)), key=lambda one: (*axes(one), one.steps))[:_FRONT])


def _refused(
    target: TargetSearch, found: list[Candidate], fitting: list[Candidate], metric: str
) -> tuple[Outcome, str]:
    """Why none is accepted, and what would have to be."""
    if not found:
        return Outcome.INFEASIBLE, "no step works on this model; see the notes"
    if fitting:
        best = min(fitting, key=lambda one: one.regression)
        return Outcome.REGRESSION, (
            f"{len(fitting)} of {len(found)} candidates fit, and the best of them ({best.steps}) loses"
            f" {best.regression:.4g} of {metric} on the validation split, above maxRegression"
            f" {target.max_regression:g}: raise that, bytes or latencyP50, or give more epochs"
        )
    wanted = []
    if target.bytes is not None:
        least = min(found, key=lambda one: one.bytes)
        wanted.append(f"the smallest has {least.bytes} bytes ({least.steps}), and {target.bytes} are asked for")
    if target.latency_p50_ms is not None:
        fastest = min(found, key=lambda one: one.latency_p50_ms or 0.0)
        wanted.append(
            f"the fastest takes {fastest.latency_p50_ms or 0.0:.4g} ms ({fastest.steps}), and"
            f" {target.latency_p50_ms:g} ms are asked for"
        )
    return Outcome.INFEASIBLE, f"none of {len(found)} candidates fits: {'; '.join(wanted)}: ask for less"
