"""What goes with which task, and what is said of what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from modelwright import contract
from modelwright.api import tasks
from modelwright.api.evaluation import MEASURED, USUAL, Metric
from modelwright.api.training_job import TrainingJob
from modelwright.controllers.trainingjob import dataset, resolve
from modelwright.controllers.trainingjob.dataset import Missing

from tests.unit.test_trainingjob_dataset import READY, a_dataset, a_job
from tests.unit.test_trainingjob_resolve import OBJECT, SETTINGS, job

FILE = OBJECT["spec"]["data"]
ROWS = {"uri": "s3://bucket/rows.parquet"}


def data(task: str) -> dict[str, Any]:
    return {**ROWS, "task": task} if task in tasks.WITHOUT_TARGET else {**FILE, "task": task}


def problem(task: str, recipe: str = "mlp", **spec: Any) -> str:
    hyperparameters = spec.pop("hyperparameters", {})
    wanted = resolve.wanted(
        job(data=data(task), trainer={"recipe": recipe, "hyperparameters": hyperparameters}, **spec), SETTINGS
    )
    assert wanted.problem_reason in ("", "InvalidTask")
    return wanted.problem


EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*/training-job.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_an_example_is_right_as_it_is(path: Path) -> None:
    manifest = yaml.safe_load(path.read_text())
    metadata = {**manifest["metadata"], "namespace": "team", "uid": "uid", "generation": 1}
    asked = TrainingJob.model_validate({**manifest, "metadata": metadata})
    assert resolve.wanted(asked, SETTINGS).problem == ""
    if asked.spec.data.dataset_ref is None:
        resolve.blueprint(asked, SETTINGS, attempt=1, owner={"uid": "u"})


def test_contract_and_api_name_the_same_tasks_and_metrics() -> None:
    assert get_args(contract.Task) == get_args(tasks.Task)
    assert contract.WITHOUT_TARGET == tasks.WITHOUT_TARGET
    assert MEASURED.keys() == set(get_args(tasks.Task))
    measured = {metric for metrics in MEASURED.values() for metric in metrics}
    assert measured == set(get_args(Metric))
    assert measured >= USUAL
    assert all(set(metrics) & USUAL for metrics in MEASURED.values())


@pytest.mark.parametrize(
    ("task", "recipe", "hyperparameters"),
    [
        ("Classification", "mlp", {"classWeights": "Balanced", "mixup": "0.2"}),
        ("Regression", "linear", {"classWeights": "None", "mixup": "0.2"}),
        ("Classification", "cnn", {"imageShape": "1,8,8"}),
        ("AnomalyDetection", "autoencoder", {}),
        ("Clustering", "kmeans", {"clusters": "4"}),
        ("AnomalyDetection", "pca", {}),
        ("Regression", "gradient-boosting", {"trees": "10"}),
        ("LanguageModelling", "transformer", {"vocabulary": "100"}),
        ("Classification", "transformer", {"vocabulary": "100", "classWeights": "Balanced"}),
    ],
)
def test_a_recipe_is_taken_for_what_it_does(task: str, recipe: str, hyperparameters: dict[str, str]) -> None:
    assert problem(task, recipe, hyperparameters=hyperparameters) == ""


@pytest.mark.parametrize(
    ("task", "recipe", "spec", "words"),
    [
        ("AnomalyDetection", "mlp", {},
         "spec.trainer.recipe: mlp does Classification and Regression, and the task is AnomalyDetection: take autoenc"),
        ("Classification", "autoencoder", {},
         "autoencoder does AnomalyDetection, and the task is Classification: take cnn or gradient-boosting or linear"),
        ("Clustering", "kmeans", {"workers": {"replicas": 2}},
         "spec.workers.replicas: kmeans is fitted at once, by one process: write 1, or leave it out"),
        ("Clustering", "kmeans", {"workers": {"processesPerWorker": 4}},
         "spec.workers.processesPerWorker: kmeans is fitted at once, by one process: write 1, or leave it out"),
        ("AnomalyDetection", "pca", {"strategy": {"type": "DDP"}},
         "spec.strategy: pca is fitted at once, and not in steps: leave it out"),
        ("Regression", "gradient-boosting", {"earlyStopping": {"patience": 3}},
         "spec.earlyStopping: gradient-boosting is fitted at once, and not in steps: leave it out"),
        ("Regression", "gradient-boosting", {"checkpoint": {"everySteps": 3}},
         "spec.checkpoint.everySteps: gradient-boosting is fitted at once, and not in steps: leave it out"),
        ("Regression", "mlp", {"hyperparameters": {"classWeights": "Balanced"}},
         "spec.trainer.hyperparameters.classWeights: Balanced is of Classification, and the task is Regression: leave"),
        ("Regression", "mlp", {"evaluation": {"metrics": ["r2", "accuracy"]}},
         "spec.evaluation.metrics[1]: accuracy is not measured; with the task Regression there are mae, mse, rmse, r2"),
        ("Classification", "mlp", {"evaluation": {"gates": [{"metric": "mae", "max": "3"}]}},
         "spec.evaluation.gates[0].metric: mae is not measured; with the task Classification there are accuracy"),
        ("Regression", "linear", {"earlyStopping": {"metric": "validation_accuracy"}},
         "spec.earlyStopping.metric: the task Regression has no accuracy: write validation_loss"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_the_task_is_told_before_a_pod_is_started(
    task: str, recipe: str, spec: dict[str, Any], words: str
) -> None:
    assert words in problem(task, recipe, **spec)


def test_the_same_is_told_of_a_dataset_s_task_before_it_is_written_down() -> None:
    ready = dataset.found("digits", a_dataset(READY))
    asked = a_job(trainer={"recipe": "autoencoder"})
    missing = dataset.suited(asked, ready)
    assert isinstance(missing, Missing)
    assert (missing.reason, missing.stalled) == ("InvalidTask", True)
    assert missing.message.startswith("spec.trainer.recipe: autoencoder does AnomalyDetection, and the task is Class")
    assert dataset.suited(a_job(), ready) is ready


def test_a_dataset_that_was_written_down_is_looked_at_anew_when_the_recipe_is_of_another_task() -> None:
    ready = dataset.found("digits", a_dataset(READY))
    assert not isinstance(ready, Missing)
    status = {"phase": "Running", "data": ready.to_object()}
    assert dataset.pinned(a_job(status)) == ready
    assert dataset.pinned(a_job(status, trainer={"recipe": "autoencoder"})) is None


def test_a_dataset_without_a_target_wants_a_task_and_one_with_a_target_may_be_learned_without_it() -> None:
    bare = a_dataset(READY).model_copy(deep=True)
    bare = bare.model_validate({**bare.model_dump(by_alias=True), "spec": {**bare.spec.to_object(), "schema": {}}})
    seen = dataset.found("digits", bare)
    missing = dataset.suited(a_job(), seen)
    assert isinstance(missing, Missing)
    assert missing.message.startswith("spec.data.task: Dataset digits has no target, and so no task: write Anomaly")
    reference = {"datasetRef": {"name": "digits"}, "task": "AnomalyDetection"}
    for one in (seen, dataset.found("digits", a_dataset(READY))):
        assert not isinstance(one, Missing)
        asked = a_job({"phase": "Starting", "data": one.to_object()}, data=reference, trainer={"recipe": "autoencoder"})
        assert dataset.suited(asked, one) is one
        assert resolve.wanted(asked, SETTINGS).problem == ""
        run = resolve.blueprint(asked, SETTINGS, attempt=1, owner={"uid": "u"}).run
        assert isinstance(run, contract.TrainingRun)
        assert (run.data.task, run.data.digest) == ("AnomalyDetection", one.artifact.digest)


def test_what_is_fitted_at_once_has_one_process_however_many_gpus() -> None:
    limits = {"resources": {"limits": {"nvidia.com/gpu": 2}}}
    for recipe, expected in (("gradient-boosting", 1), ("mlp", 2)):
        asked = job(data=data("Classification"), trainer={"recipe": recipe}, workers=limits)
        assert resolve.wanted(asked, SETTINGS).problem == ""
        run = resolve.blueprint(asked, SETTINGS, attempt=1, owner={"uid": "u"}).run
        assert run.workers.world_size == expected


def test_status_shows_the_usual_metrics_and_those_of_gates_or_what_is_asked_for() -> None:
    def shown(**evaluation: Any) -> frozenset[str]:
        return job(evaluation=evaluation).spec.evaluation.shown

    assert shown() == USUAL
    assert shown(gates=[{"metric": "mse", "max": "3"}]) == {*USUAL, "mse"}
    assert shown(metrics=["accuracy"]) == {"accuracy"}


def test_which_metrics_status_shows_and_a_stratify_that_is_written_out_change_no_training() -> None:
    before = resolve.run_hash(job())
    assert resolve.run_hash(job(evaluation={"metrics": ["accuracy"]})) == before
    divided = resolve.run_hash(job(data={**FILE, "split": {"seed": 7}}))
    assert resolve.run_hash(job(data={**FILE, "split": {"seed": 7, "stratify": True}})) == divided
    assert resolve.run_hash(job(data={**FILE, "split": {"seed": 7, "stratify": False}})) != divided


def test_a_fingerprint_tells_tasks_apart_and_is_for_classification_what_it_was() -> None:
    def print_of(**stated: Any) -> str:
        run = contract.TrainingRun.model_validate(
            {"namespace": "n", "name": "j", "uid": "u", "publish": {"model": "m", "version": "1.0.0"},
             "store": {"uri": "s3://b"}, "trainer": {"recipe": "mlp"}, "data": {"uri": "s3://b/x", **stated}}
        )  # fmt: skip
        return run.fingerprint("sha256:0", {"epochs": "1"})

    digest = "sha256:" + "1" * 64
    assert print_of(target="y") == "sha256:76e9ce0e0f986f4dea0904dad910d4a44375070ef3195da8d2d64c4280090d0a"
    assert len({print_of(target="y"), print_of(target="y", task="Regression"), print_of(task="AnomalyDetection")}) == 3
    # The task of a prepared data set is told by its digest: before its manifest is read nobody knows it.
    assert print_of(digest=digest) == print_of(digest=digest, task="Regression")
    assert print_of(digest=digest) != print_of(digest=digest, task="AnomalyDetection")
