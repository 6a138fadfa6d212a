"""The Dataset that a TrainingJob trains on: what is waited for, and what is kept of it once it is there. Pure.

Which data set it is goes into status before the first attempt is made from it, and all attempts take it from there: so
a later change of the Dataset changes nothing of a training that goes on from its checkpoints, and an operator that dies
in between makes the same attempt again. Only after a failure for good is the Dataset looked at anew, since it may be
what was mended.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from modelwright import contract
from modelwright.api.base import StatusRef
from modelwright.api.dataset import Dataset
from modelwright.api.evaluation import SHARES, Gate
from modelwright.api.tasks import WITHOUT_TARGET, Task, problems
from modelwright.api.training_job import TrainingData, TrainingJob
from modelwright.controllers.podspec import access
from modelwright.controllers.trainingjob.records import Plan
from modelwright.kube import conditions

# While one of these is the reason, an attempt was to be started.
NOT_READY, FAILED, READY = "DatasetNotReady", "DatasetFailed", "DatasetReady"
# Recipe, hyperparameters or metrics are not of the task.
UNFIT = "InvalidTask"
VERSION_NOT_READY = "InitialVersionNotReady"
# Half of the 95 % interval around a figure that is a share of the test rows.
_NORMAL_95 = 1.96
_WIDEST = 0.05


@dataclasses.dataclass(frozen=True, slots=True)
class Missing:
    """Why there is nothing to train on yet. `stalled`: nothing comes of it until a person acts."""

    reason: str
    message: str
    stalled: bool = False


def name_of(job: TrainingJob) -> str | None:
    """Of the Dataset that the job refers to."""
    reference = job.spec.data.dataset_ref
    return reference.name if reference else None


def pinned(job: TrainingJob) -> TrainingData | None:
    """The data set that the next attempt is made from; None where the Dataset has to be looked at."""
    data, name = job.status.data, name_of(job)
    if data is None or data.dataset_ref.name != name or job.status.phase == "Failed":
        return None
    # A spec that was changed since may ask for what this Dataset is not for.
    return None if unfit(job, data.task) else data


def unfit(job: TrainingJob, task: str | None) -> str:
    """What of the job does not go with its Dataset, whose task that is; "" where all does, or the job names the task
    itself, which is looked at with the rest of its spec."""
    if job.spec.trainer.recipe is None or job.spec.data.task is not None:
        return ""
    if task is None:
        return (
            f"spec.data.task: Dataset {name_of(job)} has no target, and so no task: write"
            f" {' or '.join(WITHOUT_TARGET)}, or give the Dataset's schema a target and a task"
        )
    return "; ".join(problems(job.spec, task))


def suited(job: TrainingJob, seen: TrainingData | Missing) -> TrainingData | Missing:
    """What there is of the Dataset, where it is one that the job can be trained on."""
    said = unfit(job, seen.task) if isinstance(seen, TrainingData) else ""
    return Missing(UNFIT, said, stalled=True) if said else seen


def task_of(job: TrainingJob) -> str | None:
    """What is to be predicted; None where that is the Dataset's to say, and it was not looked at yet."""
    if job.spec.data.task is not None:
        return job.spec.data.task
    data = pinned(job)
    return data.task if data else None


def held_up(job: TrainingJob) -> bool:
    """Whether an attempt was to be started when the job was last looked at, and waited for the Dataset."""
    main = next((one for one in job.status.conditions or () if one.type == "Succeeded"), None)
    return main is not None and main.reason in (NOT_READY, FAILED, READY, UNFIT, VERSION_NOT_READY)


def found(name: str, dataset: Dataset | None) -> TrainingData | Missing:
    """What there is of the Dataset `name`; it is None where there is no such object."""
    if dataset is None:
        return Missing(NOT_READY, f"waiting for Dataset {name}, which does not exist: create it, or mend datasetRef")
    status, main = dataset.status, _succeeded(dataset)
    if status.observed_generation != dataset.metadata.generation:
        return Missing(NOT_READY, f"waiting for Dataset {name}, which is looked at")
    if status.phase == "Failed":
        return Missing(FAILED, f"Dataset {name} failed: {main}", stalled=True)
    if status.phase != "Succeeded" or status.artifact is None or status.storage is None:
        return Missing(NOT_READY, f"waiting for Dataset {name}, which is {status.phase}: {main}")
    return TrainingData(
        dataset_ref=StatusRef(name=name),
        artifact=status.artifact,
        task=dataset.spec.schema_.task,
        storage=status.storage,
        rows=status.splits,
    )


def _succeeded(dataset: Dataset) -> str:
    return next((one.message for one in dataset.status.conditions or () if one.type == "Succeeded"), "")


def settled(made: Plan, seen: TrainingData | Missing) -> Plan:
    """The plan, which would start an attempt, with that put off: until the Dataset is ready, or, where it is, until
    status says which it is."""
    before = made.attempt - 1
    if isinstance(seen, TrainingData):
        words = f"attempt {made.attempt} is starting: on Dataset {seen.dataset_ref.name}, {seen.artifact.digest}"
        state = conditions.in_progress("Succeeded", READY, words)
        return Plan("Pending", state, attempt=before, restarts=made.restarts, look_again=0.0, ends=made.ends)
    said = conditions.stalled if seen.stalled else conditions.in_progress
    state = said("Succeeded", seen.reason, seen.message)
    told = (seen.reason, seen.message)
    return Plan("Pending", state, attempt=before, restarts=made.restarts, event=told, ends=made.ends)


def contract_data(data: TrainingData, task: Task | None = None) -> contract.Data:
    """What the pods are told. `task` is the job's own."""
    made = contract.Data(uri=data.artifact.uri, digest=data.artifact.digest, store=access(data.storage))
    return made if task is None else made.model_copy(update={"task": task})


def warnings(data: TrainingData, gates: Iterable[Gate]) -> tuple[str, ...]:
    """A test split too small to tell whether a gate is kept: its figure is uncertain by more than five percentage
    points, or by half of what the gate leaves to the end of the scale. So much at least: the interval is a share's
    (normal approximation of the binomial), and a mean over classes is of fewer rows."""
    rows = data.rows.test if data.rows else 0
    told = []
    for gate in gates:
        bounds = [(word, float(bound)) for word, bound in (("min", gate.min), ("max", gate.max)) if bound is not None]
        for word, bound in bounds:
            if gate.metric not in SHARES or not rows or not 0 < bound < 1:
                continue
            half = _NORMAL_95 * math.sqrt(bound * (1 - bound) / rows)
            enough = min(_WIDEST, min(bound, 1 - bound) / 2)
            if half > enough:
                needed = math.ceil(bound * (1 - bound) * (_NORMAL_95 / enough) ** 2)
                told.append(
                    f"small test split: {gate.metric} measured on {rows} rows is uncertain by at least"
                    f" ±{100 * half:.1f} percentage points (95 %) at {word} {bound:g}, so that the gate decides by"
                    f" chance between models that are closer; {needed} rows would tell them apart to"
                    f" ±{100 * enough:.1f}"
                )
    return tuple(told)
