"""The Job of one stage of a derived version: a step of a compression, its publication, or a combination.

What it is told comes from the spec, which never changes, and from what was pinned in status before the first of them:
so an operator that was started again makes the same Job, and whoever makes it twice makes it once.
"""

from __future__ import annotations

from typing import Any

from modelwright import derivation
from modelwright.api.model_version import ModelVersion
from modelwright.api.version_combine import Combine
from modelwright.api.version_compress import Compress
from modelwright.api.version_evaluation import VersionGate
from modelwright.api.version_import import Import
from modelwright.api.version_status import Compared, EvaluationData, VersionOrigin
from modelwright.contract import StoreAccess
from modelwright.controllers.modelversion.derive_observed import DERIVED_LABEL, STAGE_ANNOTATION
from modelwright.controllers.modelversion.derive_steps import step, target
from modelwright.controllers.podspec import (
    RETRIES,
    access,
    container,
    failure_policy,
    job,
    overlaid,
    pod,
    short_hash,
    template_overlay,
)
from modelwright.kube.resources import Object


def stages(version: ModelVersion) -> tuple[str, ...]:
    """What its Jobs do, one after the other."""
    if version.spec.source.import_ is not None:
        return derivation.IMPORT
    compress = version.spec.source.compress
    if compress is None:
        return derivation.COMBINE
    return (*(one.kind for one in compress.steps), "publish") if compress.steps else ("search", "publish")


def stage_job_name(version: ModelVersion, stage: int) -> str:
    """With a hash of the uid: a version that is made again meets no Job of the one before it."""
    return f"{version.metadata.name}-{short_hash(version.metadata.uid)}-{stages(version)[stage].lower()}-{stage}"


def derivation_run(
    version: ModelVersion, stage: int
) -> derivation.CompressRun | derivation.CombineRun | derivation.ImportRun:
    """What the Job of a stage is told. The version's parents are pinned in its status. Raises ValueError where a figure
    of the spec is none that the Jobs take."""
    spec, status = version.spec, version.status
    parents = (status.lineage.parents if status.lineage else None) or ()
    storage = status.storage
    assert storage is not None  # noqa: S101 - the plan has pinned it, and the parents
    common: dict[str, Any] = {
        "namespace": version.metadata.namespace,
        "name": version.metadata.name,
        "uid": version.metadata.uid,
        "publish": derivation.Target(model=spec.model, version=spec.version, variant=spec.variant),
        "store": StoreAccess(uri=storage.uri, endpoint=storage.endpoint, region=storage.region),
        "evaluation": _evaluation(version),
    }
    if spec.source.compress is not None:
        compress = spec.source.compress
        calibration = compress.calibration
        return derivation.CompressRun(
            **common,
            seed=compress.seed,
            parent=_origin(parents[0]),
            steps=tuple(step(one) for one in compress.steps or ()),
            target=target(compress.target) if compress.target else None,
            stage=stage,
            calibration=derivation.Calibration(split=calibration.split, rows=calibration.rows)
            if calibration
            else derivation.Calibration(),
        )
    if spec.source.import_ is not None:
        return derivation.ImportRun(**common, **_imported(spec.source.import_))
    combine = spec.source.combine
    assert combine is not None  # noqa: S101 - the API's rule: one of them
    members = tuple(
        derivation.Member(**_origin(pinned).model_dump(), weight=float(stated.weight or 1))
        for pinned, stated in zip(parents, combine.members, strict=True)
    )
    return derivation.CombineRun(**common, seed=combine.seed, members=members, method=combine.method)


def _imported(stated: Import) -> dict[str, Any]:
    return {
        "uri": stated.uri,
        "digest": stated.digest,
        "format": stated.format,
        "task": stated.task,
        "classes": stated.classes or (),
        "columns": stated.columns or (),
        "names": dict(stated.names or {}),
        "samples": stated.samples,
        "recipe": stated.recipe,
        "hyperparameters": dict(stated.hyperparameters or {}),
    }


def _origin(pinned: VersionOrigin) -> derivation.Origin:
    return derivation.Origin(name=pinned.name, uri=pinned.uri, digest=pinned.digest)


def _evaluation(version: ModelVersion) -> derivation.DerivedEvaluation:
    stated, pinned = version.spec.evaluation, version.status.evaluation
    if stated is None:
        return derivation.DerivedEvaluation()
    against = {one.metric: one for one in (pinned.against if pinned else None) or ()}
    return derivation.DerivedEvaluation(
        data=_data(pinned.data) if pinned and pinned.data else None,
        split=stated.split,
        gates=tuple(_gate(gate, against.get(gate.metric)) for gate in stated.gates or ()),
    )


def _data(pinned: EvaluationData) -> derivation.NamedData:
    return derivation.NamedData(uri=pinned.artifact.uri, digest=pinned.artifact.digest, store=access(pinned.storage))


def _gate(stated: VersionGate, against: Compared | None) -> derivation.DerivedGate:
    return derivation.DerivedGate(
        metric=stated.metric,
        min=float(stated.min) if stated.min is not None else None,
        max=float(stated.max) if stated.max is not None else None,
        max_regression=float(stated.max_regression) if stated.max_regression is not None else None,
        against=_origin(against) if against else None,
    )


def stage_job(version: ModelVersion, stage: int, image: str, owner: Object) -> Object:
    source = version.spec.source
    asked: Import | Compress | Combine | None = source.import_ or source.compress or source.combine
    assert asked is not None  # noqa: S101 - only derived versions have stages
    arguments = derivation.COMPRESS if source.compress is not None else stages(version)
    name, storage = arguments[0], version.status.storage
    labels = {"app.kubernetes.io/managed-by": "modelwright", DERIVED_LABEL: version.metadata.name}
    works = container(
        name,
        image,
        arguments,
        {derivation.DERIVATION_VARIABLE: derivation_run(version, stage).to_json()},
        storage.secret_ref.name if storage and storage.secret_ref else "",
        resources=asked.resources.to_object() if asked.resources else {},
    )
    template = {"metadata": {"labels": labels}, "spec": pod(works)}
    return job(
        stage_job_name(version, stage),
        version.metadata.namespace,
        labels,
        owner,
        overlaid(template, template_overlay(asked.pod_template)),
        annotations={STAGE_ANNOTATION: str(stage)},
        backoffLimit=RETRIES,
        podReplacementPolicy="Failed",
        podFailurePolicy=failure_policy(name),
    )
