"""What the plan of a derived version sees of its Jobs and their pods."""

from __future__ import annotations

import dataclasses

from modelwright.controllers.podstate import JobState, PodState, annotation_of, job_state, label_of, pod_state
from modelwright.kube.resources import Object

DERIVED_LABEL = "modelwright.dev/derived-version"
STAGE_ANNOTATION = "modelwright.dev/stage"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StageJobView(JobState):
    """The Job of a stage, counted from 0."""

    version: str
    stage: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StagePodView(PodState):
    """A pod of such a Job."""

    name: str
    version: str


def stage_job_view(obj: Object) -> StageJobView:
    return StageJobView(
        version=label_of(obj, DERIVED_LABEL),
        stage=int(annotation_of(obj, STAGE_ANNOTATION) or "0"),
        **dataclasses.asdict(job_state(obj)),
    )


def stage_pod_view(obj: Object) -> StagePodView:
    return StagePodView(
        name=obj["metadata"]["name"], version=label_of(obj, DERIVED_LABEL), **dataclasses.asdict(pod_state(obj))
    )
