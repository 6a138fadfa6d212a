"""How long a pod may take between SIGTERM and SIGKILL: time for its last checkpoint. Pure.

What a checkpoint takes is not known before one was written, and a pod's grace period cannot be changed; so it is an
attempt's measure that the next one's pods are made from.
"""

from __future__ import annotations

import math

from modelwright.api.training_job import TrainingJob
from modelwright.controllers.podspec import template_overlay

DEFAULT_SECONDS = 60
_LONGEST_SECONDS = 3600
# What the program is ahead of the pod, to have ended by itself.
_AHEAD_SECONDS = 10
# A checkpoint may be on its way when the stop comes, and the last one waits for it; a store that all trainings of a
# node write to at once, as when it is drained, is slower than it was for one.
_SAVES, _SLOWER = 2, 2


def pod_seconds(job: TrainingJob) -> int:
    """The pods' termination grace period: the pod template's, where it says one, else as long as the checkpoints that
    were measured need, and not less than the default."""
    stated = template_overlay(job.spec.workers.pod_template).get("spec", {}).get("terminationGracePeriodSeconds")
    if isinstance(stated, int):
        return stated
    progress = job.status.progress
    if progress is None or progress.checkpoint_seconds is None:
        return DEFAULT_SECONDS
    needed = _SAVES * _SLOWER * float(progress.checkpoint_seconds) + _AHEAD_SECONDS
    return min(_LONGEST_SECONDS, max(DEFAULT_SECONDS, math.ceil(needed)))


def program_seconds(job: TrainingJob) -> float:
    """What the program in the pod has of it."""
    return max(1.0, float(pod_seconds(job) - _AHEAD_SECONDS))
