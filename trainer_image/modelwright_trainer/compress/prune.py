"""prune: the weights of least importance become 0, at once or in rounds with training between."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from modelwright.derivation import Prune

from modelwright_trainer.compress import importance, structured
from modelwright_trainer.compress.finetune import finetune
from modelwright_trainer.compress.importance import Movement, Scores
from modelwright_trainer.compress.modules import built, weighted
from modelwright_trainer.compress.schedule import shares, sparsities
from modelwright_trainer.compress.state import Held, State
from modelwright_trainer.compress.work import Work
from modelwright_trainer.failures import UserFailed
from modelwright_trainer.onnxgraph import Array

Kept = dict[str, npt.NDArray[np.bool_]]


def apply(work: Work, state: State, asked: Prune) -> State:
    """Raises StepNeedsModule, UserFailed."""
    work.learner(state)
    if asked.granularity == "Structured":
        return structured.apply(work, state, asked)
    return gradual(work, state, asked, _share(asked), _emptied)


Cut = Callable[[Work, State, Prune, Scores, float], State]


def gradual(work: Work, state: State, asked: Prune, share: float, cut: Cut) -> State:
    """Scores, cuts and trains in turn until `share` is gone."""
    tuning, movement = asked.finetune, asked.method == "Movement"
    if movement and not tuning.epochs:
        raise UserFailed("prune.method Movement scores what training does to the weights: give finetune.epochs")
    # Movement is scored by a training before the first cut, too.
    epochs = shares(tuning.epochs, asked.rounds + movement)
    watched = None
    for number, gone in enumerate(sparsities(share, asked.rounds)):
        names = weighted(built(work.learner(state), state.weights))
        if movement:
            watched = watched or Movement(state.weights, names)  # one sum over all rounds
            state = finetune(work, state, tuning, epochs[number], f"score-{number}", watch=watched.watch)
        state = cut(work, state, asked, scores(work, state, asked, names, watched), gone)
        if not movement:
            state = finetune(work, state, tuning, epochs[number], f"round-{number}")
    return finetune(work, state, tuning, epochs[-1], "last") if movement else state


def scores(work: Work, state: State, asked: Prune, names: list[str], watched: Movement | None) -> Scores:
    if watched is not None:
        return watched.scores
    return (
        importance.magnitude(state.weights, names)
        if asked.method == "Magnitude"
        else importance.gradient(work, state, names)
    )


def _share(asked: Prune) -> float:
    """Of NofM the pattern decides."""
    if asked.granularity != "NofM":
        return asked.sparsity
    if asked.keep >= asked.of:
        raise UserFailed(f"prune: keep {asked.keep} of {asked.of} removes nothing: keep fewer")
    return 1 - asked.keep / asked.of


def _emptied(work: Work, state: State, asked: Prune, found: Scores, gone: float) -> State:
    kept = (
        _of_pattern(work, state, asked, found, gone)
        if asked.granularity == "NofM"
        else _of_all(state.weights, found, gone)
    )
    return masked(state, kept)


def masked(state: State, kept: Mapping[str, npt.NDArray[np.bool_]]) -> State:
    weights = {**state.weights, **{name: np.where(mask, state.weights[name], 0).astype(np.float32)
                                   for name, mask in kept.items()}}  # fmt: skip
    held = {name: state.held.get(name, Held()).model_copy(update={"sparse": True}) for name in kept}
    return state.with_weights(weights, **held)


def _of_all(weights: Mapping[str, Array], found: Scores, gone: float) -> Kept:
    """The lowest scores of all tensors together; what is 0 already goes first, and of each tensor one stays."""
    order = [name for name in found if found[name].size]
    flat = np.concatenate([np.where(weights[name] == 0, -np.inf, found[name]).reshape(-1) for name in order])
    kept_flat = np.ones(len(flat), bool)
    kept_flat[np.argsort(flat, kind="stable")[: round(gone * len(flat))]] = False
    kept, at = {}, 0
    for name in order:
        size = found[name].size
        mask = kept_flat[at : at + size].reshape(found[name].shape).copy()
        if not mask.any():
            mask.reshape(-1)[flat[at : at + size].argmax()] = True
        kept[name] = mask
        at += size
    return kept


def _of_pattern(work: Work, state: State, asked: Prune, found: Scores, gone: float) -> Kept:
    """Of each `of` weights of neighbouring inputs at most so many stay; in rounds the pattern tightens. A tensor whose
    inputs do not divide is left, and named."""
    keep = max(asked.keep, round(asked.of * (1 - gone)))
    kept = {}
    for name, score in found.items():
        inputs = int(np.prod(score.shape[1:]))
        if inputs % asked.of:
            note = f"{name} is left: its {inputs} inputs are no multiple of {asked.of}"
            if note not in work.notes:
                work.notes.append(note)
            continue
        groups = np.where(state.weights[name] == 0, -np.inf, score).reshape(-1, asked.of)
        places = np.argsort(-groups, axis=1, kind="stable")[:, :keep]
        mask = np.zeros(groups.shape, bool)
        np.put_along_axis(mask, places, True, axis=1)
        kept[name] = mask.reshape(score.shape)
    return kept
