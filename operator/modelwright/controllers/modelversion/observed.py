"""What the other kinds' plans see of a ModelVersion."""

from __future__ import annotations

import dataclasses
from typing import Any

from modelwright.api.versions import model_version_name
from modelwright.controllers.podstate import UNSCHEDULABLE, JobState, job_state, label_of, pod_state
from modelwright.kube.resources import Key, Object

VERSION_LABEL = "modelwright.dev/modelversion"
MADE_LABEL, MADE_BY = "app.kubernetes.io/managed-by", "modelwright"
"""A version that bears it was made by the operator, for a TrainingJob; a person who takes the label off keeps it."""


@dataclasses.dataclass(frozen=True, slots=True)
class VersionView:
    """A ModelVersion. `training_job` is the name in its source; `digest` and `uri` are empty until it is Ready.

    `retracted` is why it was taken back, empty where it was not. `failure` is why nothing goes on until a person acts,
    else empty. `parents` are the names of the versions that it is made of; `compared`, `datasets` and `has_channel` are
    what else it may wait for: versions, Datasets, its Model. `made_by_operator`: for a TrainingJob, not by a person."""

    key: Key
    model: str
    version: str
    variant: str
    training_job: str
    ready: bool
    digest: str
    uri: str
    deleting: bool
    failure: str = ""
    parents: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    has_channel: bool = False
    retracted: str = ""
    uid: str = ""
    made_by_operator: bool = False

    @property
    def usable(self) -> bool:
        """Whether a channel may point at it."""
        return self.ready and not self.deleting and not self.retracted


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckView(JobState):
    """The Job that checks an imported artifact."""

    version: str


@dataclasses.dataclass(frozen=True, slots=True)
class CheckPodView:
    """A pod of such a Job: `waits` is why it does not run, in Kubernetes' words; `message` is what it left."""

    version: str
    waits: str
    message: str


def version_view(obj: Object) -> VersionView:
    metadata, spec, status = obj["metadata"], obj["spec"], obj.get("status") or {}
    reference = (spec.get("source") or {}).get("trainingJobRef") or {}
    artifact = status.get("artifact") or {}
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions") or ())
    return VersionView(
        key=Key(metadata["namespace"], metadata["name"]),
        model=str(spec.get("model", "")),
        version=str(spec.get("version", "")),
        variant=str(spec.get("variant", "")),
        training_job=str(reference.get("name", "")),
        ready=ready,
        digest=str(artifact.get("digest", "")),
        uri=str(artifact.get("uri", "")),
        deleting=bool(metadata.get("deletionTimestamp")),
        failure=next((str(one["message"]) for one in status.get("conditions") or () if one["type"] == "Stalled"), ""),
        **_needed(spec),
        retracted=str((spec.get("retracted") or {}).get("reason", "")),
        uid=str(metadata.get("uid", "")),
        made_by_operator=(metadata.get("labels") or {}).get(MADE_LABEL) == MADE_BY,
    )


def _needed(spec: Object) -> dict[str, Any]:
    """What a version waits for that is made out of others, or measured on a Dataset."""
    source, evaluation = spec.get("source") or {}, spec.get("evaluation") or {}
    compress, combine = source.get("compress"), source.get("combine")
    parents = [compress["from"]] if compress else combine["members"] if combine else []
    against = [gate["against"] for gate in evaluation.get("gates") or () if "against" in gate]
    dataset = evaluation.get("datasetRef") or {}

    def name(of: Object) -> str:
        return model_version_name(spec["model"], of["version"], of.get("variant"))

    return {
        "parents": tuple(name(one) for one in parents),
        "compared": tuple(name(one) for one in against if "version" in one),
        "datasets": (str(dataset["name"]),) if dataset else (),
        "has_channel": any("channel" in one for one in against),
    }


def check_view(obj: Object) -> CheckView:
    return CheckView(version=label_of(obj, VERSION_LABEL), **dataclasses.asdict(job_state(obj)))


def check_pod_view(obj: Object) -> CheckPodView:
    state = pod_state(obj)
    # A scheduler's words say all; what a container waits for is said by reason and words.
    told = state.waits_reason in ("", UNSCHEDULABLE)
    waits = state.waits if told else f"{state.waits_reason}: {state.waits}"
    return CheckPodView(version=label_of(obj, VERSION_LABEL), waits=waits, message=state.message)
