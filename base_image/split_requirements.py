"""Splits locked requirements in two: one package with everything it needs, and the rest.

torch and its CUDA libraries are 5 GB that change twice a year; in a layer of their own they are built, compressed and
pulled once. What torch needs is read from the `# via` comments that `uv pip compile` writes under each package.
Runs inside the image build, so it uses the standard library only: `split_requirements.py PACKAGE LOCKED INTO`
writes INTO/PACKAGE.txt and INTO/rest.txt.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

_NAME = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[^\]]*\])?\s*==")
_VIA = re.compile(r"^\s+#\s+(?:via\s+)?([A-Za-z0-9][A-Za-z0-9._-]*)(\s|$)")


@dataclasses.dataclass(frozen=True)
class Requirement:
    """One package of a locked file: its `text` with hashes and comments, and the packages that asked for it (`via`)."""

    name: str
    text: str
    via: frozenset[str]


def normal(name: str) -> str:
    """A package's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse(locked: str) -> list[Requirement]:
    """The packages of a locked file, in its order. Raises ValueError for a line that belongs to none."""
    blocks: list[list[str]] = []
    for number, line in enumerate(locked.splitlines(), 1):
        if _NAME.match(line):
            blocks.append([line])
        elif blocks and (line[:1].isspace() or not line):
            blocks[-1].append(line)
        elif line and not line.startswith("#"):
            raise ValueError(f"line {number}: {line!r} is no package with a version (write NAME==VERSION)")
    found = []
    for block in blocks:
        match = _NAME.match(block[0])
        assert match  # noqa: S101 - a block begins where it matched
        via = frozenset(normal(m.group(1)) for line in block[1:] if (m := _VIA.match(line)) and m.group(1) != "via")
        found.append(Requirement(normal(match.group(1)), "\n".join(block).rstrip() + "\n", via))
    return found


def split(requirements: list[Requirement], root: str) -> tuple[list[Requirement], list[Requirement]]:
    """`root` with all that it needs, directly or not, and the rest. Raises ValueError where it is not there."""
    if all(requirement.name != root for requirement in requirements):
        raise ValueError(f"{root} is not among the locked packages")
    needed = {root}
    while more := {r.name for r in requirements if r.name not in needed and r.via & needed}:
        needed |= more
    return [r for r in requirements if r.name in needed], [r for r in requirements if r.name not in needed]


def main(root: str, locked: Path, into: Path) -> None:
    first, rest = split(parse(locked.read_text()), root)
    (into / f"{root}.txt").write_text("".join(r.text for r in first))
    (into / "rest.txt").write_text("".join(r.text for r in rest))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
