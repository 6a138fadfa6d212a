"""Which step does what, on what."""

from __future__ import annotations

from modelwright.derivation import Step

from modelwright_trainer.compress import cluster, prune
from modelwright_trainer.compress.state import State
from modelwright_trainer.compress.work import Work
from modelwright_trainer.failures import UserFailed


def apply(work: Work, state: State, step: Step) -> State:
    """The state after a step; `work.notes` says what it left. Raises StepNeedsModule, UserFailed, DataFailed."""
    if step.prune is not None:
        return prune.apply(work, state, step.prune)
    if step.cluster is not None:
        return cluster.apply(work, state, step.cluster)
    if step.quantize is not None:
        from modelwright_trainer.compress import quantize  # its tools take a second to import

        return quantize.apply(work, state, step.quantize)
    raise UserFailed(f"spec.source.compress.steps: {step.kind} is not there yet")
