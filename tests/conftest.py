"""What every tier shares."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest

from devcluster.progress import Steps

# How long an example takes is the machine's affair, and it is shared.
hypothesis.settings.register_profile("shared-machine", deadline=None)
hypothesis.settings.load_profile("shared-machine")


# Folders of tests that share a cluster, or whatever else is there once in a session: one process runs all of each, the
# longest first. What stands in none of them goes wherever there is room.
_TOGETHER = ("tests/e2e", "tests/e2e/devcluster", "tests/e2e/crash", "tests/cluster", "tests/server")


def _together(path: Path) -> str:
    inside = path.relative_to(Path(__file__).parent.parent)
    return max((one for one in _TOGETHER if inside.is_relative_to(one)), key=len, default="")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("numprocesses", None):
        return
    for item in items:
        if group := _together(item.path):
            item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: _TOGETHER.index(group) if (group := _together(item.path)) in _TOGETHER else 99)


@pytest.fixture(scope="session")
def steps() -> Steps:
    return Steps()
