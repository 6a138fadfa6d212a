"""Derived versions, their parents, and what their Jobs say, for the tests of their plan."""

from __future__ import annotations

import datetime
from typing import Any

from modelwright.api.model_version import ModelVersion, VersionLineage
from modelwright.api.storage import StorageStatus
from modelwright.contract import Failure, Outcome, Published
from modelwright.controllers.modelversion import origins
from modelwright.controllers.modelversion.derive_observed import StageJobView, StagePodView
from modelwright.controllers.modelversion.derived import (
    DerivedPlan,
    has_ended,
    is_pinned,
    plan_ended,
    plan_origins,
    plan_stages,
)
from modelwright.controllers.modelversion.observed import VersionView
from modelwright.derivation import DerivationSummary, Size
from modelwright.kube import conditions
from modelwright.kube.resources import Key

DIGEST = "sha256:" + "1" * 64
URI = "s3://bucket/models/team/digits/versions/1.0.0/manifest.json"
STORAGE = StorageStatus(uri="s3://bucket")
STEPS = [{"prune": {"sparsity": "0.9"}}, {"cluster": {"bits": 4}}, {"quantize": {"scheme": "Int8Dynamic"}}]
AT = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


def version(source: dict[str, Any] | None = None, status: dict[str, Any] | None = None, **spec: Any) -> ModelVersion:
    source = source or {"compress": {"from": {"version": "1.0.0"}, "steps": STEPS}}
    stated = {"model": "digits", "version": "1.0.0", "variant": "small", "source": source, **spec}
    metadata = {"name": "digits-v1-0-0--small", "namespace": "team", "uid": "u", "generation": 1}
    return ModelVersion.model_validate({"metadata": metadata, "spec": stated, "status": status or {}})


def view(name: str = "digits-v1-0-0", **more: Any) -> VersionView:
    return VersionView(**{
        "key": Key("team", name), "model": "digits", "version": "1.0.0", "variant": "", "training_job": "t",
        "ready": True, "digest": DIGEST, "uri": URI, "deleting": False, **more,
    })  # fmt: skip


def job(stage: int = 0, ended: str = "", **more: Any) -> StageJobView:
    return StageJobView(**{
        "name": f"job-{stage}", "uid": f"uid-{stage}", "version": "digits-v1-0-0--small", "stage": stage,
        "ended": ended, "message": "Job has reached the specified backoff limit" if ended == "Failed" else "",
        "deleting": False, **more,
    })  # fmt: skip


def pod(**more: Any) -> StagePodView:
    return StagePodView(name="p", version="digits-v1-0-0--small", **more)


def size(parameters: int, accuracy: float, nonzero: int | None = None) -> Size:
    return Size(
        bytes=4 * parameters + 100, weights_bytes=4 * parameters, parameters=parameters,
        nonzero=parameters if nonzero is None else nonzero, metrics={"accuracy": accuracy, "f1_min": 0.5},
        latency_p50_ms=0.25,
    )  # fmt: skip


def said(stage: int, **more: Any) -> StagePodView:
    """A pod that has ended well."""
    summary = DerivationSummary(**{
        "outcome": "Succeeded", "stage": stage, "before": size(1000, 0.97), "after": size(1000, 0.96, 100),
        "seconds": 2.5, **more,
    })  # fmt: skip
    return pod(phase="Succeeded", exit_code=0, message=summary.to_message())


def published(stage: int) -> StagePodView:
    artifact = Published(uri=URI.replace("1.0.0/", "1.0.0--small/"), digest="sha256:" + "2" * 64)
    return said(stage, artifact=artifact, metrics={"accuracy": 0.95, "log_loss": 0.2}, after=size(100, 0.95))


def failed(stage: int, outcome: Outcome, message: str, **more: Any) -> StagePodView:
    summary = DerivationSummary(
        outcome=outcome.reason, stage=stage, failure=Failure(type="E", message=message), **more
    )  # fmt: skip
    return pod(phase="Failed", exit_code=outcome.code, message=summary.to_message())


def planned(
    of: ModelVersion,
    *jobs: tuple[StageJobView, list[StagePodView]],
    versions: dict[str, VersionView] | None = None,
    inherited: VersionLineage | None = None,
    storage: StorageStatus = STORAGE,
) -> DerivedPlan:
    """As the controller plans."""
    views = [one for one, _ in jobs]
    if has_ended(of):
        return plan_ended(of, views)
    if is_pinned(of):
        return plan_stages(of, views, {one.uid: pods for one, pods in jobs})
    known = {"digits-v1-0-0": view()} if versions is None else versions
    seen = origins.origins(of, known.get, None, None)
    return plan_origins(of, seen, inherited or VersionLineage(), storage)


def after(of: ModelVersion, made: DerivedPlan) -> ModelVersion:
    """The version with the status that was decided, as it is read again."""
    facts = conditions.merge_dicts((), made.state, generation=1, now=AT)
    status = {**made.status.to_object(), "conditions": facts}
    return ModelVersion.model_validate({
        "metadata": of.metadata.model_dump(by_alias=True), "spec": of.spec.to_object(), "status": status,
    })  # fmt: skip


def reason(made: DerivedPlan) -> tuple[str, str, str]:
    return made.status.phase, made.state.main.reason, made.state.main.message
