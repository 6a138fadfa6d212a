"""Which rows are trained on when: a function of (seed, epoch) and of how many global batches there were before.

The world size has no part in it, but for who computes which piece of a global batch. So a run that is resumed with
another number of workers neither loses nor repeats a row.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Cursor:
    """Where the training stands: in epoch `epoch` (from 0) the first `row` rows of its order were trained on, after
    `step` global batches in all."""

    epoch: int = 0
    row: int = 0
    step: int = 0


@dataclasses.dataclass(frozen=True)
class Plan:
    """`rows` rows in global batches of at most `batch` rows, for `epochs` epochs."""

    rows: int
    batch: int
    epochs: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.rows // self.batch)

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.epochs

    def order(self, epoch: int) -> Rows:
        """The order of the rows in an epoch, shape [rows]. The legacy generator is the one whose stream numpy promises
        never to change (NEP 19); a resumed run may have another numpy."""
        generator = np.random.RandomState(np.array([self.seed, epoch], dtype=np.uint32))
        return generator.permutation(self.rows).astype(np.int64)

    def batch_at(self, cursor: Cursor) -> tuple[int, int]:
        """Begin and end, in the epoch's order, of the next global batch; the last of an epoch may be smaller."""
        return cursor.row, min(cursor.row + self.batch, self.rows)

    def after(self, cursor: Cursor) -> Cursor:
        """The cursor when the batch at `cursor` is done."""
        _, end = self.batch_at(cursor)
        if end == self.rows:
            return Cursor(cursor.epoch + 1, 0, cursor.step + 1)
        return Cursor(cursor.epoch, end, cursor.step + 1)

    def done(self, cursor: Cursor) -> bool:
        return cursor.epoch >= self.epochs


def share(begin: int, end: int, rank: int, world_size: int) -> tuple[int, int]:
    """The piece of [begin, end) that is one rank's: pieces follow each other and differ by at most a row; with fewer
    rows than ranks the last ranks' are empty."""
    whole, rest = divmod(end - begin, world_size)
    first = begin + rank * whole + min(rank, rest)
    return first, first + whole + (1 if rank < rest else 0)
