"""What a plan sees of an InferenceService's children: small frozen records, made where the objects come in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

from modelwright.kube.resources import Object, controller_uid_of
from modelwright.serving import ServingFailure

SERVICE_LABEL = "modelwright.dev/inferenceservice"
REVISION_LABEL = "modelwright.dev/revision"
ROLE_LABEL = "modelwright.dev/role"
SERVER = "server"
ANALYSIS = "analysis"
SLICE_LABEL = "kubernetes.io/service-name"

_WAITS = frozenset(
    {
        "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError",
        "CreateContainerError", "RunContainerError",
    }
)  # fmt: skip


class View(Protocol):
    """A child of an InferenceService: `service` is the name of that."""

    @property
    def service(self) -> str: ...


@dataclasses.dataclass(frozen=True, slots=True)
class DeploymentView:
    """A revision's pods. `available` have been ready for minReadySeconds; `refused` is why the API server does not let
    a pod be made (a quota, an admission), in its words."""

    name: str
    uid: str
    service: str
    revision: str
    replicas: int
    ready: int
    available: int
    refused: str
    deleting: bool
    resource_version: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass(frozen=True, slots=True)
class PodView:
    """A pod of a revision, or of an analysis Job. `waits` is why its container does not start, in Kubernetes' words;
    `failure` is what its container said when it last ended, and `exit_code` and `exit_reason` how."""

    namespace: str
    name: str
    service: str
    revision: str
    role: str
    job_uid: str
    phase: str
    ip: str
    ready: bool
    restarts: int
    unschedulable: str
    waits_reason: str
    waits: str
    exit_code: int | None
    exit_reason: str
    message: str
    deleting: bool

    @property
    def failure(self) -> ServingFailure | None:
        return ServingFailure.from_message(self.message) if self.message else None


@dataclasses.dataclass(frozen=True, slots=True)
class ServiceView:
    """A Service: `revision` is the one that its selector selects."""

    name: str
    uid: str
    service: str
    revision: str
    deleting: bool
    resource_version: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass(frozen=True, slots=True)
class SliceView:
    """An EndpointSlice of the Service `owner`: its endpoints' pods, and whether each is ready."""

    namespace: str
    service: str
    owner: str
    endpoints: tuple[tuple[str, bool], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class JobView:
    """An analysis Job. `ended` is "Complete", "Failed" or empty; `message` is of its failure."""

    name: str
    uid: str
    service: str
    revision: str
    ended: str
    message: str
    deleting: bool


def _labels(obj: Object) -> Mapping[str, str]:
    return obj["metadata"].get("labels") or {}


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    found = (one for one in status.get("conditions") or () if one["type"] == kind and one["status"] == "True")
    return next(found, {})


def deployment_view(obj: Object) -> DeploymentView:
    metadata, status, labels = obj["metadata"], obj.get("status") or {}, _labels(obj)
    # Counts of an earlier generation say nothing of the replicas that are asked for now.
    current = status.get("observedGeneration", 0) >= metadata.get("generation", 0)
    return DeploymentView(
        name=metadata["name"],
        uid=metadata["uid"],
        service=labels.get(SERVICE_LABEL, ""),
        revision=labels.get(REVISION_LABEL, ""),
        replicas=int(obj["spec"].get("replicas", 1)),
        ready=int(status.get("readyReplicas", 0)) if current else 0,
        available=int(status.get("availableReplicas", 0)) if current else 0,
        refused=str(_condition(status, "ReplicaFailure").get("message", "")),
        deleting=bool(metadata.get("deletionTimestamp")),
        resource_version=metadata["resourceVersion"],
    )


def pod_view(obj: Object) -> PodView:
    metadata, status, labels = obj["metadata"], obj.get("status") or {}, _labels(obj)
    waiting: Mapping[str, Any] = {}
    terminated: Mapping[str, Any] = {}
    restarts = 0
    for container in status.get("containerStatuses") or ():
        state, last = container.get("state") or {}, container.get("lastState") or {}
        waiting = state.get("waiting") or waiting
        terminated = state.get("terminated") or last.get("terminated") or terminated
        restarts += int(container.get("restartCount", 0))
    reason = str(waiting.get("reason", ""))
    unschedulable = ""
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            unschedulable = str(condition.get("message", condition.get("reason", "")))
    return PodView(
        namespace=metadata["namespace"],
        name=metadata["name"],
        service=labels.get(SERVICE_LABEL, ""),
        revision=labels.get(REVISION_LABEL, ""),
        role=labels.get(ROLE_LABEL, ""),
        job_uid=controller_uid_of(obj) or "",
        phase=str(status.get("phase", "Pending")),
        ip=str(status.get("podIP", "")),
        ready=bool(_condition(status, "Ready")),
        restarts=restarts,
        unschedulable=unschedulable,
        waits_reason=reason if reason in _WAITS else "",
        waits=str(waiting.get("message", "")) if reason in _WAITS else "",
        exit_code=int(terminated["exitCode"]) if terminated else None,
        exit_reason=str(terminated.get("reason", "")),
        message=str(terminated.get("message", "")),
        deleting=bool(metadata.get("deletionTimestamp")),
    )


def service_view(obj: Object) -> ServiceView:
    metadata = obj["metadata"]
    return ServiceView(
        name=metadata["name"],
        uid=metadata["uid"],
        service=_labels(obj).get(SERVICE_LABEL, ""),
        revision=(obj["spec"].get("selector") or {}).get(REVISION_LABEL, ""),
        deleting=bool(metadata.get("deletionTimestamp")),
        resource_version=metadata["resourceVersion"],
    )


def slice_view(obj: Object) -> SliceView:
    labels = _labels(obj)
    endpoints = []
    for endpoint in obj.get("endpoints") or ():
        reference = endpoint.get("targetRef") or {}
        # Unknown counts as ready (discovery.k8s.io/v1).
        ready = (endpoint.get("conditions") or {}).get("ready")
        endpoints.append((str(reference.get("name", "")), ready is not False))
    return SliceView(
        namespace=obj["metadata"]["namespace"],
        service=labels.get(SERVICE_LABEL, ""),
        owner=labels.get(SLICE_LABEL, ""),
        endpoints=tuple(sorted(endpoints)),
    )


def job_view(obj: Object) -> JobView:
    metadata, status, labels = obj["metadata"], obj.get("status") or {}, _labels(obj)
    failed, complete = _condition(status, "Failed"), _condition(status, "Complete")
    return JobView(
        name=metadata["name"],
        uid=metadata["uid"],
        service=labels.get(SERVICE_LABEL, ""),
        revision=labels.get(REVISION_LABEL, ""),
        ended="Complete" if complete else "Failed" if failed else "",
        message=str(failed.get("message", "")),
        deleting=bool(metadata.get("deletionTimestamp")),
    )
