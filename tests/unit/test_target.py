"""Which cluster the commands use, from the environment alone."""

from __future__ import annotations

import pytest

from dev.demo import _told
from dev.target import resolve
from devcluster.progress import StepFailed, Steps


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"REGISTRY": "r:5000"}, "REGISTRY is set, but not CONTEXT"),
        ({"CONTEXT": "mine"}, "CONTEXT=mine is set, but not REGISTRY"),
    ],
)
def test_half_a_choice_is_refused(environment: dict[str, str], words: str) -> None:
    with pytest.raises(StepFailed) as failure:
        resolve(Steps(quiet=True), environment)
    assert words in failure.value.reason
    assert failure.value.remedy


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ({"phase": "Running"}, "Running"),
        (
            {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull"}}}]},
            "ErrImagePull",
        ),
        (
            {
                "phase": "Pending",
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "message": "0/1 nodes are available: 1 Insufficient cpu.",
                    }
                ],
            },
            "0/1 nodes are available: 1 Insufficient cpu.",
        ),
    ],
)
def test_a_pod_s_state_is_told_in_kubernetes_words(status: dict[str, object], told: str) -> None:
    assert _told({"status": status}) == told
