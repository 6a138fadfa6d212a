"""What a user writes in an InferenceService: which version, how many pods, and how one version follows another."""

from __future__ import annotations

from decimal import Decimal
from typing import ClassVar, Literal

from pydantic import ConfigDict, Field

from modelwright.api.base import ApiModel
from modelwright.api.pods import Resources
from modelwright.api.rules import Rule
from modelwright.api.storage import StoreReach
from modelwright.api.types import Duration, Fraction, Name, Variant, Version, cel_is_fraction, seconds

_CHANNEL = "[a-z]([a-z0-9-]{0,28}[a-z0-9])?"
# A rollout that lasts for days is a mistake in writing.
_LONGEST = "24h"


def _at_most_a_day(field: str, path: str) -> Rule:
    return Rule(
        f"!self.{path}.matches('^([0-9]{{1,6}}(h|m|s|ms))+$') || duration(self.{path}) <= duration('{_LONGEST}')",
        f"{path} is '{{self.{path}}}'; at most {_LONGEST}",
        lambda value: seconds(getattr(value, field)) <= seconds(_LONGEST),
        field=path,
    )


class ServedModel(ApiModel):
    """Which version is served: what a channel points at, or one that is named here."""

    name: Name = Field(description="The model: the name of a Model.")
    channel: str | None = Field(
        default=None,
        min_length=1,
        max_length=30,
        pattern=f"^{_CHANNEL}$",
        description="The channel of that Model: the service follows where it points.",
    )
    version: Version | None = Field(default=None, description="This version, whatever the channels say.")
    variant: Variant | None = Field(
        default=None, description="With version: its variant, such as int8. Left out: the original."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.channel) != has(self.version)",
            "give exactly one of channel and version",
            lambda model: (model.channel is None) != (model.version is None),
        ),
        Rule(
            "!has(self.variant) || has(self.version)",
            "variant goes with version; a channel names its own variant, in the Model",
            lambda model: model.variant is None or model.version is not None,
            field="variant",
        ),
    )


class AnalysisBefore(ApiModel):
    """What the new version must show before it gets a request: golden samples of its artifact, sent through the preview
    Service. Each must be answered, and agree."""

    requests: int = Field(
        default=50, ge=0, le=100_000, description="How many are sent. 0: none, and the pods' own checks suffice."
    )
    max_p99: Duration | None = Field(
        default=None, description="The 99th percentile of their latency may not exceed it."
    )


class AnalysisAfter(ApiModel):
    """What the new version must show while it answers the real requests. On a breach the service goes back to the
    version before at once."""

    duration: Duration = Field(default="60s", description="How long it is watched.")
    min_requests: int = Field(
        default=20, ge=1, le=1_000_000, description="Before as many requests were answered, nothing is judged."
    )
    max_error_rate: Fraction = Field(
        default="0.01", description="Of the answered requests, the part that may be errors of the server (5xx)."
    )
    max_p99: Duration | None = Field(default=None, description="The 99th percentile of the latency may not exceed it.")

    rules: ClassVar[tuple[Rule, ...]] = (
        _at_most_a_day("duration", "duration"),
        Rule(
            f"!{cel_is_fraction('self.maxErrorRate')} || double(self.maxErrorRate) < 1.0",
            'a maxErrorRate of 1 lets every request fail; write less, such as "0.01"',
            lambda after: Decimal(after.max_error_rate) < 1,
            field="maxErrorRate",
        ),
    )


class Analysis(ApiModel):
    """What a new version must show."""

    before: AnalysisBefore = Field(default=AnalysisBefore(), description="Before it gets a request.")
    after: AnalysisAfter = Field(default=AnalysisAfter(), description="While it answers the real requests.")


class Rollout(ApiModel):
    """How one version follows another: blue-green. The new pods start beside the old ones; once they are ready, all
    requests are switched to them in one step; the old pods stay until the new version has shown itself."""

    promotion: Literal["Automatic", "Manual"] = Field(
        default="Automatic",
        description="Manual: before the switch from one version to another, wait for `modelwright promote`, or for the"
        " annotation modelwright.dev/promote with the revision's name.",
    )
    min_ready_seconds: int = Field(
        default=2, ge=0, le=3600, description="How long each new pod must have been ready before the switch."
    )
    ready_timeout: Duration = Field(
        default="10m",
        description="How long the new pods may take to become ready, while there is room for them; then the rollout"
        " has failed. A lack of room is waited out.",
    )
    analysis: Analysis = Field(default=Analysis(), description="What a new version must show.")
    scale_down_delay: Duration = Field(
        default="30s",
        description="How long the old pods stay after the analysis has ended: so long, to go back is a matter of"
        " seconds.",
    )
    drain_timeout: Duration = Field(
        default="30s", description="How long a pod that ends may take to finish the requests that it has."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        _at_most_a_day("ready_timeout", "readyTimeout"),
        _at_most_a_day("scale_down_delay", "scaleDownDelay"),
        Rule(
            "!self.drainTimeout.matches('^([0-9]{1,6}(h|m|s|ms))+$') || duration(self.drainTimeout) <= duration('1h')",
            "drainTimeout is '{self.drainTimeout}'; at most 1h",
            lambda rollout: seconds(rollout.drain_timeout) <= 3600,
            field="drainTimeout",
        ),
    )


class ServerPodSpecOverlay(ApiModel):
    """Fields of a pod's spec, merged over those that the operator writes. Declared here is only what is refused."""

    model_config = ConfigDict(extra="allow", alias_generator=None)

    service_account_name: str | None = Field(
        default=None, alias="serviceAccountName", max_length=253, description="Refused."
    )
    service_account: str | None = Field(default=None, alias="serviceAccount", max_length=253, description="Refused.")
    automount_service_account_token: bool | None = Field(
        default=None, alias="automountServiceAccountToken", description="Refused."
    )
    restart_policy: str | None = Field(default=None, alias="restartPolicy", max_length=253, description="Refused.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.serviceAccountName) && !has(self.serviceAccount) && !has(self.automountServiceAccountToken)",
            "serviceAccountName, serviceAccount and automountServiceAccountToken cannot be set: servers hold no"
            " credentials of Kubernetes",
            lambda pod: pod.service_account_name is None and pod.service_account is None
            and pod.automount_service_account_token is None,
        ),
        Rule(
            "!has(self.restartPolicy)",
            "restartPolicy cannot be set: servers are always started again",
            lambda pod: pod.restart_policy is None,
        ),
    )  # fmt: skip


class ServerPodTemplate(ApiModel):
    """What to add to the servers' pods."""

    spec: ServerPodSpecOverlay | None = Field(
        default=None,
        description="Fields of a pod's spec (nodeSelector, tolerations, volumes, …), merged over what the operator"
        " writes. What the API server says of them is in status.",
    )


class InferenceServiceSpec(ApiModel):
    """What is served, by how many pods, and how one version follows another."""

    model: ServedModel = Field(description="Which version is served.")
    replicas: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Number of pods. Leave it to a HorizontalPodAutoscaler by pointing one at this InferenceService,"
        " and leaving it out here.",
    )
    storage: StoreReach | None = Field(
        default=None, description="How the servers reach the store that the version lies in."
    )
    resources: Resources | None = Field(default=None, description="What one server needs.")
    pod_template: ServerPodTemplate | None = Field(default=None, description="What to add to the servers' pods.")
    rollout: Rollout = Field(default=Rollout(), description="How one version follows another.")
