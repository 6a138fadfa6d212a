"""What a user may say of the pods that the operator makes: their resources, and what is laid over them."""

from __future__ import annotations

from typing import ClassVar

from pydantic import ConfigDict, Field

from modelwright.api.base import ApiModel
from modelwright.api.rules import Rule
from modelwright.api.types import Quantities


class Resources(ApiModel):
    """What one worker needs, as in a container's resources."""

    requests: Quantities | None = Field(default=None, description="What is reserved, such as cpu: 500m, memory: 1Gi.")
    limits: Quantities | None = Field(default=None, description="What it may not exceed; devices, such as GPUs.")


class PodSpecOverlay(ApiModel):
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
    hostname: str | None = Field(default=None, max_length=253, description="Refused.")
    subdomain: str | None = Field(default=None, max_length=253, description="Refused.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.serviceAccountName) && !has(self.serviceAccount) && !has(self.automountServiceAccountToken)",
            "serviceAccountName, serviceAccount and automountServiceAccountToken cannot be set: workers hold no"
            " credentials of Kubernetes",
            lambda pod: pod.service_account_name is None and pod.service_account is None
            and pod.automount_service_account_token is None,
        ),
        Rule(
            "!has(self.restartPolicy) && !has(self.hostname) && !has(self.subdomain)",
            "restartPolicy, hostname and subdomain cannot be set: the workers find each other by them",
            lambda pod: pod.restart_policy is None and pod.hostname is None and pod.subdomain is None,
        ),
    )  # fmt: skip


class PodTemplateOverlay(ApiModel):
    """What to add to the workers' pods."""

    spec: PodSpecOverlay | None = Field(
        default=None,
        description="Fields of a pod's spec (nodeSelector, tolerations, volumes, …), merged over what the operator"
        " writes. Checked by a dry run of the Job; what the API server says of it is in status.",
    )
