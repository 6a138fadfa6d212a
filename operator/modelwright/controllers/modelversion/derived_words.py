"""What status says of a version that is made out of others, from what its Jobs said. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from modelwright.api.evaluation import USUAL
from modelwright.api.model_version import ModelVersion
from modelwright.api.storage import ArtifactStatus
from modelwright.api.types import figure
from modelwright.api.version_status import ModelSize, SearchedCandidate, VersionOrigin, VersionSearch, VersionSize
from modelwright.contract import Outcome
from modelwright.controllers import podstate
from modelwright.controllers.modelversion.derive_job import stages
from modelwright.controllers.modelversion.derive_observed import StageJobView, StagePodView
from modelwright.derivation import DerivationSummary, Size

AGAIN = "A version is immutable: delete it, mend what is wrong, and create it again"
_MEMORY = "resources.limits.memory of the source"
_MOST_METRICS = 32


def stage(version: ModelVersion, index: int) -> str:
    """For people: "step 2 of 3 (cluster)"."""
    names = stages(version)
    if version.spec.source.import_ is not None:
        return "the import"
    if version.spec.source.combine is not None:
        return "the combination"
    steps = len(names) - 1
    if names[index] == "search":
        return "the search"
    return "the publication" if index == steps else f"step {index + 1} of {steps} ({names[index]})"


def parents(origins: Iterable[VersionOrigin]) -> str:
    return ", ".join(f"{one.name} ({one.digest[:19]}…)" for one in origins)


def published(version: ModelVersion) -> str:
    if version.spec.source.import_ is not None:
        return f"imported from {version.spec.source.import_.uri}"
    lineage, size = version.status.lineage, version.status.size
    origins = (lineage.parents if lineage else None) or ()
    names = ", ".join(one.name for one in origins)
    if version.spec.source.combine is not None:
        return f"combined of {names} ({version.spec.source.combine.method})"
    before, after = size.parent if size else None, size.version if size else None
    told = f", {after.bytes} bytes of {before.bytes}" if before and after and before.bytes and after.bytes else ""
    search = version.status.search
    how = f"by {search.chosen}" if search else f"in {len(stages(version)) - 1} steps"
    return f"compressed out of {names} {how}{told}"


def waits(pods: Sequence[StagePodView]) -> str:
    """What a Job that has not ended is about."""
    for pod in pods:
        if pod.waits and pod.exit_code is None:
            return f"waits: the pod cannot start: {pod.waits_reason}: {pod.waits}"
    if any(pod.phase == "Running" for pod in pods):
        return "runs"
    ended = next((pod for pod in pods if pod.exit_code), None)
    if ended is not None:
        return f"is tried again: {podstate.why_pod(ended, DerivationSummary.from_message, _MEMORY)[1]}"
    return "begins: the pod starts"


def summary(pods: Sequence[StagePodView]) -> DerivationSummary | None:
    """What a pod that succeeded said, else one that failed for good, else any."""
    told = [(pod, said) for pod in pods if (said := DerivationSummary.from_message(pod.message)) is not None]
    told.sort(key=lambda one: (one[0].exit_code != 0, Outcome.named(one[1].outcome).retried))
    return told[0][1] if told else None


def why(job: StageJobView, pods: Sequence[StagePodView], said: DerivationSummary | None) -> tuple[str, str]:
    """Reason and words of a Job that failed."""
    return podstate.why(job, pods, said, DerivationSummary.from_message, _MEMORY)


def shown(version: ModelVersion) -> frozenset[str]:
    """The metrics that status shows of each step, of all that were measured."""
    return version.spec.evaluation.shown if version.spec.evaluation else frozenset(USUAL)


def size(seen: Size | None, metrics: frozenset[str] | None = None) -> ModelSize | None:
    """With those `metrics`, or all."""
    if seen is None:
        return None
    told = {name: figure(value) for name, value in seen.metrics.items() if metrics is None or name in metrics}
    return ModelSize(
        bytes=seen.bytes,
        weights_bytes=seen.weights_bytes,
        parameters=seen.parameters,
        sparsity=figure(1 - seen.nonzero / seen.parameters) if seen.parameters else None,
        metrics=dict(sorted(told.items())[:_MOST_METRICS]) or None,
        latency_p50=f"{figure(seen.latency_p50_ms)}ms" if seen.latency_p50_ms is not None else None,
    )


def seconds(said: DerivationSummary) -> str:
    return figure(said.seconds)


def notes(said: DerivationSummary) -> tuple[str, ...] | None:
    return tuple(one[:1024] for one in said.notes[:16]) or None


def change(said: DerivationSummary) -> str:
    """What a step did, on one line."""
    before, after = said.before, said.after
    if before is None or after is None:
        return "done"
    told = [f"{before.weights_bytes} to {after.weights_bytes} bytes of weights"]
    told += [
        f"{name} {figure(before.metrics[name])} to {figure(after.metrics[name])}"
        for name in sorted(USUAL & before.metrics.keys() & after.metrics.keys())
    ]
    if before.latency_p50_ms is not None and after.latency_p50_ms is not None:
        told.append(f"p50 {figure(before.latency_p50_ms)} to {figure(after.latency_p50_ms)} ms")
    return ", ".join(told)


def measured(version: ModelVersion, said: DerivationSummary) -> dict[str, Any]:
    """Metrics and sizes of the whole version, where it came so far that it was measured."""
    made: dict[str, Any] = {}
    if said.metrics:
        made["metrics"] = {name: figure(value) for name, value in sorted(said.metrics.items())[:64]}
    if said.stage == len(stages(version)) - 1 and (said.before or said.after):
        metrics = shown(version)
        made["size"] = VersionSize(parent=size(said.before, metrics), version=size(said.after, metrics))
    return made


def searched(version: ModelVersion, said: DerivationSummary) -> dict[str, Any]:
    """What status says of a search for a target's steps."""
    found = said.search
    if found is None:
        return {}
    outcome: Any = "Accepted" if found.chosen else said.outcome
    if outcome not in ("Accepted", "Infeasible", "Regression"):
        return {}
    front = tuple(
        SearchedCandidate(
            steps=one.steps[:256],
            bytes=one.bytes,
            latency_p50=f"{figure(one.latency_p50_ms)}ms" if one.latency_p50_ms is not None else None,
            figure=figure(one.figure),
            regression=figure(one.regression),
            fits=one.fits,
        )
        for one in found.front[:32]
    )
    search = VersionSearch(
        outcome=outcome,
        metric=found.metric,
        reference=figure(found.reference),
        tried=found.tried,
        chosen=found.chosen_words[:256] if found.chosen_words else None,
        front=front or None,
    )
    lineage = version.status.lineage
    steps = {"lineage": lineage.model_copy(update={"steps": len(found.chosen)})} if lineage and found.chosen else {}
    return {"search": search, **steps}


