"""Golden samples: test inputs, and what the published file gave for them where it was made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from modelwright.artifact import Golden, Manifest
from modelwright.hardware import instruction_set
from modelwright.serving import Reason, ServingWarning

from modelwright_server.failures import ServingFailed
from modelwright_server.tensors import Array

Run = Callable[[Mapping[str, Array], Sequence[str]], list[Array]]


@dataclasses.dataclass(frozen=True)
class Samples:
    """Inputs and expected outputs by the tensors' names, and how near is near enough."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    golden: Golden
    by_row: bool
    """Whether the first axis of each tensor is the batch, so that a single row can be asked for."""

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values()))) if self.by_row else 1

    def row(self, index: int) -> Samples:
        """One row of them, as a batch of one; all where they are not by row."""
        if not self.by_row:
            return self
        at = index % self.rows
        return dataclasses.replace(
            self,
            inputs={name: value[at : at + 1] for name, value in self.inputs.items()},
            outputs={name: value[at : at + 1] for name, value in self.outputs.items()},
        )

    def disagreement(self, name: str, given: Array) -> str | None:
        """How `given` is not what is expected of output `name`; None where it agrees."""
        expected = self.outputs[name]
        if given.shape != expected.shape:
            return f"{name} has the shape {list(given.shape)}, and {list(expected.shape)} is expected"
        if not expected.size:
            return None
        ours, theirs = given.astype(np.float64), expected.astype(np.float64)
        with np.errstate(invalid="ignore"):
            apart = np.abs(ours - theirs)
            near = apart <= self.golden.absolute_tolerance + self.golden.relative_tolerance * np.abs(theirs)
        near |= (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        share = float(near.mean())
        if share >= self.golden.minimum_agreement:
            return None
        largest = float(np.nanmax(np.where(near, 0.0, apart), initial=0.0))
        return (
            f"{name}: {share:.1%} of the values agree, {self.golden.minimum_agreement:.1%} is the least; the largest"
            f" difference is {largest:.3g}"
        )


def read(folder: Path, manifest: Manifest) -> Samples:
    """The samples of a fetched version. Raises ServingFailed (ArtifactDamaged) where they are not whole."""
    from safetensors.numpy import load_file

    stated = manifest.golden
    if stated is None:
        raise ServingFailed(Reason.FORMAT_UNAVAILABLE, "the artifact has no golden samples, and so no ONNX graph")
    path = stated.path
    try:
        found = load_file(folder / path)
    except Exception as error:
        raise ServingFailed(
            Reason.ARTIFACT_DAMAGED, f"{path} is no safetensors file: {error}: publish again"
        ) from error
    missing = [one.name for one in (*manifest.inputs, *manifest.outputs) if one.name not in found]
    if missing:
        raise ServingFailed(Reason.ARTIFACT_DAMAGED, f"{path} lacks {', '.join(missing)}: publish again")
    inputs = {one.name: found[one.name] for one in manifest.inputs}
    outputs = {one.name: found[one.name] for one in manifest.outputs}
    tensors = (*manifest.inputs, *manifest.outputs)
    lengths = {len(found[one.name]) if found[one.name].ndim else 0 for one in tensors}
    by_row = all(one.shape and one.shape[0] is None for one in tensors) and len(lengths) == 1 and 0 not in lengths
    return Samples(inputs, outputs, stated, by_row)


def _given(samples: Samples, run: Run, names: Sequence[str]) -> list[Array]:
    if not (samples.golden.alone and samples.by_row):
        return run(samples.inputs, names)
    each = [run(samples.row(index).inputs, names) for index in range(samples.rows)]
    return [np.concatenate(arrays) for arrays in zip(*each, strict=True)]


def comparable(golden: Golden, provider: str) -> bool:
    return (golden.provider, golden.instruction_set) == (provider, instruction_set())


def check(samples: Samples, run: Run, provider: str) -> ServingWarning | None:
    """Runs the samples. A warning where they were made on another kind of hardware. Raises ServingFailed
    (GoldenMismatch) where they do not agree and should."""
    names = list(samples.outputs)
    given = _given(samples, run, names)
    wrong = [words for name, value in zip(names, given, strict=True) if (words := samples.disagreement(name, value))]
    golden = samples.golden
    if comparable(golden, provider):
        if wrong:
            raise ServingFailed(
                Reason.GOLDEN_MISMATCH,
                f"the golden samples do not agree: {'; '.join(wrong)}. This server does not compute what was published"
                f" with {golden.runtime}: publish the version again, or serve it with the image of that time",
            )
        return None
    found = "; ".join(wrong) if wrong else "they agree here all the same"
    return ServingWarning(
        reason="GoldenNotComparable",
        message=f"the golden samples are of {golden.provider} on {golden.instruction_set}, and this is {provider} on"
        f" {instruction_set()}: {found}",
    )
