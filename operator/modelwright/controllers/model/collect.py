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
from modelwright.api.storage import StoreReach
from modelwright.api.types import seconds, to_the_second
from modelwright.contract import StoreAccess
from modelwright.controllers.podspec import container_security, pod_security, store_bucket, without_credentials
from modelwright.kube.resources import Object
from modelwright.settings import Settings

COLLECTION_LABEL = "modelwright.dev/collection-of"
RETIRED_ANNOTATION = "modelwright.dev/retired"
_DEADLINE_SECONDS = 3600


@dataclasses.dataclass(frozen=True, slots=True)
class CollectView:
    """Such a Job. `retired` are digests of the manifests that it removes; `ended` is "Complete", "Failed" or empty,
    `message` of its failure."""

    name: str
    uid: str
    model: str
    retired: tuple[str, ...]
    ended: str
    message: str
    deleting: bool


@dataclasses.dataclass(frozen=True, slots=True)
class CollectPodView:
    """A pod of such a Job, and what it left."""

    model: str
    message: str


def collect_view(obj: Object) -> CollectView:
    metadata, status = obj["metadata"], obj.get("status") or {}
    held = {one["type"]: one for one in status.get("conditions") or () if one["status"] == "True"}
    return CollectView(
        name=metadata["name"],
        uid=metadata["uid"],
        model=(metadata.get("labels") or {}).get(COLLECTION_LABEL, ""),
        retired=tuple((metadata.get("annotations") or {}).get(RETIRED_ANNOTATION, "").split()),
        ended="Complete" if "Complete" in held else "Failed" if "Failed" in held else "",
        message=str(held.get("Failed", {}).get("message", "")),
        deleting=bool(metadata.get("deletionTimestamp")),
    )


def collect_pod_view(obj: Object) -> CollectPodView:
    message = ""
    for container in (obj.get("status") or {}).get("containerStatuses") or ():
        message = str(((container.get("state") or {}).get("terminated") or {}).get("message", "")) or message
    return CollectPodView((obj["metadata"].get("labels") or {}).get(COLLECTION_LABEL, ""), message)


def job_name(model: Model, last: datetime.datetime | None, gone: Iterable[RetiredVersion]) -> str:
    """The same for the same state of things, so that a Job that was made is not made again."""
    uid = hashlib.sha256(model.metadata.uid.encode()).hexdigest()[:5]
    state = json.dumps([to_the_second(last) if last else None, sorted(one.digest for one in gone)])
    return f"{model.metadata.name}-{uid}-collect-{hashlib.sha256(state.encode()).hexdigest()[:8]}"


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
    stated, defaults = retention.storage or StoreReach(), settings.storage
    secret = stated.secret_ref.name if stated.secret_ref else defaults.secret
    run = collection.CollectRun(
        folders=tuple(folders),
        store=StoreAccess(
            uri=store_bucket(folders[0]),
            endpoint=stated.endpoint or defaults.endpoint or None,
            region=stated.region or defaults.region or None,
        ),
        retired=tuple(collection.Retired(uri=one.uri, digest=one.digest) for one in gone),
        min_age_seconds=seconds(retention.min_age),
        work=work,
    )
    labels = {"app.kubernetes.io/managed-by": "modelwright", COLLECTION_LABEL: model.metadata.name}
    container = {
        "name": "collect",
        "image": settings.server_image,
        "args": list(collection.COLLECT),
        "env": [{"name": collection.COLLECT_VARIABLE, "value": run.to_json()}],
        "envFrom": [{"secretRef": {"name": secret}}] if secret else [],
        "terminationMessagePolicy": "File",
        "securityContext": container_security(),
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],  # noqa: S108 - the container's own
    }
    pod = {
        "restartPolicy": "Never",
        "securityContext": pod_security(),
        "containers": [container],
        "volumes": [{"name": "scratch", "emptyDir": {}}],
    }
    last = model.status.retention.collected_at if model.status.retention else None
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(model, last, gone),
            "namespace": model.metadata.namespace,
            "labels": labels,
            "annotations": {RETIRED_ANNOTATION: " ".join(one.digest for one in gone)},
            "ownerReferences": [dict(owner)],
        },
        "spec": {
            "backoffLimit": 2,
            "activeDeadlineSeconds": _DEADLINE_SECONDS,
            "template": {"metadata": {"labels": labels}, "spec": without_credentials(pod)},
        },
    }
