"""What the other kinds' plans see of a ModelVersion."""

from __future__ import annotations

import dataclasses

from modelwright.kube.resources import Key, Object


@dataclasses.dataclass(frozen=True, slots=True)
class VersionView:
    """A ModelVersion. `training_job` is the name in its source; `digest` is empty until it is Ready."""

    key: Key
    model: str
    version: str
    variant: str
    training_job: str
    ready: bool
    digest: str
    deleting: bool


def version_view(obj: Object) -> VersionView:
    metadata, spec, status = obj["metadata"], obj["spec"], obj.get("status") or {}
    reference = (spec.get("source") or {}).get("trainingJobRef") or {}
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions") or ())
    return VersionView(
        key=Key(metadata["namespace"], metadata["name"]),
        model=str(spec.get("model", "")),
        version=str(spec.get("version", "")),
        variant=str(spec.get("variant", "")),
        training_job=str(reference.get("name", "")),
        ready=ready,
        digest=str((status.get("artifact") or {}).get("digest", "")),
        deleting=bool(metadata.get("deletionTimestamp")),
    )
