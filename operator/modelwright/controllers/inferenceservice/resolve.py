"""From what the user wrote, the versions that there are, and the operator's configuration, to what the plan is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from modelwright.api.base import StatusRef
from modelwright.api.inference_service import ABORT, PROMOTE, RETRY, ROLLBACK, InferenceService, Revision
from modelwright.api.model import Model
from modelwright.api.types import seconds
from modelwright.api.versions import model_version_name
from modelwright.controllers.inferenceservice import children
from modelwright.controllers.inferenceservice.plan import Wanted
from modelwright.controllers.modelversion.observed import VersionView
from modelwright.settings import Settings


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """Why there is no version to serve; `stalls` where a person must act."""

    reason: str
    message: str
    stalls: bool = False


def version_wanted(service: InferenceService, model: Model | None) -> str | Problem:
    """The name of the ModelVersion that is to be served."""
    asked = service.spec.model
    if asked.version is not None:
        return model_version_name(asked.name, asked.version, asked.variant)
    if model is None:
        return Problem(
            "ModelMissing", f"spec.model.name: Model {asked.name} does not exist; create it with the channel"
        )
    if asked.channel not in (model.spec.channels or {}):
        known = ", ".join(sorted(model.spec.channels or {})) or "none"
        message = f"spec.model.channel: Model {asked.name} has no channel {asked.channel}; it has {known}"
        return Problem("ChannelMissing", message, stalls=True)
    found = (model.status.channels or {}).get(asked.channel or "")
    if found is None or found.model_version_ref is None:
        why = found.message if found is not None and found.message else "not resolved yet"
        return Problem("ChannelUnresolved", f"channel {asked.channel} of Model {asked.name}: {why}")
    return found.model_version_ref.name


def target(service: InferenceService, name: str, version: VersionView | None, settings: Settings) -> Revision | Problem:
    """The revision that serves the ModelVersion `name`."""
    if version is None or version.deleting:
        return Problem("VersionMissing", f"ModelVersion {name} does not exist")
    if version.retracted and service.spec.model.version is not None:
        message = f"spec.model.version: ModelVersion {name} is retracted ({version.retracted}); name another version"
        return Problem("VersionRetracted", message, stalls=True)
    if not version.ready or not version.digest:
        return Problem("VersionNotReady", f"ModelVersion {name} is not Ready")
    if not settings.server_image:
        return Problem("NoServerImage", "the operator has no image for servers (chart: serverImage)", stalls=True)
    pinned = children.revision_name(service, version.digest, version.uri)
    known = (service.status.active, service.status.previous, service.status.rollout and service.status.rollout.target)
    there = next((one for one in known if one and one.name == pinned), None)
    fresh = Revision(
        name=pinned,
        version=version.version,
        variant=version.variant or None,
        digest=version.digest,
        uri=version.uri,
        model_version_ref=StatusRef(name=version.key.name),
        image=settings.server_image,
        template=children.TEMPLATE,
    )
    return there or fresh


def withdrawn(service: InferenceService, versions: Mapping[str, VersionView]) -> str:
    """Why the version that the service changes to just now may not be served any more; empty where it may."""
    rollout = service.status.rollout
    view = versions.get(rollout.target.model_version_ref.name) if rollout else None
    if view is None:
        return ""
    if view.deleting:
        return f"ModelVersion {view.key.name} is being deleted"
    return f"ModelVersion {view.key.name} is retracted ({view.retracted})" if view.retracted else ""


def asked(service: InferenceService, name: str, digest: str) -> str:
    """A hash of all that was asked for, but how many: what failed is tried again when it changes, and not each time an
    autoscaler moves."""
    spec = service.spec.to_object()
    spec.pop("replicas", None)
    return children.hashed([spec, name, digest])[:16]


def wanted(
    service: InferenceService, model: Model | None, versions: Mapping[str, VersionView], settings: Settings
) -> Wanted:
    """`versions` are those of the namespace, by name."""
    name = version_wanted(service, model)
    found = name if isinstance(name, Problem) else target(service, name, versions.get(name), settings)
    problem = found if isinstance(found, Problem) else Problem("", "")
    revision = None if isinstance(found, Problem) else found
    rollout, notes = service.spec.rollout, service.metadata.annotations
    before, after = rollout.analysis.before, rollout.analysis.after
    said = name if isinstance(name, str) else ""
    return Wanted(
        replicas=service.spec.replicas,
        asked=asked(service, said, revision.digest if revision else ""),
        target=revision,
        problem_reason=problem.reason,
        problem=problem.message,
        problem_stalls=problem.stalls,
        withdrawn=withdrawn(service, versions),
        manual=rollout.promotion == "Manual",
        ready_timeout=seconds(rollout.ready_timeout),
        before_requests=before.requests,
        before_max_p99=seconds(before.max_p99) if before.max_p99 else None,
        after_seconds=seconds(after.duration),
        after_min_requests=after.min_requests,
        after_max_error_rate=float(after.max_error_rate),
        after_max_p99=seconds(after.max_p99) if after.max_p99 else None,
        scale_down_delay=seconds(rollout.scale_down_delay),
        drain_timeout=seconds(rollout.drain_timeout),
        promote=notes.get(PROMOTE, ""),
        abort=notes.get(ABORT, ""),
        rollback=notes.get(ROLLBACK, ""),
        retry=notes.get(RETRY, ""),
    )
