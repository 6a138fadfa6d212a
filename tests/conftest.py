"""What every tier shares."""

from __future__ import annotations

import hypothesis
import pytest

from devcluster.progress import Steps

# How long an example takes is the machine's affair, and it is shared.
hypothesis.settings.register_profile("shared-machine", deadline=None)
hypothesis.settings.load_profile("shared-machine")


@pytest.fixture(scope="session")
def steps() -> Steps:
    return Steps()
