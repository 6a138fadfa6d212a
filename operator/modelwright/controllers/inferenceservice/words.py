"""What a service's pods suffer from, and what an analysis found, in words for people. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from modelwright.api.inference_service import InferenceServiceStatus, Revision, ServicePhase
from modelwright.controllers.inferenceservice.observed import DeploymentView, PodView
from modelwright.controllers.inferenceservice.telemetry import Total
from modelwright.serving import AnalysisSummary, version_label

if TYPE_CHECKING:
    from modelwright.controllers.inferenceservice.plan import Wanted


NO_ROOM = frozenset({"Unschedulable", "QuotaExceeded"})
"""The cluster lacks what the pods ask for, which may change without them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Trouble:
    """Why pods are not ready."""

    reason: str
    message: str

    @property
    def no_room(self) -> bool:
        return self.reason in NO_ROOM


def pods(count: int) -> str:
    return "1 pod" if count == 1 else f"{count} pods"


def promotion(target: Revision) -> str:
    version = version_label(target.version, target.variant)
    return (
        f"{version} is ready and waits for a person: `modelwright promote`, or"
        f" kubectl annotate … modelwright.dev/promote={target.name}"
    )


def trouble(deployment: DeploymentView | None, servers: Sequence[PodView]) -> Trouble | None:
    """The one to tell of first: what a person can do something about."""
    for pod in servers:
        failure = pod.failure
        if failure is not None and not pod.ready:
            return Trouble(failure.reason, failure.message)
    for pod in servers:
        if pod.waits_reason:
            return Trouble(pod.waits_reason, f"pod {pod.name} cannot start: {pod.waits_reason}: {pod.waits}")
    for pod in servers:
        if pod.unschedulable:
            return Trouble("Unschedulable", f"pod {pod.name} cannot be scheduled: {pod.unschedulable}")
    if deployment is not None and deployment.refused:
        reason = "QuotaExceeded" if "exceeded quota" in deployment.refused else "PodsRefused"
        return Trouble(reason, deployment.refused)
    for pod in servers:
        if pod.restarts and not pod.ready and pod.exit_code is not None:
            how = f"{pod.exit_reason}, exit code {pod.exit_code}"
            reason = "OutOfMemory" if pod.exit_reason == "OOMKilled" else "PodCrashed"
            return Trouble(reason, f"pod {pod.name} ended {pod.restarts} times, last with {how}")
    return None


def breach_before(summary: AnalysisSummary, max_p99: float | None) -> str | None:
    """Why the figures do not pass; None where they do."""
    told = f": {summary.first_error}" if summary.first_error else ""
    if summary.errors:
        return f"{summary.errors} of {summary.requests} golden samples failed{told}"
    if summary.wrong_versions:
        return f"{summary.wrong_versions} of {summary.requests} answers were of another version{told}"
    if summary.mismatches:
        return f"{summary.mismatches} of {summary.requests} answers differ from the golden samples{told}"
    if max_p99 is not None and summary.p99_ms is not None and summary.p99_ms > max_p99 * 1000:
        return f"the p99 of {summary.requests} requests was {summary.p99_ms:.3g} ms, above {max_p99 * 1000:g} ms"
    return None


def breach_after(wanted: Wanted, seen: Total) -> str | None:
    """Why the figures so far do not pass; None where they do, or are too few to tell."""
    if seen.requests < wanted.after_min_requests:
        return None
    rate = seen.errors / seen.requests
    if rate > wanted.after_max_error_rate:
        return (
            f"{seen.errors} of {seen.requests} requests failed ({rate:.2%}, at most"
            f" {wanted.after_max_error_rate:.2%} may)"
        )
    limit = wanted.after_max_p99
    if limit is not None and seen.p99 is not None and seen.p99 > limit:
        return f"the p99 of {seen.requests} requests was {seen.p99 * 1000:.3g} ms, above {limit * 1000:g} ms"
    return None


def verdict(wanted: Wanted, seen: Total) -> str:
    if seen.requests < wanted.after_min_requests:
        return (
            f"only {seen.requests} requests in {wanted.after_seconds:g} s, fewer than the"
            f" {wanted.after_min_requests} that a verdict needs"
        )
    p99 = f", p99 {seen.p99 * 1000:.3g} ms" if seen.p99 is not None else ""
    return f"{seen.errors} of {seen.requests} requests failed in {wanted.after_seconds:g} s{p99}"


def none_ready(deployment: DeploymentView, servers: Sequence[PodView]) -> str:
    found = trouble(deployment, servers)
    return "none of its pods is ready" + (f": {found.message}" if found else "")


def phase(wanted: Wanted, status: InferenceServiceStatus, ready: int) -> ServicePhase:
    rollout = status.rollout
    if rollout is not None:
        back = rollout.step in ("SwitchingBack", "Ending")
        going_back = status.failed is not None and rollout.step in ("Starting", "Switching")
        return "RollingBack" if back or going_back else "Upgrading"
    if status.active is None:
        return "Degraded" if status.failed is not None else "Waiting"
    if status.failed is not None or wanted.target is None or wanted.target.name != status.active.name:
        return "Degraded"
    return "Ready" if ready >= wanted.replicas else "Degraded"
