"""What goes into an image, read from its Dockerfile; and the tag that follows from it.

A stage's inputs are the instructions of all stages that it is built from, and the files that those copy from the
repository. Their hash is the tag: an image that has it is the right one, whoever built it, and a file that no stage
copies changes no tag.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePath, PurePosixPath

TAG_LENGTH = 16
_FROM = re.compile(r"^FROM\s+(\S+)(?:\s+AS\s+(\S+))?$", re.IGNORECASE)
# As .dockerignore has it: what Python leaves beside its sources is no input.
_LEFT_OUT = ("__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of a Dockerfile: `parent` is what its FROM names; `sources` are the paths that it copies from the
    context, `stages` the stages that it copies from."""

    name: str
    parent: str
    instructions: tuple[str, ...]
    sources: tuple[str, ...]
    stages: tuple[str, ...]


def _instructions(dockerfile: str) -> list[str]:
    """The instructions without comments, each on one line."""
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [line.strip() for line in joined.splitlines() if line.strip()]


def _copied(instruction: str) -> tuple[tuple[str, ...], str]:
    """A COPY's sources, and the stage that it copies from ("" for the context)."""
    words = shlex.split(instruction)[1:]
    flags = [word for word in words if word.startswith("--")]
    paths = [word for word in words if not word.startswith("--")]
    origin = next((flag.removeprefix("--from=") for flag in flags if flag.startswith("--from=")), "")
    if len(paths) < 2 or any(char in path for path in paths[:-1] for char in "*?[$"):
        raise ValueError(f"{instruction!r}: name each copied file or folder, without patterns or variables")
    return tuple(paths[:-1]), origin


def parse(dockerfile: str) -> dict[str, Stage]:
    """The stages by name, in order; a stage without a name gets its number. Raises ValueError for an instruction whose
    inputs cannot be told (ADD, or a COPY with a pattern)."""
    stages: dict[str, Stage] = {}
    for instruction in _instructions(dockerfile):
        begins = _FROM.match(instruction)
        if begins:
            name = begins.group(2) or str(len(stages))
            stages[name] = Stage(name, begins.group(1), (instruction,), (), ())
            continue
        if not stages:
            continue
        name, stage = next(reversed(stages.items()))
        sources, origins = stage.sources, stage.stages
        word = instruction.split(maxsplit=1)[0].upper()
        if word == "ADD":
            raise ValueError(f"{instruction!r}: use COPY, whose inputs can be told")
        if word == "COPY":
            paths, origin = _copied(instruction)
            sources, origins = (sources, (*origins, origin)) if origin else ((*sources, *paths), origins)
        stages[name] = Stage(name, stage.parent, (*stage.instructions, instruction), sources, origins)
    return stages


def closure(stages: Mapping[str, Stage], target: str) -> list[Stage]:
    """The stages that `target` is built from, itself among them, in the Dockerfile's order."""
    if target not in stages:
        raise ValueError(f"no stage {target!r}; there are {', '.join(stages)}")
    needed: set[str] = set()
    waiting = [target]
    while waiting:
        name = waiting.pop()
        if name in stages and name not in needed:
            needed.add(name)
            waiting += [stages[name].parent, *stages[name].stages]
    return [stage for name, stage in stages.items() if name in needed]


def last_stage(stages: Mapping[str, Stage]) -> str:
    return list(stages)[-1]


def is_input(path: PurePath) -> bool:
    return path.suffix != ".pyc" and not any(part in _LEFT_OUT for part in path.parts)


def files_of(root: Path, sources: tuple[str, ...]) -> dict[str, bytes]:
    """The content of each file under `sources`, by its path below `root`. An executable file's path ends in `*`, since
    its mode is in the image too. Raises FileNotFoundError for a source that is not there."""
    found: dict[str, bytes] = {}
    for source in sources:
        start = root / source
        for path in sorted(start.rglob("*")) if start.is_dir() else [start]:
            relative = PurePosixPath(path.relative_to(root).as_posix())
            if path.is_dir() or not is_input(relative):
                continue
            found[f"{relative}{'*' if path.stat().st_mode & 0o100 else ''}"] = path.read_bytes()
    return found


def fingerprint(*parts: bytes) -> str:
    """A tag that follows from `parts`, in their order."""
    digest = hashlib.sha256()
    for part in parts:  # lengths keep apart what would read the same joined
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:TAG_LENGTH]


def tag(stages: list[Stage], files: Mapping[str, bytes], arguments: Mapping[str, str]) -> str:
    """The tag of what is built from `stages`, `files` and build `arguments`."""
    parts = [part.encode() for stage in stages for part in ("stage", *stage.instructions)]
    for path, content in sorted(files.items()):
        parts += [b"file", path.encode(), content]
    for name, value in sorted(arguments.items()):
        parts += [b"argument", name.encode(), value.encode()]
    return fingerprint(*parts)


def joined(stages: Mapping[str, Stage], folder: str) -> tuple[str, tuple[str, ...]]:
    """What the last stage puts together: the stage that it is built on, and the stages whose `folder` it copies, each
    of which is one layer. Raises ValueError where it does anything else."""
    last = stages[last_stage(stages)]
    expected = tuple(f"COPY --from={stage} {folder} {folder}" for stage in last.stages)
    if last.instructions[1:] != expected:
        raise ValueError(f"the last stage may only copy {folder} from other stages: {last.instructions[1:]}")
    return last.parent, last.stages


def stage_inputs(root: Path, dockerfile: str, target: str = "") -> tuple[list[Stage], dict[str, bytes]]:
    """What stage `target` ("" for the last) of the Dockerfile at `root/dockerfile` is built from: stages, and files."""
    stages = parse((root / dockerfile).read_text())
    needed = closure(stages, target or last_stage(stages))
    return needed, files_of(root, tuple(source for stage in needed for source in stage.sources))
