"""Which steps a search tries: ladders, each of one way to become smaller or faster, the mildest rung first.

A rung that fits ends its ladder: the next ones would lose more, and be no more welcome for it.
"""

from __future__ import annotations

from modelwright.derivation import Cluster, Finetune, Prune, Quantize, Step, TargetSearch

Chain = tuple[Step, ...]
Ladder = tuple[Chain, ...]
_SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
_SHARES = (0.25, 0.5, 0.75, 0.875)
_BITS = (6, 5, 4, 3)
_ROUNDS = 2


def ladders(target: TargetSearch) -> list[Ladder]:
    """Storage is won by zeros and few values, time by smaller tensors and by integers; both by the latter."""
    found: list[Ladder] = [((_quantized("Int8Dynamic"),),)]
    if target.latency_p50_ms is not None:
        found.append(tuple((_structured(share, target),) for share in _SHARES))
        found.append(tuple((_structured(share, target), _quantized("Int8Dynamic")) for share in _SHARES))
    if target.bytes is not None:
        found.append(tuple((_clustered(bits, target),) for bits in _BITS))
        if target.latency_p50_ms is None:
            found += [
                tuple((_pruned(sparsity, target), _clustered(bits, target)) for sparsity in _SPARSITIES)
                for bits in _BITS[1:]
            ]
        else:
            found.append(tuple((_structured(share, target), _clustered(4, target)) for share in _SHARES))
    return found


def _pruned(sparsity: float, target: TargetSearch) -> Step:
    return Step(prune=Prune(sparsity=sparsity, rounds=_ROUNDS if target.epochs else 1, finetune=_tuned(target)))


def _structured(share: float, target: TargetSearch) -> Step:
    return Step(prune=Prune(granularity="Structured", sparsity=share, finetune=_tuned(target)))


def _clustered(bits: int, target: TargetSearch) -> Step:
    return Step(cluster=Cluster(bits=bits, finetune=_tuned(target)))


def _tuned(target: TargetSearch) -> Finetune:
    return Finetune(epochs=target.epochs)


def _quantized(scheme: str) -> Step:
    return Step(quantize=Quantize.model_validate({"scheme": scheme}))


def words(chain: Chain) -> str:
    """For people: "prune 90 %, cluster 4 bits"."""
    return ", ".join(_word(step) for step in chain)


def _word(step: Step) -> str:
    if step.prune is not None:
        what = " of the units" if step.prune.granularity == "Structured" else ""
        return f"prune {100 * step.prune.sparsity:g} %{what}"
    if step.cluster is not None:
        return f"cluster {step.cluster.bits} bits"
    return f"quantize {step.quantize.scheme}" if step.quantize is not None else step.kind
