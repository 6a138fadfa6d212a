"""One Job of a compression: a step, from what the one before it left to what the next one finds."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from modelwright.contract import Outcome
from modelwright.derivation import CompressRun, DerivationSummary, Size
from modelwright.store import Store

from modelwright_trainer import onnxgraph
from modelwright_trainer.compress import measure, publication, search, state, steps, subject
from modelwright_trainer.compress.finetune import seed_of
from modelwright_trainer.compress.state import State
from modelwright_trainer.compress.subject import Parent
from modelwright_trainer.compress.work import Work
from modelwright_trainer.limits import threads


def run(asked: CompressRun, store: Store, scratch: Path) -> DerivationSummary:
    """Does stage `asked.stage`; one that is done already only says it again. Raises what the stage raises."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_num_threads(threads(1))
    if asked.publishes:
        return publication.run(asked, store, scratch)
    done = state.saved(store, asked, asked.stage)
    if done is not None:
        print(f"step {asked.stage + 1} was done before", flush=True)
        return done.summary
    began = time.monotonic()
    work = prepared(asked, store, scratch)
    before, size = beginning(asked, work, store)
    if asked.target is not None:
        return search.run(asked, work, store, before, size, scratch)
    after = steps.apply(work, before, asked.steps[asked.stage])
    found = measure.of_state(work, after)
    summary = DerivationSummary(
        outcome=Outcome.SUCCEEDED.reason, stage=asked.stage, before=size, after=found, notes=tuple(work.notes),
        seconds=round(time.monotonic() - began, 3),
    )  # fmt: skip
    state.save(store, asked, after, found, summary, scratch)
    return summary


def prepared(asked: CompressRun, store: Store, scratch: Path) -> Work:
    """The parent and its rows. Raises DataFailed, Damaged, StoreError."""
    parent = subject.fetch(store, asked.parent, scratch / "parent")
    rows = subject.trained_on(store, parent.manifest, asked.evaluation.data, scratch / "rows")
    return Work(parent, rows, asked.calibration, seed_of(asked.seed, f"stage-{asked.stage}"), scratch)


def beginning(asked: CompressRun, work: Work, store: Store) -> tuple[State, Size]:
    """What the stage begins with: the parent, or what the stage before left."""
    if asked.stage == 0:
        return of_parent(work.parent), measure.of_parent(work)
    found, saved = state.load(store, asked, asked.stage - 1, work.scratch)
    return found, saved.size


def of_parent(parent: Parent) -> State:
    """The parent as a state: its module's tensors where a recipe made it, else its graph's."""
    tensors = onnxgraph.tensors(parent.folder, parent.onnx)
    rebuild = parent.manifest.rebuild
    if rebuild is not None and rebuild.kind == "recipe":
        return State(rebuild, tensors)
    graph, weights = subject.graph_of(parent, tensors)
    return State(None, weights, {}, graph)
