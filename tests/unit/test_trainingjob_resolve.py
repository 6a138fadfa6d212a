"""From what the user wrote to what the plan and the pods are told."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from modelwright import contract
from modelwright.api.training_job import TrainingJob
from modelwright.controllers.trainingjob import resolve
from modelwright.owncode import Code, OwnRun
from modelwright.settings import Misconfigured, Settings, StorageDefaults, from_environment

SETTINGS = Settings(
    "system", "trainer:1", storage=StorageDefaults("s3://default/store", "http://s3", "us-east-1", "store")
)
OBJECT: dict[str, Any] = {
    "apiVersion": "modelwright.dev/v1alpha1",
    "kind": "TrainingJob",
    "metadata": {"name": "digits", "namespace": "team", "uid": "uid", "generation": 1, "resourceVersion": "1"},
    "spec": {
        "publish": {"model": "digits", "version": "1.0.0"},
        "data": {"uri": "s3://bucket/rows.parquet", "target": "label", "task": "Classification"},
        "trainer": {"recipe": "mlp", "hyperparameters": {"epochs": "3"}},
    },
}


def job(**spec: object) -> TrainingJob:
    obj = copy.deepcopy(OBJECT)
    obj["spec"] |= spec
    return TrainingJob.model_validate(obj)


def test_what_the_spec_leaves_out_of_the_store_is_the_operator_s() -> None:
    storage = resolve.storage_status(job(storage={"uri": "s3://mine/x"}), SETTINGS)
    assert (storage.uri, storage.endpoint, storage.region) == ("s3://mine/x", "http://s3", "us-east-1")
    assert storage.secret_ref is not None
    assert storage.secret_ref.name == "store"


def test_without_any_store_the_job_says_which_field_is_missing() -> None:
    wanted = resolve.wanted(job(), Settings("system", "trainer:1"))
    assert wanted.problem_reason == "NoStorage"
    assert wanted.problem.startswith("spec.storage.uri: required")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"learnngRate": "0.1"}, "did you mean learningRate?"),
        ({"epochs": "0"}, "spec.trainer.hyperparameters.epochs"),
        ({"batchSize": "many"}, "spec.trainer.hyperparameters.batchSize"),
    ],
)
def test_hyperparameters_are_checked_by_the_recipe(given: dict[str, str], words: str) -> None:
    wanted = resolve.wanted(job(trainer={"recipe": "mlp", "hyperparameters": given}), SETTINGS)
    assert wanted.problem_reason == "InvalidHyperparameter"
    assert words in wanted.problem


def mounted(*paths: str, container: str = "trainer") -> dict[str, Any]:
    mounts = [{"name": "fast", "mountPath": path} for path in paths]
    return {"podTemplate": {"spec": {"containers": [{"name": container, "volumeMounts": mounts}]}}}


LOCAL = {"local": {"path": "/checkpoints/here", "everySteps": 5}}


@pytest.mark.parametrize("workers", [{}, mounted(), mounted("/checkpoint"), mounted("/checkpoints", container="other")])
def test_local_checkpoints_need_a_volume_of_the_trainer_s(workers: dict[str, Any]) -> None:
    wanted = resolve.wanted(job(checkpoint=LOCAL, workers=workers), SETTINGS)
    assert wanted.problem_reason == "InvalidSpec"
    assert wanted.problem.startswith("spec.checkpoint.local.path: no volume is mounted at /checkpoints/here: add one")


@pytest.mark.parametrize("at", ["/checkpoints/here", "/checkpoints", "/checkpoints/"])
def test_local_checkpoints_are_told_to_the_pods(at: str) -> None:
    stated = job(checkpoint=LOCAL, workers=mounted(at))
    assert not resolve.wanted(stated, SETTINGS).problem
    told = resolve.blueprint(stated, SETTINGS, attempt=1, owner={"uid": "uid"}).run.checkpoint
    assert told == contract.Checkpointing(
        every_steps=50, local=contract.LocalCheckpointing(path="/checkpoints/here", every_steps=5)
    )


def test_a_priority_class_is_given_in_one_place() -> None:
    workers = {"priorityClassName": "low", "podTemplate": {"spec": {"priorityClassName": "high"}}}
    wanted = resolve.wanted(job(workers=workers), SETTINGS)
    assert (wanted.problem_reason, wanted.problem) == (
        "InvalidSpec",
        "spec.workers.priorityClassName: given in podTemplate.spec.priorityClassName as well; leave out one of them",
    )


def test_a_change_of_what_is_trained_changes_the_run_and_a_suspension_does_not() -> None:
    before = resolve.run_hash(job())
    assert resolve.run_hash(job(suspend=True, failurePolicy={"maxRestarts": 9})) == before
    assert resolve.run_hash(job(workers={"replicas": 3})) != before
    assert resolve.run_hash(job(storage={"uri": "s3://other/x"})) != before


def test_a_field_that_is_written_as_it_is_by_default_changes_nothing() -> None:
    before = resolve.run_hash(job())
    assert resolve.run_hash(job(failurePolicy={"stallTimeout": "10m"}, workers={"replicas": 1}, strategy={})) == before
    assert resolve.run_hash(job(failurePolicy={"stallTimeout": "5m"})) != before


@pytest.mark.parametrize(
    ("stated", "metric", "mode"),
    [
        ({}, "validation_loss", "Min"),
        ({"metric": "validation_accuracy"}, "validation_accuracy", "Max"),
        ({"metric": "validation_accuracy", "mode": "Min"}, "validation_accuracy", "Min"),
    ],
)
def test_the_pods_are_told_when_to_stop_and_when_they_hang(stated: dict[str, object], metric: str, mode: str) -> None:
    stopping = {"patience": 5, **stated}
    spec = job(earlyStopping=stopping, failurePolicy={"stallTimeout": "1m30s"})
    run = resolve.blueprint(spec, SETTINGS, attempt=1, owner={"uid": "uid"}).run
    assert run.early_stopping is not None
    assert (run.early_stopping.metric, run.early_stopping.mode, run.early_stopping.patience) == (metric, mode, 5)
    assert run.stall_seconds == 90
    assert resolve.blueprint(job(), SETTINGS, attempt=1, owner={"uid": "uid"}).run.early_stopping is None


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        (None, contract.Strategy()),
        ({"type": "FSDP", "shardSize": 2}, contract.Strategy(type="FSDP", shard_size=2)),
        (
            {"type": "LocalSGD", "localSteps": 8, "outerLearningRate": "0.7", "outerMomentum": "0.9"},
            contract.Strategy(type="LocalSGD", local_steps=8, outer_learning_rate=0.7, outer_momentum=0.9),
        ),
    ],
)
def test_the_pods_are_told_how_to_share_the_work(stated: dict[str, object] | None, told: contract.Strategy) -> None:
    spec = job(strategy=stated, workers={"replicas": 4})
    run = resolve.blueprint(spec, SETTINGS, attempt=1, owner={"uid": "uid"}).run
    assert isinstance(run, contract.TrainingRun)
    assert run.strategy == told


def test_copies_of_the_model_that_do_not_come_out_even_are_refused_where_gpus_say_how_many_processes_there_are() -> (
    None
):
    workers = {"replicas": 3, "resources": {"limits": {"nvidia.com/gpu": 3}}}
    wanted = resolve.wanted(job(strategy={"type": "FSDP", "shardSize": 2}, workers=workers), SETTINGS)
    assert (wanted.problem_reason, wanted.problem) == (
        "InvalidSpec",
        "spec.strategy.shardSize: 2 does not divide the processes of 3 workers with 3 processes each",
    )


def test_an_upgrade_of_the_operator_restarts_nobody() -> None:
    upgraded = Settings("system", "trainer:2", storage=StorageDefaults("s3://elsewhere/x"))
    assert resolve.wanted(job(), upgraded).run_hash == resolve.wanted(job(), SETTINGS).run_hash


@pytest.mark.parametrize(
    ("workers", "processes"),
    [
        ({}, 1),
        ({"resources": {"limits": {"nvidia.com/gpu": 4}}}, 4),
        ({"resources": {"limits": {"nvidia.com/gpu": 4}}, "processesPerWorker": 2}, 2),
        ({"resources": {"limits": {"cpu": "4"}}}, 1),
    ],
)
def test_a_worker_has_a_process_for_each_gpu(workers: dict[str, object], processes: int) -> None:
    made = resolve.blueprint(job(workers=workers), SETTINGS, attempt=1, owner={"uid": "uid"})
    assert made.run.workers.processes_per_worker == processes


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(Misconfigured, match="MODELWRIGHT_TRAINER_IMAGE is not set: it is the image of training pods"):
        from_environment({"MODELWRIGHT_NAMESPACE": "system"})
    with pytest.raises(Misconfigured, match="'x' is no port"):
        from_environment({"MODELWRIGHT_METRICS_PORT": "x"})
    with pytest.raises(Misconfigured, match="MODELWRIGHT_LEASE_SECONDS: '1'; write a whole number from 3 to 3600"):
        from_environment({"MODELWRIGHT_LEASE_SECONDS": "1"})


OWN: dict[str, Any] = {
    "data": {"uri": "s3://bucket/raw/"},
    "trainer": {
        "image": "registry/team/own:1",
        "command": ["python", "train.py"],
        "env": [{"name": "A", "value": "1"}],
    },
}


def test_own_code_is_asked_for_no_recipe_and_told_to_the_containers_around_it() -> None:
    asked = job(**OWN, failurePolicy={"stallTimeout": "30s"}, checkpoint={"keep": 3})
    assert resolve.wanted(asked, SETTINGS).problem == ""
    made = resolve.blueprint(asked, SETTINGS, attempt=2, owner={"uid": "uid"})
    assert isinstance(made.run, OwnRun)
    assert (made.run.keep, made.run.stall_seconds, made.run.attempt) == (3, 30, 2)
    assert made.run.code == Code(image="registry/team/own:1", command=("python", "train.py"), env={"A": "1"})
    assert made.image == "trainer:1"


def test_a_longer_grace_period_of_the_pod_is_one_for_the_code_s_last_checkpoint() -> None:
    def grace(workers: dict[str, Any]) -> float:
        return resolve.blueprint(job(**OWN, workers=workers), SETTINGS, attempt=1, owner={}).run.grace_seconds

    longer = {"podTemplate": {"spec": {"terminationGracePeriodSeconds": 300}}}
    assert grace(longer) - grace({}) == 300 - 60
