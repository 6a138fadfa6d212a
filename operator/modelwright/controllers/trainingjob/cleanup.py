"""When what a training was made of is deleted, and how: its result, and its status, stay as they are."""

from __future__ import annotations

import datetime

from modelwright.api.training_job import TrainingJob
from modelwright.api.types import seconds
from modelwright.controllers.trainingjob.observed import NAME_LABEL
from modelwright.kube.client import Client
from modelwright.kube.resources import CONFIGMAPS, JOBS, SERVICES, controller_uid_of

# The Jobs first, whose pods need the others until they have ended.
_KINDS = (JOBS, SERVICES, CONFIGMAPS)


def due(job: TrainingJob, now: datetime.datetime) -> float | None:
    """In how many seconds a training that has ended is cleaned up, 0 for now; None for never (again)."""
    policy, status = job.spec.cleanup, job.status
    if policy is None or status.cleanup_time is not None or status.completion_time is None or status.attempt is None:
        return None
    return max(0.0, seconds(policy.after) - (now - status.completion_time).total_seconds())


async def delete_children(client: Client, job: TrainingJob) -> None:
    """All that its attempts were made of, as the API server knows it; what is gone already is none the worse."""
    metadata = job.metadata
    for resource in _KINDS:
        for child in await client.list(resource, metadata.namespace, selector={NAME_LABEL: metadata.name}):
            if controller_uid_of(child) == metadata.uid:
                there = child["metadata"]
                await client.delete(resource, there["name"], metadata.namespace, uid=there["uid"])
