"""Which rows are for training, validation and test: a function of the seed and, where stratified, of the classes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

PARTS = ("train", "validation", "test")
Rows = npt.NDArray[np.int64]


def split(
    rows: int, fractions: Mapping[str, float], seed: int, classes: npt.NDArray[np.int64] | None
) -> dict[str, Rows]:
    """Row numbers of each part, ascending; disjoint, and together all `rows`.

    With `classes`, of shape [rows], each class is split by itself and so has the same share in each part, to within
    rounding; its rounding remainders go to the part that is furthest behind its share, so that the parts' own sizes
    stay near their fractions even where there are many small classes.
    """
    generator = np.random.RandomState(seed)
    groups = [np.arange(rows)] if classes is None else [np.flatnonzero(classes == one) for one in np.unique(classes)]
    wanted = {part: fractions[part] for part in PARTS}
    chosen: dict[str, list[Rows]] = {part: [] for part in PARTS}
    owed = dict.fromkeys(PARTS, 0.0)
    for group in groups:
        shuffled = group[generator.permutation(len(group))]
        counts = owing(len(group), wanted, owed)
        begin = 0
        for part in PARTS:
            chosen[part].append(shuffled[begin : begin + counts[part]])
            begin += counts[part]
    return {part: np.sort(np.concatenate(pieces)).astype(np.int64) for part, pieces in chosen.items()}


def owing(count: int, fractions: Mapping[str, float], owed: dict[str, float]) -> dict[str, int]:
    """`count` rows in parts by largest remainder (Hamilton), counting what earlier groups left owing to each part;
    `owed` is brought up to date. Each part gets its share less than a row off, in sum exactly `count`."""
    exact = {part: count * fraction for part, fraction in fractions.items()}
    # Decimal fractions are not binary ones: 0.7 · 10 must be 7, not 6 and a large remainder.
    counts = {part: int(np.floor(share + 1e-9)) for part, share in exact.items()}
    due = {part: owed[part] + exact[part] - counts[part] for part in fractions}
    left = count - sum(counts.values())
    for part in sorted((part for part in fractions if fractions[part] > 0), key=lambda part: -due[part])[:left]:
        counts[part] += 1
    for part in fractions:
        owed[part] += exact[part] - counts[part]
    return counts
