"""What holds between a version and those that it is made of. The rules stand on the spec, which names both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from modelwright.api.rules import Rule

if TYPE_CHECKING:
    from modelwright.api.model_version import ModelVersionSpec
    from modelwright.api.version_compress import VersionChoice
    from modelwright.api.version_evaluation import Comparison

_CEL_DERIVED = "has(self.source.__import__) || has(self.source.compress) || has(self.source.combine)"


def _cel_itself(other: str) -> str:
    """CEL: `other`, which has a version and perhaps a variant, is the version of the spec."""
    return (
        f"({other}.version == self.version"
        f" && (has({other}.variant) ? {other}.variant : '') == (has(self.variant) ? self.variant : ''))"
    )


def _is_itself(spec: ModelVersionSpec, other: VersionChoice | Comparison) -> bool:
    return (other.version, other.variant) == (spec.version, spec.variant)


def _is_derived(spec: ModelVersionSpec) -> bool:
    return spec.source.by_jobs


def _overwrites(spec: ModelVersionSpec) -> bool:
    compress = spec.source.compress
    return compress is not None and compress.from_.version == spec.version and spec.variant is None


def _compared(spec: ModelVersionSpec) -> Iterator[Comparison]:
    for gate in spec.evaluation.gates or () if spec.evaluation else ():
        if gate.against is not None:
            yield gate.against


def _stacked_on_what_it_is_judged_by(spec: ModelVersionSpec) -> bool:
    combine, evaluation = spec.source.combine, spec.evaluation
    stacked = combine is not None and combine.method == "Stack"
    return stacked and evaluation is not None and evaluation.split == "validation"


def _measured_on_something(spec: ModelVersionSpec) -> bool:
    evaluation = spec.evaluation
    return spec.source.import_ is None or evaluation is None or evaluation.dataset_ref is not None


def _compared_with_something(spec: ModelVersionSpec) -> bool:
    gates = (spec.evaluation.gates if spec.evaluation else None) or ()
    return spec.source.import_ is None or all(one.max_regression is None or one.against is not None for one in gates)


DERIVED_RULES = (
    Rule(
        "!has(self.source.__import__) || !has(self.evaluation) || has(self.evaluation.datasetRef)",
        "what is imported does not say what it was trained on; give datasetRef, the Dataset to measure it on",
        _measured_on_something,
        field="evaluation",
    ),
    Rule(
        "!has(self.source.__import__) || !has(self.evaluation) || !has(self.evaluation.gates)"
        " || !self.evaluation.gates.exists(gate, has(gate.maxRegression) && !has(gate.against))",
        "what is imported is made of no version to compare it with; give against beside maxRegression",
        _compared_with_something,
        field="evaluation.gates",
    ),
    Rule(
        f"!has(self.storage) || {_CEL_DERIVED}",
        "storage is of import, compress and combine; of an artifact it is source.artifact.storage: leave it out",
        lambda spec: spec.storage is None or _is_derived(spec),
        field="storage",
    ),
    Rule(
        f"!has(self.evaluation) || {_CEL_DERIVED}",
        "evaluation is of import, compress and combine; a TrainingJob has its own: leave it out",
        lambda spec: spec.evaluation is None or _is_derived(spec),
        field="evaluation",
    ),
    Rule(
        "!has(self.source.compress) || self.source.compress.from.version != self.version || has(self.variant)",
        "a form of {self.version} under the same version must have another variant than its parent: give variant, such"
        " as int8",
        lambda spec: not _overwrites(spec),
        field="variant",
    ),
    Rule(
        f"!has(self.source.compress) || !has(self.variant) || !{_cel_itself('self.source.compress.from')}",
        "{self.version} of variant {self.variant} cannot be compressed out of itself; name another version in from, or"
        " write another variant",
        lambda spec: (
            spec.source.compress is None or spec.variant is None or not _is_itself(spec, spec.source.compress.from_)
        ),
        field="source.compress.from",
    ),
    Rule(
        f"!has(self.source.combine) || !self.source.combine.members.exists(member, {_cel_itself('member')})",
        "{self.version} cannot be a member of itself; take it out of members",
        lambda spec: (
            spec.source.combine is None or not any(_is_itself(spec, one) for one in spec.source.combine.members)
        ),
        field="source.combine.members",
    ),
    Rule(
        "!has(self.evaluation) || !has(self.evaluation.gates)"
        " || !self.evaluation.gates.exists(gate, has(gate.against) && has(gate.against.version)"
        f" && {_cel_itself('gate.against')})",
        "a gate compares {self.version} with itself; name another version or a channel in against, or leave it out",
        lambda spec: not any(_is_itself(spec, one) for one in _compared(spec)),
        field="evaluation.gates",
    ),
    Rule(
        "!has(self.source.combine) || self.source.combine.method != 'Stack' || !has(self.evaluation)"
        " || self.evaluation.split != 'validation'",
        "Stack is fitted on the validation split, and would be judged by it; write test, or leave split out",
        lambda spec: not _stacked_on_what_it_is_judged_by(spec),
        field="evaluation.split",
    ),
)  # fmt: skip
