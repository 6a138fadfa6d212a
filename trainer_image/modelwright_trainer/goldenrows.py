"""What golden samples expect of a graph: of all rows at once, or of each by itself where its neighbours would change
it, as they do where int8 scales are taken of a whole tensor while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from modelwright.artifact import Golden

Arrays = Mapping[str, npt.NDArray[Any]]


def expected(
    run: Callable[[Arrays], Arrays], inputs: Arrays, together: Arrays, golden: Golden
) -> tuple[Arrays, Golden]:
    """What is to be expected, and `golden` saying of what; as given where the first axis of each array is not the
    batch. `together` is what `run` gives for `inputs` at once."""
    lengths = {len(value) if value.ndim else 0 for value in (*inputs.values(), *together.values())}
    rows = lengths.pop() if len(lengths) == 1 else 0
    if rows < 2:
        return together, golden
    try:
        each = [run({name: value[at : at + 1] for name, value in inputs.items()}) for at in range(rows)]
        alone = {name: np.concatenate([one[name] for one in each]) for name in together}
    except Exception:  # a graph of a fixed number of rows: the runtime's own errors have no class in common
        return together, golden
    if all(_same(alone[name], together[name], golden) for name in together):
        return together, golden
    return alone, golden.model_copy(update={"alone": True})


def _same(one: npt.NDArray[Any], other: npt.NDArray[Any], golden: Golden) -> bool:
    if one.shape != other.shape:
        # The first axis is no batch, after all.
        return True
    return np.allclose(
        one.astype(np.float64), other.astype(np.float64), equal_nan=True,
        atol=golden.absolute_tolerance, rtol=golden.relative_tolerance,
    )  # fmt: skip
