"""What every tier shares."""

from __future__ import annotations

import pytest

from devcluster.progress import Steps


@pytest.fixture(scope="session")
def steps() -> Steps:
    return Steps()
