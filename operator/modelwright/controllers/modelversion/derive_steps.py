"""From a step, or a target, as a user wrote it to what a Job is told. Pure."""

from __future__ import annotations

from modelwright import derivation
from modelwright.api import version_steps as api
from modelwright.api.version_target import CompressTarget, byte_count, milliseconds


def step(stated: api.Step) -> derivation.Step:
    """Of exactly one kind, as the API's rule says."""
    return derivation.Step(
        prune=_prune(stated.prune) if stated.prune else None,
        merge=_merge(stated.merge) if stated.merge else None,
        cluster=_cluster(stated.cluster) if stated.cluster else None,
        low_rank=_low_rank(stated.low_rank) if stated.low_rank else None,
        distill=_distill(stated.distill) if stated.distill else None,
        quantize=derivation.Quantize(scheme=stated.quantize.scheme) if stated.quantize else None,
    )


def target(stated: CompressTarget) -> derivation.TargetSearch:
    return derivation.TargetSearch(
        bytes=byte_count(stated.bytes) if stated.bytes is not None else None,
        latency_p50_ms=milliseconds(stated.latency_p50) if stated.latency_p50 is not None else None,
        metric=stated.metric,
        max_regression=float(stated.max_regression),
        epochs=stated.epochs,
        candidates=stated.candidates,
    )


def _finetune(stated: api.Finetune | None) -> derivation.Finetune:
    if stated is None:
        return derivation.Finetune()
    return derivation.Finetune(
        epochs=stated.epochs,
        learning_rate=float(stated.learning_rate),
        batch_size=stated.batch_size,
        distillation=float(stated.distillation),
    )


def _prune(stated: api.Prune) -> derivation.Prune:
    made = derivation.Prune(
        method=stated.method,
        granularity=stated.granularity,
        rounds=stated.rounds,
        finetune=_finetune(stated.finetune),
    )
    if stated.pattern is not None:
        keep, of = (int(part) for part in stated.pattern.split(":"))
        return made.model_copy(update={"keep": keep, "of": of, "sparsity": 1 - keep / of})
    return made.model_copy(update={"sparsity": float(stated.sparsity or 0.5)})


def _merge(stated: api.Merge) -> derivation.Merge:
    return derivation.Merge(threshold=float(stated.threshold), finetune=_finetune(stated.finetune))


def _cluster(stated: api.Cluster) -> derivation.Cluster:
    return derivation.Cluster(bits=stated.bits, finetune=_finetune(stated.finetune))


def _low_rank(stated: api.LowRank) -> derivation.LowRank:
    return derivation.LowRank(energy=float(stated.energy), finetune=_finetune(stated.finetune))


def _distill(stated: api.Distill) -> derivation.Distill:
    return derivation.Distill(
        recipe=stated.recipe,
        hyperparameters=dict(stated.hyperparameters or {}),
        temperature=float(stated.temperature),
        distillation=float(stated.distillation),
    )
