"""The children of an InferenceService: a Deployment for each revision, two Services, the analysis Job.

A revision's Deployment is made once, from what status has pinned, and never written again but for its replicas: a newer
operator, whose template may differ, rolls nobody.
"""

from __future__ import annotations

import hashlib
import json

from modelwright import serving
from modelwright.api.inference_service import InferenceService, Revision
from modelwright.api.types import seconds
from modelwright.controllers import podspec
from modelwright.controllers.inferenceservice.observed import (
    ANALYSIS,
    REVISION_LABEL,
    ROLE_LABEL,
    SERVER,
    SERVICE_LABEL,
)
from modelwright.controllers.podspec import Reach, overlaid, without_credentials
from modelwright.kube.resources import Object

TEMPLATE = 2
"""Which form of the pod template this operator makes. Raised with each change of it."""
CONTAINER = "server"
NOBODY = "none"
"""The revision that a Service selects before there is one."""
_PORT = 80
# The proxies of all nodes have heard by then that the pod is no endpoint any more.
_PRE_STOP_SECONDS = 5
_LAME_DUCK_SECONDS = 2
# What the kubelet and the process need beyond what is waited for.
_SLACK_SECONDS = 5
_ANALYSIS_SECONDS = 300
# How long a switch of the Service may go unnoticed by a client of gRPC; more often, reconnecting would be felt.
_GRPC_CONNECTION_SECONDS = 10.0
_PLACING = ("nodeSelector", "tolerations", "affinity", "imagePullSecrets", "priorityClassName", "volumes")


def revision_name(service: InferenceService, version_digest: str, uri: str) -> str:
    """`digits-4f0c2a91`: a hash of what the user asked of the pods, of the version's digest, and of whose they are, so
    that a service that is deleted and made again meets nothing of the one before it."""
    spec = service.spec
    asked = {
        "uid": service.metadata.uid,
        "digest": version_digest,
        "uri": uri,
        "storage": spec.storage.to_object() if spec.storage else None,
        "resources": spec.resources.to_object() if spec.resources else None,
        "podTemplate": spec.pod_template.to_object() if spec.pod_template else None,
    }
    return f"{service.metadata.name}-{hashed(asked)[:8]}"


