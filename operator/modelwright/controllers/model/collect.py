"""The Job that looks through a model's folders in the store. It runs in the user's namespace with the user's own
credentials: the operator reads no store."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
from collections.abc import Iterable, Sequence

from modelwright import collection
from modelwright.api.model import Model
from modelwright.api.model_retention import Retention, RetiredVersion
from modelwright.api.types import seconds, to_the_second
from modelwright.controllers.podspec import container, job, pod, reach, short_hash
from modelwright.controllers.podstate import JobState, annotation_of, job_state, label_of, pod_state
from modelwright.kube.resources import Object
from modelwright.settings import Settings

COLLECTION_LABEL = "modelwright.dev/collection-of"
RETIRED_ANNOTATION = "modelwright.dev/retired"
_DEADLINE_SECONDS = 3600


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CollectView(JobState):
    """Such a Job. `retired` are digests of the manifests that it removes."""

    model: str
    retired: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class CollectPodView:
    """A pod of such a Job, and what it left."""

    model: str
    message: str


def collect_view(obj: Object) -> CollectView:
    return CollectView(
        model=label_of(obj, COLLECTION_LABEL),
        retired=tuple(annotation_of(obj, RETIRED_ANNOTATION).split()),
        **dataclasses.asdict(job_state(obj)),
    )


def collect_pod_view(obj: Object) -> CollectPodView:
    return CollectPodView(label_of(obj, COLLECTION_LABEL), pod_state(obj).message)


def job_name(model: Model, last: datetime.datetime | None, gone: Iterable[RetiredVersion]) -> str:
    """The same for the same state of things, so that a Job that was made is not made again."""
    state = json.dumps([to_the_second(last) if last else None, sorted(one.digest for one in gone)])
    made = hashlib.sha256(state.encode()).hexdigest()[:8]
    return f"{model.metadata.name}-{short_hash(model.metadata.uid)}-collect-{made}"


def collect_job(
    model: Model,
    retention: Retention,
    folders: Sequence[str],
    gone: Sequence[RetiredVersion],
    settings: Settings,
    owner: Object,
    *,
    work: bool,
) -> Object:
    """`gone` are the versions whose artifacts are to go."""
    reached = reach(retention.storage, settings)
    run = collection.CollectRun(
        folders=tuple(folders),
        store=reached.access(folders[0]),
        retired=tuple(collection.Retired(uri=one.uri, digest=one.digest) for one in gone),
        min_age_seconds=seconds(retention.min_age),
        work=work,
    )
    labels = {"app.kubernetes.io/managed-by": "modelwright", COLLECTION_LABEL: model.metadata.name}
    variables = {collection.COLLECT_VARIABLE: run.to_json()}
    collects = container("collect", settings.server_image, collection.COLLECT, variables, reached.secret)
    last = model.status.retention.collected_at if model.status.retention else None
    return job(
        job_name(model, last, gone),
        model.metadata.namespace,
        labels,
        owner,
        {"metadata": {"labels": labels}, "spec": pod(collects)},
        annotations={RETIRED_ANNOTATION: " ".join(one.digest for one in gone)},
        backoffLimit=2,
        activeDeadlineSeconds=_DEADLINE_SECONDS,
    )
