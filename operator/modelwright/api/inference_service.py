"""InferenceService: serves a version of a model, or whatever a channel points at, and upgrades it blue-green."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from modelwright.api.base import AGE, NAME_RULE, ApiObject, Column, Names, Scale, StatusModel, StatusRef
from modelwright.api.conditions import CONDITIONS_SCHEMA, Condition, before_the_first_look, conditions_field
from modelwright.api.rules import Rule
from modelwright.api.serving_spec import InferenceServiceSpec
from modelwright.api.types import Figure, Items, Time

# Annotations by which a person acts on a change. The value of the first three is a revision, and after an @ anything:
# the same value acts once, as `status.acted` remembers. That of `retry` is the time of the failure.
PROMOTE = "modelwright.dev/promote"
ABORT = "modelwright.dev/abort"
ROLLBACK = "modelwright.dev/rollback"
RETRY = "modelwright.dev/retry"

ServicePhase = Literal["Pending", "Waiting", "Upgrading", "RollingBack", "Ready", "Degraded"]
RolloutStep = Literal[
    "Starting", "Analysing", "AwaitingPromotion", "Switching", "Observing", "Keeping", "SwitchingBack", "Ending"
]


class Revision(StatusModel):
    """A set of pods that serve one version: a Deployment. What is said here was fixed when it was made, so that an
    upgrade of the operator rolls nobody."""

    name: str = Field(max_length=63, description="Its name, and its Deployment's.")
    version: str = Field(max_length=32, description="The version.")
    variant: str | None = Field(default=None, max_length=20, description="Its variant, where it is one.")
    digest: str = Field(max_length=71, description="sha256 of the artifact's manifest.")
    uri: str = Field(max_length=1024, description="The artifact's manifest.")
    model_version_ref: StatusRef = Field(description="The ModelVersion.")
    image: str = Field(max_length=512, description="The model server's image.")
    template: int = Field(ge=1, description="Which form of the operator's pod template.")


class Observation(StatusModel):
    """What was measured of a new version."""

    requests: int | None = Field(default=None, ge=0, description="Requests that it answered.")
    errors: int | None = Field(default=None, ge=0, description="Of these, how many failed.")
    p99: Figure | None = Field(default=None, description="99th percentile of the latency, such as 12.4ms.")


class RolloutStatus(StatusModel):
    """The change that is under way."""

    step: RolloutStep = Field(
        description="Starting: the new pods. Analysing: golden samples through the preview Service. AwaitingPromotion:"
        " for a person. Switching: all requests to the new pods. Observing: the new version answers, the old pods are"
        " drained and stay. Keeping: the analysis has passed, the old pods stay for scaleDownDelay. SwitchingBack: all"
        " requests to the old pods again. Ending: pods that are no longer asked finish what they have."
    )
    since: Time = Field(description="When this step began.")
    started_at: Time = Field(description="When the change began.")
    target: Revision = Field(description="What is changed to.")
    before: Observation | None = Field(default=None, description="Measured before the switch.")
    after: Observation | None = Field(default=None, description="Measured after the switch.")
    switched_at: Time | None = Field(default=None, description="When all requests went to the target.")
    reason: str | None = Field(default=None, max_length=64, description="Why it goes back, as one word.")
    message: str | None = Field(default=None, max_length=1024, description="Why it goes back, or what it waits for.")


class FailedRevision(StatusModel):
    """A change that is not tried again until the spec or the channel changes."""

    revision: str = Field(max_length=63, description="The revision.")
    version: str = Field(max_length=32, description="Its version.")
    variant: str | None = Field(default=None, max_length=20, description="Its variant, where it is one.")
    asked: str = Field(max_length=32, description="What was asked for, as a hash.")
    reason: str = Field(max_length=64, description="Why it failed, as one word.")
    message: str = Field(max_length=1024, description="Why it failed, in words.")
    at: Time = Field(description="When.")


class InferenceServiceStatus(StatusModel):
    """What is served, and what is under way."""

    phase: ServicePhase = Field(
        default="Pending",
        description="For people's eyes; programs read the conditions. Waiting: there is no version to serve yet."
        " Degraded: it serves, and not what is asked for, or not by as many pods.",
    )
    observed_generation: int | None = Field(default=None, ge=0, description="The generation that status is about.")
    conditions: Items[Condition] | None = Field(
        default=None, max_length=16, description=conditions_field("Ready"), json_schema_extra=CONDITIONS_SCHEMA
    )
    url: str | None = Field(default=None, max_length=256, description="Where it is asked, inside the cluster.")
    preview_url: str | None = Field(
        default=None, max_length=256, description="Where the new version can be asked before the switch."
    )
    version: str | None = Field(default=None, max_length=64, description="What answers requests, with its variant.")
    next_version: str | None = Field(default=None, max_length=64, description="What it is changed to.")
    replicas: int = Field(default=0, ge=0, description="Pods that answer requests, or begin to.")
    ready_replicas: int = Field(default=0, ge=0, description="Of these, the ready ones.")
    ready: str | None = Field(default=None, max_length=32, description="Ready pods of those asked for, such as 2/2.")
    selector: str | None = Field(
        default=None, max_length=512, description="Labels of the pods that answer requests, for autoscalers."
    )
    active: Revision | None = Field(default=None, description="What answers requests.")
    previous: Revision | None = Field(
        default=None, description="What answered before; `modelwright rollback` goes back to it."
    )
    rollout: RolloutStatus | None = Field(default=None, description="The change that is under way.")
    failed: FailedRevision | None = Field(default=None, description="The change that failed, and is not tried again.")
    acted: Mapping[str, Annotated[str, StringConstraints(max_length=256)]] | None = Field(
        default=None,
        max_length=8,
        description="Annotations that have been acted on, by what they ask: promote, abort, rollback.",
    )


class InferenceService(ApiObject):
    """Serves a version of a model, or whatever a channel points at. A new version starts beside the old one, is
    checked, gets all requests in one step, is watched, and is taken back by itself when it errs."""

    spec: InferenceServiceSpec = Field(description="What is served, and how one version follows another.")
    status: InferenceServiceStatus = Field(
        default=InferenceServiceStatus(conditions=before_the_first_look("Ready")),
        description="What is served, and what is under way; written by the operator.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (NAME_RULE,)
    names: ClassVar[Names] = Names(
        plural="inferenceservices",
        singular="inferenceservice",
        short=("mwis",),
        main_condition="Ready",
        columns=(
            Column("Model", ".spec.model.name", "The model."),
            Column("Version", ".status.version", "What answers requests."),
            Column("Next", ".status.nextVersion", "What it is changed to."),
            Column("Phase", ".status.phase", "Where it stands."),
            Column("Step", ".status.rollout.step", "The step of the change."),
            Column("Ready", ".status.ready", "Ready pods of those asked for."),
            Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', "Why it is ready, or not."),
            AGE,
            Column("Channel", ".spec.model.channel", "The channel that it follows.", priority=1),
            Column("URL", ".status.url", "Where it is asked.", priority=1),
            Column("Message", '.status.conditions[?(@.type=="Ready")].message', "Why, in words.", priority=1),
        ),
        selectable=(".spec.model.name",),
        scale=Scale(".spec.replicas", ".status.replicas", ".status.selector"),
    )
