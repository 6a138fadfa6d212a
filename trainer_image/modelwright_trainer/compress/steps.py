"""Which step does what, on what."""

from __future__ import annotations

from modelwright.derivation import Step

from modelwright_trainer.compress import cluster, distill, lowrank, merge, prune
from modelwright_trainer.compress.state import State
from modelwright_trainer.compress.work import Work


def apply(work: Work, state: State, step: Step) -> State:
    """The state after a step; `work.notes` says what it left. Raises StepNeedsModule, UserFailed, DataFailed."""
    if step.prune is not None:
        return prune.apply(work, state, step.prune)
    if step.merge is not None:
        return merge.apply(work, state, step.merge)
    if step.cluster is not None:
        return cluster.apply(work, state, step.cluster)
    if step.low_rank is not None:
        return lowrank.apply(work, state, step.low_rank)
    if step.distill is not None:
        return distill.apply(work, state, step.distill)
    from modelwright_trainer.compress import quantize  # its tools take a second to import

    assert step.quantize is not None  # noqa: S101 - a step is exactly one of them
    return quantize.apply(work, state, step.quantize)
