"""The Job that checks an imported artifact: every digest, that it is what it is said to be, that it answers as its
golden samples say. It runs in the user's namespace with the user's own credentials: the operator reads no store."""

from __future__ import annotations

from modelwright import serving
from modelwright.api.model_version import ImportedArtifact, ModelVersion
from modelwright.controllers.modelversion.observed import VERSION_LABEL
from modelwright.controllers.podspec import container, job, pod, reach, short_hash
from modelwright.kube.resources import Object
from modelwright.settings import Settings

_DEADLINE_SECONDS = 3600


def check_name(version: ModelVersion) -> str:
    """With a hash of the uid: a version that is made again meets no Job of the one before it."""
    return f"{version.metadata.name}-{short_hash(version.metadata.uid)}-check"


def check_job(version: ModelVersion, imported: ImportedArtifact, settings: Settings, owner: Object) -> Object:
    reached = reach(imported.storage, settings)
    run = serving.VerifyRun(
        model=version.spec.model,
        version=version.spec.version,
        variant=version.spec.variant,
        manifest_uri=imported.uri,
        digest=imported.digest,
        store=reached.access(imported.uri),
    )
    labels = {"app.kubernetes.io/managed-by": "modelwright", VERSION_LABEL: version.metadata.name}
    variables = {serving.VERIFY_VARIABLE: run.to_json()}
    checks = container("check", settings.server_image, serving.VERIFY, variables, reached.secret)
    return job(
        check_name(version),
        version.metadata.namespace,
        labels,
        owner,
        {"metadata": {"labels": labels}, "spec": pod(checks)},
        backoffLimit=3,
        activeDeadlineSeconds=_DEADLINE_SECONDS,
    )
