"""What a plan sees of a Dataset's Job and its pods; and what the other kinds' plans see of a Dataset."""

from __future__ import annotations

import dataclasses

from modelwright.controllers.podstate import JobState, PodState, annotation_of, job_state, label_of, pod_state
from modelwright.kube.resources import Object

DATASET_LABEL = "modelwright.dev/dataset"
HASH_ANNOTATION = "modelwright.dev/run-hash"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobView(JobState):
    """The Job of a run."""

    dataset: str
    run_hash: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PodView(PodState):
    """A pod of such a Job."""

    name: str
    dataset: str


def job_view(obj: Object) -> JobView:
    return JobView(
        dataset=label_of(obj, DATASET_LABEL),
        run_hash=annotation_of(obj, HASH_ANNOTATION),
        **dataclasses.asdict(job_state(obj)),
    )


def pod_view(obj: Object) -> PodView:
    return PodView(
        name=obj["metadata"]["name"], dataset=label_of(obj, DATASET_LABEL), **dataclasses.asdict(pod_state(obj))
    )