def result(version: ModelVersion, said: DerivationSummary) -> dict[str, Any]:
    """What status says of a version that is published."""
    assert said.artifact is not None  # noqa: S101 - the plan has looked
    artifact = ArtifactStatus(uri=said.artifact.uri, digest=said.artifact.digest)
    return {"artifact": artifact, **measured(version, said)}


def worst_step(version: ModelVersion, reason: str, message: str) -> str:
    """Of a gate that was missed: at which step most of its metric was lost, as far as the steps say it."""
    if reason != Outcome.GATE_FAILED.reason or version.spec.source.compress is None:
        return ""
    gates = (version.spec.evaluation.gates if version.spec.evaluation else None) or ()
    metric = next(
        (gate.metric for gate in gates if message.startswith(f"{gate.metric} ") or gate.metric in message), ""
    )
    moved = []
    for one in version.status.steps or ():
        before, after = _metric(one.before, metric), _metric(one.after, metric)
        if before is not None and after is not None:
            moved.append((abs(float(after) - float(before)), one.number, before, after))
    if not moved:
        return ""
    _, number, before, after = max(moved, key=lambda one: one[0])
    return (
        f". Most changed at {stage(version, number - 1)}: {metric} {before} before it and {after} after"
        " (validation split)"
    )


def _metric(of: ModelSize | None, name: str) -> str | None:
    return (of.metrics or {}).get(name) if of else None
