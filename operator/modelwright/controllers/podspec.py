"""What all pods that the operator makes have in common: the restricted Pod Security Standard, and how the user's pod
template is laid over ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from modelwright.api.base import StatusRef
from modelwright.api.pods import PodTemplateOverlay
from modelwright.api.storage import Storage, StorageStatus
from modelwright.contract import Outcome
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


def store_used(stated: Storage | None, settings: Settings) -> StorageStatus:
    """The store that is used: what the spec leaves out is the operator's."""
    stated, defaults = stated or Storage(), settings.storage
    secret = stated.secret_ref.name if stated.secret_ref else defaults.secret
    return StorageStatus(
        uri=stated.uri or defaults.uri,
        endpoint=stated.endpoint or defaults.endpoint or None,
        region=stated.region or defaults.region or None,
        secret_ref=StatusRef(name=secret) if secret else None,
    )


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