def hashed(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def active_service_name(service: str) -> str:
    return service


def preview_service_name(service: str) -> str:
    return f"{service}-preview"


def url(service: str, namespace: str) -> str:
    return f"http://{service}.{namespace}.svc"


def analysis_name(revision: str) -> str:
    return f"{revision}-analysis"


def _labels(service: InferenceService, revision: str = "", role: str = "") -> dict[str, str]:
    return {
        "app.kubernetes.io/managed-by": "modelwright",
        SERVICE_LABEL: service.metadata.name,
        **({REVISION_LABEL: revision} if revision else {}),
        **({ROLE_LABEL: role} if role else {}),
    }


def pod_selector(service: str, revision: str) -> dict[str, str]:
    """The labels of a revision's serving pods."""
    return {SERVICE_LABEL: service, REVISION_LABEL: revision, ROLE_LABEL: SERVER}


def selector_text(service: str, revision: str) -> str:
    return ",".join(f"{key}={value}" for key, value in pod_selector(service, revision).items())


def service_object(service: InferenceService, name: str, revision: str, owner: Object) -> Object:
    """The Service `name` that sends requests to the revision's pods."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": service.metadata.namespace,
            "labels": _labels(service),
            "ownerReferences": [dict(owner)],
        },
        "spec": {
            "selector": pod_selector(service.metadata.name, revision or NOBODY),
            # Pods of before there was gRPC have no such port, and are endpoints of the other alone.
            "ports": [
                {"name": "http", "port": _PORT, "targetPort": "http", "appProtocol": "http"},
                {
                    "name": "grpc", "port": serving.GRPC_PORT, "targetPort": "grpc",
                    "appProtocol": "kubernetes.io/h2c",
                },
            ],
        },
    }  # fmt: skip


def deployment(service: InferenceService, revision: Revision, replicas: int, reach: Reach, owner: Object) -> Object:
    """The Deployment of a revision."""
    labels = _labels(service, revision.name, SERVER)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": revision.name,
            "namespace": service.metadata.namespace,
            "labels": _labels(service, revision.name),
            "ownerReferences": [dict(owner)],
        },
        "spec": {
            "replicas": replicas,
            "minReadySeconds": service.spec.rollout.min_ready_seconds,
            "revisionHistoryLimit": 1,
            "selector": {"matchLabels": pod_selector(service.metadata.name, revision.name)},
            "template": {"metadata": {"labels": labels}, "spec": _pod_spec(service, revision, reach)},
        },
    }


def _pod_spec(service: InferenceService, revision: Revision, reach: Reach) -> Object:
    spec = service.spec
    drain_seconds = seconds(spec.rollout.drain_timeout)
    run = serving.ServingRun(
        namespace=service.metadata.namespace,
        service=service.metadata.name,
        revision=revision.name,
        model=spec.model.name,
        version=revision.version,
        variant=revision.variant,
        manifest_uri=revision.uri,
        digest=revision.digest,
        store=reach.access(revision.uri),
        lame_duck_seconds=_LAME_DUCK_SECONDS,
        grace_seconds=(grace := max(1.0, drain_seconds)),
        # An age is up to a tenth longer than what is said.
        grpc_connection_age_seconds=min(_GRPC_CONNECTION_SECONDS, grace * 0.8),
    )
    variables = {serving.SERVING_VARIABLE: run.to_json()}
    container = {
        **podspec.container(CONTAINER, revision.image, serving.SERVE, variables, reach.secret),
        "ports": [
            {"name": "http", "containerPort": serving.PORT},
            {"name": "grpc", "containerPort": serving.GRPC_PORT},
            {"name": "admin", "containerPort": serving.ADMIN_PORT},
        ],
        "resources": spec.resources.to_object() if spec.resources else {},
        "readinessProbe": {
            "httpGet": {"path": serving.READY_PATH, "port": "http"}, "periodSeconds": 1, "timeoutSeconds": 2,
        },
        # Generous: a server that works hard answers late, and is not to be killed for it.
        "livenessProbe": {
            "httpGet": {"path": serving.LIVE_PATH, "port": "http"},
            "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6,
        },
        "lifecycle": {"preStop": {"sleep": {"seconds": _PRE_STOP_SECONDS}}},
    }  # fmt: skip
    ours = podspec.pod(container) | {
        "terminationGracePeriodSeconds": int(_PRE_STOP_SECONDS + _LAME_DUCK_SECONDS + drain_seconds + _SLACK_SECONDS)
    }
    return {**without_credentials(overlaid(ours, _overlay(service))), "restartPolicy": "Always"}


def _overlay(service: InferenceService) -> Object:
    template = service.spec.pod_template
    return template.spec.to_object() if template and template.spec else {}


def _placed(service: InferenceService) -> Object:
    """Of the user's pod template what another pod needs to run where the servers run, and to reach the same store."""
    overlay = _overlay(service)
    kept = {key: value for key, value in overlay.items() if key in _PLACING}
    mine = [one for one in overlay.get("containers") or () if one.get("name") == CONTAINER]
    if mine:
        kept["containers"] = [{key: mine[0][key] for key in ("name", "env", "volumeMounts") if key in mine[0]}]
    return kept


def analysis_job(service: InferenceService, revision: Revision, reach: Reach, owner: Object) -> Object:
    """The Job that sends golden samples through the preview Service, in the user's namespace with the user's own
    credentials of the store."""
    name, namespace = service.metadata.name, service.metadata.namespace
    labels = _labels(service, revision.name, ANALYSIS)
    run = serving.AnalysisRun(
        url=url(preview_service_name(name), namespace),
        model=service.spec.model.name,
        version=revision.version,
        variant=revision.variant,
        manifest_uri=revision.uri,
        digest=revision.digest,
        store=reach.access(revision.uri),
        requests=max(1, service.spec.rollout.analysis.before.requests),
        timeout_seconds=_ANALYSIS_SECONDS,
    )
    variables = {serving.ANALYSIS_VARIABLE: run.to_json()}
    analyses = podspec.container(CONTAINER, revision.image, serving.ANALYSE, variables, reach.secret)
    return podspec.job(
        analysis_name(revision.name),
        namespace,
        labels,
        owner,
        {"metadata": {"labels": labels}, "spec": overlaid(podspec.pod(analyses), _placed(service))},
        backoffLimit=2,
        activeDeadlineSeconds=_ANALYSIS_SECONDS + 60,
    )
