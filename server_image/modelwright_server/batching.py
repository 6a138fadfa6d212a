"""Inferences of several requests as one: which fit together, and which output rows are whose. Pure.

A run costs the runtime about as much for one row as for ten of a small model, and each handing over between threads
costs more than either. Nobody is made to wait for a batch to fill: it is of what came while the one before it was being
computed, so that it grows with the load, and a lone request is alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from modelwright_server.golden import Run, Samples
from modelwright_server.inference import Inference
from modelwright_server.tensors import Array, Spec

_ROWS = 8


@dataclasses.dataclass(frozen=True)
class Batch:
    """Inferences that are run as one; `rows` is how many each has."""

    inferences: Sequence[Inference]
    rows: Sequence[int]

    def inputs(self) -> Mapping[str, Array]:
        """Those of all, one after the other along the first axis; of a single one not copied."""
        first = self.inferences[0].inputs
        if len(self.inferences) == 1:
            return first
        return {name: np.concatenate([one.inputs[name] for one in self.inferences]) for name in first}

    def outputs(self) -> list[str]:
        """Names of all outputs that somebody asks for."""
        return list(dict.fromkeys(wanted.spec.name for one in self.inferences for wanted in one.outputs))

    def divided(self, arrays: Sequence[Array]) -> Iterator[list[Array]]:
        """Of the arrays of `outputs()`, those that each inference asks for, in its order; not copied."""
        by_name = dict(zip(self.outputs(), arrays, strict=True))
        begin = 0
        for one, rows in zip(self.inferences, self.rows, strict=True):
            found = (by_name[wanted.spec.name] for wanted in one.outputs)
            yield [array[begin : begin + rows] for array in found] if len(self.inferences) > 1 else list(found)
            begin += rows


def batches(inferences: Sequence[Inference], most_rows: int) -> Iterator[Batch]:
    """All of them, those together whose rows are of one shape, up to `most_rows`; one of more rows, or of none, is by
    itself."""
    open_batches: dict[tuple[object, ...], tuple[list[Inference], list[int]]] = {}
    for one in inferences:
        arrays = one.inputs.values()
        lengths = {len(array) if array.ndim else 0 for array in arrays}
        rows = lengths.pop() if len(lengths) == 1 else 0
        if not 0 < rows < most_rows:
            yield Batch((one,), (rows,))
            continue
        key = tuple(array.shape[1:] for array in (one.inputs[name] for name in sorted(one.inputs)))
        together, counts = open_batches.setdefault(key, ([], []))
        if sum(counts) + rows > most_rows:
            yield Batch(tuple(together), tuple(counts))
            together.clear()
            counts.clear()
        together.append(one)
        counts.append(rows)
    yield from (Batch(*found) for found in open_batches.values())


def obstacle(inputs: Sequence[Spec], outputs: Sequence[Spec], samples: Samples, run: Run) -> str | None:
    """Why requests must not be put together; None where they may.

    The first axis of every tensor is to be the batch; and a golden row is to give the same by itself as among others,
    as nearly as golden samples are asked to agree: where it does not, as with int8 scales that are taken of the whole
    tensor, somebody's answer would depend on his neighbours.
    """
    axes = {one.shape[0] if one.shape else 0 for one in (*inputs, *outputs)}
    if not inputs or any(isinstance(axis, int) for axis in axes) or not samples.by_row:
        return "the first axis is not the batch"
    if samples.golden.alone or samples.rows < 2:
        return "golden samples are of each row by itself"
    names = list(samples.outputs)
    together = dict(zip(names, run(samples.inputs, names), strict=True))
    for index in range(min(samples.rows, _ROWS)):
        row = dataclasses.replace(samples, outputs=together).row(index)
        for name, alone in zip(names, run(row.inputs, names), strict=True):
            words = row.disagreement(name, alone)
            if words:
                return f"a row's outputs depend on its neighbours: {words}"
    return None
