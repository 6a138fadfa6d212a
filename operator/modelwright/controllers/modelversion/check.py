"""The Job that checks an imported artifact: every digest, that it is what it is said to be, that it answers as its
golden samples say. It runs in the user's namespace with the user's own credentials: the operator reads no store."""

from __future__ import annotations

import hashlib

from modelwright import serving
from modelwright.api.model_version import ImportedArtifact, ModelVersion
from modelwright.contract import StoreAccess
from modelwright.controllers.modelversion.observed import VERSION_LABEL
from modelwright.controllers.podspec import container_security, pod_security, store_bucket, without_credentials
from modelwright.kube.resources import Object
from modelwright.settings import Settings

_DEADLINE_SECONDS = 3600


def check_name(version: ModelVersion) -> str:
    """With a hash of the uid: a version that is made again meets no Job of the one before it."""
    return f"{version.metadata.name}-{hashlib.sha256(version.metadata.uid.encode()).hexdigest()[:5]}-check"


def check_job(version: ModelVersion, imported: ImportedArtifact, settings: Settings, owner: Object) -> Object:
    stated, defaults = imported.storage, settings.storage
    secret = stated.secret_ref.name if stated and stated.secret_ref else defaults.secret
    run = serving.VerifyRun(
        model=version.spec.model,
        version=version.spec.version,
        variant=version.spec.variant,
        manifest_uri=imported.uri,
        digest=imported.digest,
        store=StoreAccess(
            uri=store_bucket(imported.uri),
            endpoint=(stated and stated.endpoint) or defaults.endpoint or None,
            region=(stated and stated.region) or defaults.region or None,
        ),
    )
    labels = {"app.kubernetes.io/managed-by": "modelwright", VERSION_LABEL: version.metadata.name}
    container = {
        "name": "check",
        "image": settings.server_image,
        "args": list(serving.VERIFY),
        "env": [{"name": serving.VERIFY_VARIABLE, "value": run.to_json()}],
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
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": check_name(version),
            "namespace": version.metadata.namespace,
            "labels": labels,
            "ownerReferences": [dict(owner)],
        },
        "spec": {
            "backoffLimit": 3,
            "activeDeadlineSeconds": _DEADLINE_SECONDS,
            "template": {"metadata": {"labels": labels}, "spec": without_credentials(pod)},
        },
    }
