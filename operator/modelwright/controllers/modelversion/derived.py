"""The decisions of a version that is made out of others: one Job after the other, each recorded before the next. Pure.

First what it is made of is pinned in status. Then each stage has a Job, until its word is in status; the next begins
after that. A Job whose word was lost with its pod goes, and is made again: it finds what it has made, and says it
again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from modelwright.api.model_version import ModelVersion, ModelVersionStatus, VersionLineage
from modelwright.api.storage import StorageStatus
from modelwright.api.version_status import VersionStep
from modelwright.controllers.modelversion import derived_words as words
from modelwright.controllers.modelversion.derive_job import stages
from modelwright.controllers.modelversion.derive_observed import StageJobView, StagePodView
from modelwright.controllers.modelversion.origins import Missing, Origins
from modelwright.derivation import DerivationSummary
from modelwright.kube import conditions
from modelwright.kube.conditions import State

COMPRESSING, COMBINING, IMPORTING, PUBLISHED = "Compressing", "Combining", "Importing", "Published"


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """An Event."""

    reason: str
    message: str
    warning: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class DerivedPlan:
    """`start`: make the Job of this stage. `end`: Jobs that have done their work, and go. `look_again` is in seconds;
    None: when something changes."""

    status: ModelVersionStatus
    state: State
    start: int | None = None
    end: tuple[StageJobView, ...] = ()
    told: tuple[Told, ...] = ()
    look_again: float | None = None


def is_pinned(version: ModelVersion) -> bool:
    """Whether status says what the version is made of: then that is not looked for again."""
    return bool(version.status.steps)


def has_ended(version: ModelVersion) -> bool:
    # One whose spec this operator could not read failed without being looked at, and is looked at now.
    failed = version.status.phase == "Failed" and version.status.observed_generation is not None
    return version.status.artifact is not None or failed


def plan_ended(version: ModelVersion, jobs: Sequence[StageJobView]) -> DerivedPlan:
    """Of a version that is published, and stays so; or failed, and stays so, with its last Job for the logs."""
    before = version.status
    status = before.model_copy(update={"observed_generation": version.metadata.generation})
    held = next((one for one in before.conditions or () if one.type == "Ready"), None)
    reason, message = (held.reason, held.message) if held else ("Unknown", "its conditions were removed")
    if before.artifact is not None:
        status = status.model_copy(update={"phase": "Ready"})
        return DerivedPlan(status, conditions.achieved("Ready", PUBLISHED, words.published(version)), end=tuple(jobs))
    return DerivedPlan(status, conditions.stalled("Ready", reason, message))


def plan_origins(
    version: ModelVersion, seen: Origins | Missing, inherited: VersionLineage, storage: StorageStatus
) -> DerivedPlan:
    """Of a version whose parents are not pinned: they are, where all are there. `inherited` is how the parent was
    trained, where there is one parent."""
    blank = version.status.model_copy(
        update={"observed_generation": version.metadata.generation, "phase": "Pending", "storage": storage}
    )
    if not storage.uri:
        message = "spec.storage.uri: required, since the operator has no default store (chart: storage.uri)"
        return DerivedPlan(blank, conditions.stalled("Ready", "NoStorage", message))
    if isinstance(seen, Missing):
        said = conditions.stalled if seen.stalled else conditions.in_progress
        told = (Told(seen.reason, seen.message, warning=True),) if seen.stalled else ()
        return DerivedPlan(blank, said("Ready", seen.reason, seen.message), told=told)
    source = version.spec.source
    lineage = inherited.model_copy(
        update={
            "parents": seen.parents or None,
            "steps": len(source.compress.steps) if source.compress and source.compress.steps else None,
            "method": source.combine.method if source.combine else None,
        }
    )
    status = blank.model_copy(
        update={
            "lineage": lineage,
            "evaluation": seen.evaluation,
            "steps": tuple(VersionStep(number=index + 1, name=name) for index, name in enumerate(stages(version))),
        }
    )
    imported = source.import_
    message = f"{words.stage(version, 0)} begins: on {imported.uri if imported else words.parents(seen.parents)}"
    state = conditions.in_progress("Ready", _doing(version), message)
    return DerivedPlan(status, state, told=(Told(_doing(version), message),), look_again=0.0)


def plan_stages(
    version: ModelVersion, jobs: Sequence[StageJobView], pods: Mapping[str, Sequence[StagePodView]]
) -> DerivedPlan:
    """Of a version that is under way; `pods` are by the uid of their Job."""
    stage = _reached(version)
    old = tuple(job for job in jobs if job.stage < stage and not job.deleting)
    job = next((job for job in jobs if job.stage == stage), None)
    if job is None:
        made = _under_way(version, stage, "begins")
        return dataclasses.replace(made, start=stage, end=old)
    if job.deleting:
        return dataclasses.replace(_under_way(version, stage, f"Job {job.name} goes, and is made again"), end=old)
    own = pods.get(job.uid, ())
    if not job.ended or any(pod.exit_code is None for pod in own):
        # Of an ended Job whose pod seems to run the watch has yet to tell.
        running = any(pod.phase == "Running" for pod in own)
        return dataclasses.replace(_under_way(version, stage, words.waits(own), running=running), end=old)
    said = words.summary(own)
    if job.ended == "Complete":
        if said is None or (said.artifact is None and stage == len(stages(version)) - 1):
            # Its word was lost with its pod: it is asked again.
            made = _under_way(version, stage, "is run again: the pod was lost before its result was read")
            return dataclasses.replace(made, end=(*old, job))
        return dataclasses.replace(_succeeded(version, stage, said), end=old)
    return dataclasses.replace(_failed(version, stage, said, *words.why(job, own, said)), end=old)


def _doing(version: ModelVersion) -> str:
    if version.spec.source.import_ is not None:
        return IMPORTING
    return COMPRESSING if version.spec.source.compress is not None else COMBINING


def _reached(version: ModelVersion) -> int:
    """The stage that is to be done, or is."""
    return sum(one.state == "Succeeded" for one in version.status.steps or ())


def _with_step(version: ModelVersion, stage: int, **update: object) -> tuple[VersionStep, ...]:
    steps = version.status.steps or ()
    return (*steps[:stage], steps[stage].model_copy(update=update), *steps[stage + 1 :])


def _under_way(version: ModelVersion, stage: int, what: str, *, running: bool = False) -> DerivedPlan:
    known = (version.status.steps or ())[stage].state
    # A step that has begun stays so while it waits for another pod.
    state = "Running" if running or known == "Running" else "Pending"
    status = version.status.model_copy(
        update={
            "observed_generation": version.metadata.generation,
            "phase": "Running" if running or stage or known == "Running" else "Pending",
            "steps": _with_step(version, stage, state=state),
        }
    )
    message = f"{words.stage(version, stage)} {what}"
    return DerivedPlan(status, conditions.in_progress("Ready", _doing(version), message))


def _succeeded(version: ModelVersion, stage: int, said: DerivationSummary) -> DerivedPlan:
    is_last = stage == len(stages(version)) - 1
    shown = words.shown(version)
    sizes = {} if is_last else {"before": words.size(said.before, shown), "after": words.size(said.after, shown)}
    steps = _with_step(
        version,
        stage,
        state="Succeeded",
        seconds=words.seconds(said),
        notes=words.notes(said),
        message=None,
        **sizes,
    )
    update: dict[str, object] = {"observed_generation": version.metadata.generation, "phase": "Running", "steps": steps}
    if not is_last:
        update |= words.searched(version, said)
        status = version.status.model_copy(update=update)
        message = f"{words.stage(version, stage + 1)} begins"
        state = conditions.in_progress("Ready", _doing(version), message)
        told = Told("StepSucceeded", f"{words.stage(version, stage)}: {words.change(said)}")
        return DerivedPlan(status, state, told=(told,), look_again=0.0)
    update |= {"phase": "Ready", **words.result(version, said)}
    made = version.model_copy(update={"status": version.status.model_copy(update=update)})
    message = words.published(made)
    state = conditions.achieved("Ready", PUBLISHED, message)
    return DerivedPlan(made.status, state, told=(Told(PUBLISHED, message),))


def _failed(
    version: ModelVersion, stage: int, said: DerivationSummary | None, reason: str, message: str
) -> DerivedPlan:
    told = f"{words.stage(version, stage)}: {message}{words.worst_step(version, reason, message)}. {words.AGAIN}"
    update: dict[str, object] = {
        "observed_generation": version.metadata.generation,
        "phase": "Failed",
        "steps": _with_step(
            version,
            stage,
            state="Failed",
            seconds=words.seconds(said) if said else None,
            notes=words.notes(said) if said else None,
            message=message[:2048],
        ),
    }
    if said is not None:
        # How good and how large it would have been, or what the search saw.
        update |= {**words.measured(version, said), **words.searched(version, said)}
    status = version.status.model_copy(update=update)
    return DerivedPlan(
        status, conditions.stalled("Ready", reason, told), told=(Told(reason, told, warning=True),)
    )  # fmt: skip
