"""The commands of the documents are run as they stand there: a command that no longer works fails here."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
DOCS = list((PROJECT / "docs").glob("*.md"))
# They are what CI and a newcomer run; from inside a test they would call themselves.
RUN_BY_CI = {"make demo", "make test", "make unit", "make lint"}


def commands(document: str) -> str:
    blocks = re.findall(r"^```bash\n(.*?)^```", (PROJECT / document).read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line and line not in RUN_BY_CI]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """A cluster for the documents' commands."""
    chosen = {**os.environ, "NAME": "e2e-docs"}
    subprocess.run(["make", "up"], cwd=PROJECT, env=chosen, capture_output=True, check=True)
    yield chosen
    subprocess.run(["make", "down"], cwd=PROJECT, env=chosen, capture_output=True, check=True)


@pytest.mark.skipif(bool(os.environ.get("CONTEXT")), reason="the documents' commands are of the devcluster")
@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/images.md", "docs/devcluster.md"])
def test_each_command_of_a_document_works(document: str, environment: dict[str, str]) -> None:
    script = commands(document)
    assert script
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{doc.name}" for doc in DOCS)])
def test_each_link_of_a_document_leads_somewhere(document: str) -> None:
    path = PROJECT / document
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        assert "://" in target or (path.parent / target).exists(), target
