"""What the plan of a derived version sees of its Jobs and their pods."""

from __future__ import annotations

import dataclasses

from modelwright.controllers.podstate import PodState, job_end, pod_state
from modelwright.kube.resources import Object

DERIVED_LABEL = "modelwright.dev/derived-version"
STAGE_ANNOTATION = "modelwright.dev/stage"


@dataclasses.dataclass(frozen=True, slots=True)
class StageJobView:
    """The Job of a stage, counted from 0. `ended` is "Complete", "Failed" or empty, `message` of its failure."""

    name: str
    uid: str
    version: str
    stage: int
    ended: str
    message: str
    deleting: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StagePodView(PodState):
    """A pod of such a Job."""

    name: str
    version: str


def stage_job_view(obj: Object) -> StageJobView:
    metadata = obj["metadata"]
    ended, message = job_end(obj)
    return StageJobView(
        name=metadata["name"],
        uid=metadata["uid"],
        version=(metadata.get("labels") or {}).get(DERIVED_LABEL, ""),
        stage=int((metadata.get("annotations") or {}).get(STAGE_ANNOTATION, "0")),
        ended=ended,
        message=message,
        deleting=bool(metadata.get("deletionTimestamp")),
    )


def stage_pod_view(obj: Object) -> StagePodView:
    metadata = obj["metadata"]
    return StagePodView(
        name=metadata["name"],
        version=(metadata.get("labels") or {}).get(DERIVED_LABEL, ""),
        **dataclasses.asdict(pod_state(obj)),
    )
