"""How a checkpoint's folder in the store is called: of a recipe's and of the user's own code's alike."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

_NAME = re.compile(r"^step-(\d{8,})-attempt-(\d+)$")


@dataclasses.dataclass(frozen=True, order=True)
class Name:
    """A checkpoint's folder in the store: newest is greatest."""

    step: int
    attempt: int

    def __str__(self) -> str:
        return f"step-{self.step:08d}-attempt-{self.attempt}"

    @classmethod
    def parse(cls, text: str) -> Name | None:
        found = _NAME.match(text)
        return cls(int(found.group(1)), int(found.group(2))) if found else None


def complete(paths: Iterable[str], last: str) -> list[Name]:
    """The checkpoints that exist among the paths of their folder, newest first: those with the file `last`, which is
    written after all others."""
    parsed = (Name.parse(path.split("/")[0]) for path in paths if path.endswith(f"/{last}") and path.count("/") == 1)
    return sorted((name for name in parsed if name), reverse=True)
