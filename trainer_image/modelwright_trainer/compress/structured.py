"""prune with granularity Structured: neurons, channels and heads go, and the tensors shrink."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from modelwright.derivation import Prune

from modelwright_trainer.compress.finetune import batches, finetune
from modelwright_trainer.compress.groups import Group, cut, groups, of_units, resized
from modelwright_trainer.compress.importance import Movement
from modelwright_trainer.compress.modules import built, weighted
from modelwright_trainer.compress.schedule import shares, sparsities
from modelwright_trainer.compress.state import Held, State
from modelwright_trainer.compress.subject import needs_module
from modelwright_trainer.compress.work import Work
from modelwright_trainer.failures import UserFailed
from modelwright_trainer.learner import Batch
from modelwright_trainer.onnxgraph import Array

UnitScores = dict[str, npt.NDArray[np.float64]]
_CPU = torch.device("cpu")
_ROWS, _MOST_ROWS = 64, 8192


def of_state(work: Work, state: State) -> list[Group]:
    """Raises StepNeedsModule where nothing can go as a whole."""
    learner = work.learner(state)
    recipe = state.rebuild.recipe if state.rebuild else ""
    found = groups(recipe, state.weights, getattr(learner.hyperparameters, "head_size", 0))
    if not found:
        raise needs_module(f"{recipe} has no neurons, channels or heads inside that could go: it is one layer")
    return found


def apply(work: Work, state: State, asked: Prune) -> State:
    """In each group the same share goes, at least one unit stays. Raises StepNeedsModule, UserFailed."""
    begun = {one.name: one.units for one in of_state(work, state)}
    tuning, movement = asked.finetune, asked.method == "Movement"
    if movement and not tuning.epochs:
        raise UserFailed("prune.method Movement scores what training does to the weights: give finetune.epochs")
    epochs = shares(tuning.epochs, asked.rounds + movement)
    for number, gone in enumerate(sparsities(asked.sparsity, asked.rounds)):
        found = of_state(work, state)
        if movement:
            watched = Movement(state.weights, weighted(built(work.learner(state), state.weights)))
            state = finetune(work, state, tuning, epochs[number], f"score-{number}", watch=watched.watch)
            scores = _summed(found, watched.scores)
        elif asked.method == "Magnitude":
            scores = _norms(found, state.weights)
        else:
            scores = _taylor(work, state, found)
        state = shrunk(work, state, found, scores, {name: _left(units, gone) for name, units in begun.items()})
        if not movement:
            state = finetune(work, state, tuning, epochs[number], f"round-{number}")
    state = finetune(work, state, tuning, epochs[-1], "last") if movement else state
    for one in of_state(work, state):
        if one.units == begun[one.name]:
            work.notes.append(f"{one.name} keeps all its {one.units} {one.kind}s: the share of them is less than one")
    return state


def _left(units: int, gone: float) -> int:
    return max(1, round(units * (1 - gone)))


def shrunk(work: Work, state: State, found: list[Group], scores: UnitScores, left: Mapping[str, int]) -> State:
    """The state with the units of the highest scores, in their order."""
    weights: Mapping[str, Array] = state.weights
    for group in found:
        kept = np.sort(np.argsort(-scores[group.name], kind="stable")[: left[group.name]])
        weights = cut(weights, group, kept)
    return refitted(work, state, weights)


def refitted(work: Work, state: State, weights: Mapping[str, Array]) -> State:
    """The state with tensors that shrank, and the recipe and the codebooks as they are then."""
    assert state.rebuild is not None  # noqa: S101 - it has groups
    head = getattr(work.learner(state).hyperparameters, "head_size", 0)
    held = {
        name: one.model_copy(update={"values": len(np.unique(weights[name]))}) if one.values else one
        for name, one in state.held.items()
    }
    return State(
        resized(state.rebuild, groups(state.rebuild.recipe, weights, head)),
        dict(weights.items()),
        {name: one for name, one in held.items() if one != Held()},
    )


def _norms(found: list[Group], weights: Mapping[str, Array]) -> UnitScores:
    """The 2-norm of all that makes a unit times that of all that reads it."""
    scores = {}
    for group in found:
        made, used = (
            np.sqrt(sum(np.square(of_units(weights[part.tensor], part, group.units)).sum(axis=1) for part in parts))
            for parts in (group.made, group.used)
        )
        scores[group.name] = np.asarray(made * used, np.float64)
    return scores


def _summed(found: list[Group], of_weights: Mapping[str, npt.NDArray[np.float64]]) -> UnitScores:
    return {
        group.name: np.asarray(
            sum(of_units(of_weights[part.tensor], part, group.units).sum(axis=1)
                for part in group.made if part.tensor in of_weights)
        )
        for group in found
    }  # fmt: skip


def _taylor(work: Work, state: State, found: list[Group]) -> UnitScores:
    """How much the loss changes, to the first order, when a unit goes: (Σ w · ∂L/∂w)² over what makes it, the mean over
    batches of the training rows (Molchanov et al. 2019, arXiv:1906.10771)."""
    learner = work.learner(state)
    module = built(learner, state.weights)
    parameters = dict(module.named_parameters())
    train = work.rows.parts["train"]
    chosen = train[np.unique(np.linspace(0, len(train) - 1, min(len(train), _MOST_ROWS)).astype(np.int64))]
    scores: UnitScores = {group.name: np.zeros(group.units) for group in found}
    for rows in batches(np.random.RandomState(work.seed % 2**32).permutation(chosen), _ROWS):
        module.zero_grad()
        batch = Batch.of(work.rows.table, rows, _CPU)
        (learner.loss(module(batch.features), batch) / batch.rows).backward()
        change = {
            name: (one.detach() * one.grad).double().numpy() for name, one in parameters.items() if one.grad is not None
        }
        for name, found_scores in _summed(found, change).items():
            scores[name] += np.square(found_scores)
    return scores
