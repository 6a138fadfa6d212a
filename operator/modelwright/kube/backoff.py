"""How long to wait before another try."""

from __future__ import annotations

import dataclasses
import random


@dataclasses.dataclass(frozen=True, slots=True)
class Backoff:
    """Doubles from `first` to `most` seconds, each with jitter: a random half of it is taken off, so that clients that
    failed together do not come back together."""

    first: float
    most: float

    def delay(self, failures: int) -> float:
        """Seconds to wait after the given number of failures in a row (from 1)."""
        # The exponent is capped since 2.0**1024 overflows, which a key that fails for a year would reach.
        longest = min(self.most, self.first * 2.0 ** min(failures - 1, 60))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret
