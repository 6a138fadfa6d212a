"""How long an attempt's pods may take for their last checkpoint: what the attempts before measured."""

from __future__ import annotations

from typing import Any

import pytest
from modelwright.api.training_job import TrainingJob, TrainingProgress
from modelwright.contract import Progress
from modelwright.controllers.trainingjob import children, resolve
from modelwright.controllers.trainingjob.status import progress_status

from tests.unit.test_trainingjob_resolve import SETTINGS, job

LONGER = {"podTemplate": {"spec": {"terminationGracePeriodSeconds": 300}}}


def measured(seconds: float | None, **spec: Any) -> TrainingJob:
    progress = progress_status(Progress(checkpoint_seconds=seconds, checkpoint_bytes=10**9))
    made = job(**spec)
    return made.model_copy(update={"status": made.status.model_copy(update={"progress": progress})})


def periods(asked: TrainingJob) -> tuple[int, float]:
    """The pod's, and what the program in it is told."""
    blueprint = resolve.blueprint(asked, SETTINGS, attempt=2, owner={"uid": "uid"})
    _, _, made = children.children(blueprint)
    return made["spec"]["template"]["spec"]["terminationGracePeriodSeconds"], blueprint.run.grace_seconds


@pytest.mark.parametrize(
    ("asked", "pod", "program"),
    [
        (job(), 60, 50),
        (measured(0.5), 60, 50),
        (measured(45.2), 191, 181),
        (measured(9999.0), 3600, 3590),
        (job(workers=LONGER), 300, 290),
        (measured(45.2, workers=LONGER), 300, 290),
    ],
    ids=["nothing measured", "small ones", "large ones", "without bound", "asked for", "asked for beside large ones"],
)
def test_the_next_attempt_s_pods_have_time_for_two_checkpoints(asked: TrainingJob, pod: int, program: float) -> None:
    assert periods(asked) == (pod, program)


def test_an_attempt_that_wrote_none_yet_leaves_what_was_measured_before() -> None:
    before = progress_status(Progress(checkpoint_bytes=10, checkpoint_seconds=1.5))
    after = progress_status(Progress(step=3), before)
    assert (after.step, after.checkpoint_bytes, after.checkpoint_seconds) == (3, 10, "1.5")
    assert progress_status(Progress(checkpoint_bytes=20, checkpoint_seconds=2.5), before).checkpoint_seconds == "2.5"
    assert progress_status(Progress(), None) == progress_status(Progress(), TrainingProgress())
