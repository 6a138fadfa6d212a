"""`python -m modelwright.crdgen [--check]`, in the repository: writes crds/ and docs/reference/, or checks them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from modelwright.api.kinds import KINDS
from modelwright.crdgen import crd, reference

FOLDERS = ("crds", "docs/reference")


def generated() -> dict[str, str]:
    """Every file that is generated, by its path in the repository."""
    files = {f"crds/{kind.names.plural}.yaml": crd.to_yaml(kind) for kind in KINDS}
    files |= {f"docs/reference/{kind.kind_name().lower()}.md": reference.page(kind) for kind in KINDS}
    files["docs/reference/recipes.md"] = reference.recipes_page()
    return files


def drift(root: Path) -> list[str]:
    """What differs under `root` from what the models say, one line for each file."""
    files = generated()
    found = []
    for path, content in files.items():
        there = root / path
        if not there.exists():
            found.append(f"{path}: missing")
        elif there.read_text() != content:
            found.append(f"{path}: differs from operator/modelwright/api")
    for folder in FOLDERS:
        stray = {str(one.relative_to(root)) for one in (root / folder).glob("*") if one.is_file()} - files.keys()
        found += [f"{path}: is generated from nothing; remove it" for path in sorted(stray)]
    return found


def write(root: Path) -> None:
    for path, content in generated().items():
        there = root / path
        there.parent.mkdir(parents=True, exist_ok=True)
        if not there.exists() or there.read_text() != content:
            there.write_text(content)
            print(f"wrote {path}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="modelwright.crdgen", description="Write crds/ and docs/reference/ from the API's models."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file differs, naming it")
    parser.add_argument("--root", type=Path, default=Path(), help="the repository; default: the current folder")
    chosen = parser.parse_args(arguments)
    if not chosen.check:
        write(chosen.root)
    found = drift(chosen.root)
    for line in found:
        print(line, file=sys.stderr)
    if found and chosen.check:
        print("run: python -m modelwright.crdgen", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
