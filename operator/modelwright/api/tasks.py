"""What goes with which task: recipes, hyperparameters, metrics, figures to stop by. What does not is told in status
before a pod is started, and not by the API server: the task may be a Dataset's, which it does not see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from modelwright.api.evaluation import MEASURED
from modelwright.api.recipes import PATH, RECIPES, FittedHyperparameters, HyperparameterError, parse

if TYPE_CHECKING:
    from modelwright.api.training_spec import TrainingJobSpec

Task = Literal["AnomalyDetection", "Classification", "Clustering", "LanguageModelling", "Regression"]
WITHOUT_TARGET: tuple[Task, ...] = ("AnomalyDetection", "Clustering", "LanguageModelling")
"""Tasks that learn from the rows alone."""
CEL_WITHOUT_TARGET = "[" + ", ".join(f"'{task}'" for task in WITHOUT_TARGET) + "]"
# Those whose result hits or misses.
_HITS = ("Classification", "LanguageModelling")


def problems(spec: TrainingJobSpec, task: str) -> tuple[str, ...]:
    """What of a recipe's job does not go with the task, a line for each. Hyperparameters that are wrong by
    themselves are told by `parse`."""
    return tuple(_problems(spec, task))


def _problems(spec: TrainingJobSpec, task: str) -> Iterator[str]:
    recipe = spec.trainer.recipe
    if recipe is None:
        return
    if task not in RECIPES[recipe].tasks:
        able = [name for name, model in RECIPES.items() if task in model.tasks]
        yield (
            f"spec.trainer.recipe: {recipe} does {' and '.join(RECIPES[recipe].tasks)}, and the task is {task}: take"
            f" {' or '.join(able)}"
        )
        return
    try:
        given = parse(recipe, dict(spec.trainer.hyperparameters or {}))
    except HyperparameterError:
        return
    stated = given.to_strings()
    for name, tasks in given.of_tasks.items():
        if task not in tasks and getattr(given, name) != type(given).model_fields[name].default:
            alias = str(type(given).model_fields[name].alias)
            yield f"{PATH}.{alias}: {stated[alias]} is of {' and '.join(tasks)}, and the task is {task}: leave it out"
    if issubclass(RECIPES[recipe], FittedHyperparameters):
        yield from _of_steps(spec, recipe)
    measured = MEASURED[task]
    there = f"with the task {task} there are {', '.join(measured)}"
    for index, metric in enumerate(spec.evaluation.metrics or ()):
        if metric not in measured:
            yield f"spec.evaluation.metrics[{index}]: {metric} is not measured; {there}"
    for index, gate in enumerate(spec.evaluation.gates or ()):
        if gate.metric not in measured:
            yield f"spec.evaluation.gates[{index}].metric: {gate.metric} is not measured; {there}"
    stopping = spec.early_stopping
    if stopping is not None and stopping.metric == "validation_accuracy" and task not in _HITS:
        yield (f"spec.earlyStopping.metric: the task {task} has no accuracy: write validation_loss")


def _of_steps(spec: TrainingJobSpec, recipe: str) -> Iterator[str]:
    """What is of recipes that many processes train in steps."""
    for path, many in (
        ("spec.workers.replicas", spec.workers.replicas),
        ("spec.workers.processesPerWorker", spec.workers.processes_per_worker or 1),
    ):
        if many > 1:
            yield f"{path}: {recipe} is fitted at once, by one process: write 1, or leave it out"
    for path, given in (
        ("spec.trainer.initFrom", spec.trainer.init_from),
        ("spec.strategy", spec.strategy),
        ("spec.earlyStopping", spec.early_stopping),
        ("spec.checkpoint.everySteps", spec.checkpoint.every_steps),
        ("spec.checkpoint.local", spec.checkpoint.local),
    ):
        if given is not None:
            yield f"{path}: {recipe} is fitted at once, and not in steps: leave it out"
