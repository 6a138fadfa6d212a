"""What a plan sees of a Dataset's Job and its pods; and what the other kinds' plans see of a Dataset."""

from __future__ import annotations

import dataclasses

from modelwright.controllers.podstate import PodState, job_end, pod_state
from modelwright.kube.resources import Object

DATASET_LABEL = "modelwright.dev/dataset"
HASH_ANNOTATION = "modelwright.dev/run-hash"


@dataclasses.dataclass(frozen=True, slots=True)
class JobView:
    """The Job of a run. `ended` is "Complete", "Failed" or empty, `message` of its failure."""

    name: str
    uid: str
    dataset: str
    run_hash: str
    ended: str
    message: str
    deleting: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PodView(PodState):
    """A pod of such a Job."""

    name: str
    dataset: str


def job_view(obj: Object) -> JobView:
    metadata = obj["metadata"]
    ended, message = job_end(obj)
    return JobView(
        name=metadata["name"],
        uid=metadata["uid"],
        dataset=(metadata.get("labels") or {}).get(DATASET_LABEL, ""),
        run_hash=(metadata.get("annotations") or {}).get(HASH_ANNOTATION, ""),
        ended=ended,
        message=message,
        deleting=bool(metadata.get("deletionTimestamp")),
    )


def pod_view(obj: Object) -> PodView:
    metadata = obj["metadata"]
    return PodView(
        name=metadata["name"],
        dataset=(metadata.get("labels") or {}).get(DATASET_LABEL, ""),
        **dataclasses.asdict(pod_state(obj)),
    )
