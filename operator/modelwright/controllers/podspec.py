"""What all pods and Jobs that the operator makes have in common: the restricted Pod Security Standard, how they reach
the store, and how the user's pod template is laid over ours."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from modelwright.api.base import StatusRef
from modelwright.api.pods import PodTemplateOverlay
from modelwright.api.storage import Storage, StorageStatus, StoreReach
from modelwright.contract import Outcome, StoreAccess
from modelwright.kube.resources import Object
from modelwright.settings import Settings

_USER = 10001
# Beside evictions, which are not counted: a store that does not answer, a container that was killed.
RETRIES = 2
_FINAL = tuple(outcome.code for outcome in Outcome if outcome.code and not outcome.retried)


def pod_security() -> Object:
    return {
        "runAsNonRoot": True,
        "runAsUser": _USER,
        "runAsGroup": _USER,
        "fsGroup": _USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Object:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def container(
    name: str, image: str, arguments: Sequence[str], variables: Mapping[str, str], secret: str, **more: Any
) -> Object:
    """One with a folder of its own at /tmp, and the store's credentials from the Secret where one is named."""
    return {
        "name": name,
        "image": image,
        "args": list(arguments),
        "env": [{"name": variable, "value": value} for variable, value in variables.items()],
        "envFrom": [{"secretRef": {"name": secret}}] if secret else [],
        **more,
        "terminationMessagePolicy": "File",
        "securityContext": container_security(),
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],  # noqa: S108 - the container's own
    }


def pod(of: Mapping[str, Any]) -> Object:
    """The spec of a pod of one container."""
    return {
        "securityContext": pod_security(),
        "containers": [dict(of)],
        "volumes": [{"name": "scratch", "emptyDir": {}}],
    }


def job(
    name: str,
    namespace: str,
    labels: Mapping[str, str],
    owner: Object,
    template: Mapping[str, Any],
    *,
    annotations: Mapping[str, str] | None = None,
    **spec: Any,
) -> Object:
    """A Job whose pods are of `template`, without any credentials of Kubernetes, and are not restarted where they are;
    `spec` are its other fields."""
    pods = {**without_credentials(template["spec"]), "restartPolicy": "Never"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": dict(labels),
            **({"annotations": dict(annotations)} if annotations else {}),
            "ownerReferences": [dict(owner)],
        },
        "spec": {**spec, "template": {"metadata": template["metadata"], "spec": pods}},
    }


def short_hash(uid: str) -> str:
    """For a child's name: an object that is made again meets no child of the one before it."""
    return hashlib.sha256(uid.encode()).hexdigest()[:5]


def without_credentials(spec: Mapping[str, Any]) -> Object:
    """The pod's spec without any credentials of Kubernetes, whatever was laid over it."""
    kept = {key: value for key, value in spec.items() if key not in ("serviceAccountName", "serviceAccount")}
    return {**kept, "automountServiceAccountToken": False}


def failure_policy(container: str) -> Object:
    """Of a Job: evictions are not counted, and an outcome that another try cannot change ends it."""
    return {
        "rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {
                "action": "FailJob",
                "onExitCodes": {"containerName": container, "operator": "In", "values": list(_FINAL)},
            },
        ]
    }


def store_bucket(uri: str) -> str:
    """The store that an object lies in: how to reach it is all that a pod is told beside the object's URI."""
    return "/".join(uri.split("/")[:3]) if uri.startswith("s3://") else "file:///"


@dataclasses.dataclass(frozen=True, slots=True)
class Reach:
    """How the pods reach the store: as the spec says, or the operator's configuration."""

    endpoint: str | None
    region: str | None
    secret: str

    def access(self, uri: str) -> StoreAccess:
        """To the store that the object at `uri` lies in."""
        return StoreAccess(uri=store_bucket(uri), endpoint=self.endpoint, region=self.region)


def reach(stated: StoreReach | None, settings: Settings) -> Reach:
    """How pods reach the store: what the spec leaves out is the operator's."""
    stated, defaults = stated or StoreReach(), settings.storage
    return Reach(
        endpoint=stated.endpoint or defaults.endpoint or None,
        region=stated.region or defaults.region or None,
        secret=stated.secret_ref.name if stated.secret_ref else defaults.secret,
    )


def store_used(stated: Storage | None, settings: Settings) -> StorageStatus:
    """The store that is used: what the spec leaves out is the operator's."""
    reached = reach(stated, settings)
    return StorageStatus(
        uri=(stated and stated.uri) or settings.storage.uri,
        endpoint=reached.endpoint,
        region=reached.region,
        secret_ref=StatusRef(name=reached.secret) if reached.secret else None,
    )


def access(used: StorageStatus) -> StoreAccess:
    """To the store of an object that lies below `used`."""
    return StoreAccess(uri=store_bucket(used.uri), endpoint=used.endpoint, region=used.region)


def template_overlay(template: PodTemplateOverlay | None) -> Object:
    """A user's pod template as it is laid over ours."""
    return template.to_object() if template else {}


def overlaid(under: Mapping[str, Any], over: Mapping[str, Any]) -> Object:
    """`over` laid on `under`: objects field by field, lists of named things by name; all else is replaced."""
    merged = dict(under)
    for key, value in over.items():
        known = merged.get(key)
        if isinstance(value, Mapping) and isinstance(known, Mapping):
            merged[key] = overlaid(known, value)
        elif _are_named(value) and _are_named(known):
            merged[key] = _by_name(known, value)
        else:
            merged[key] = value
    return merged


def _are_named(value: object) -> TypeGuard[list[Object]]:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) and "name" in one for one in value)


def _by_name(under: Sequence[Mapping[str, Any]], over: Sequence[Mapping[str, Any]]) -> list[Object]:
    changes = {one["name"]: one for one in over}
    merged = [overlaid(one, changes.pop(one["name"], {})) for one in under]
    return [*merged, *(dict(one) for one in changes.values())]
