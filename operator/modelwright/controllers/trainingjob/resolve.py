"""From what the user wrote, and the operator's configuration, to what the plan and the pods are told. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from modelwright import contract, owncode
from modelwright.api import recipes, tasks
from modelwright.api.base import API_VERSION, StatusRef
from modelwright.api.storage import ArtifactRef, Storage, StorageStatus
from modelwright.api.training_data import Split
from modelwright.api.training_job import TrainingJob, TrainingProgress
from modelwright.api.training_own import is_own
from modelwright.api.training_workers import EarlyStopping
from modelwright.api.types import seconds
from modelwright.api.versions import model_version_name
from modelwright.controllers.trainingjob import children, dataset
from modelwright.controllers.trainingjob.plan import Publish, Told, Wanted
from modelwright.kube.resources import Object
from modelwright.kube.status import compact
from modelwright.settings import Settings

_GPU_SUFFIX = "/gpu"


def storage_status(job: TrainingJob, settings: Settings) -> StorageStatus:
    """The store that is used: what the spec leaves out is the operator's."""
    stated, defaults = job.spec.storage or Storage(), settings.storage
    secret = stated.secret_ref.name if stated.secret_ref else defaults.secret
    return StorageStatus(
        uri=stated.uri or defaults.uri,
        endpoint=stated.endpoint or defaults.endpoint or None,
        region=stated.region or defaults.region or None,
        secret_ref=StatusRef(name=secret) if secret else None,
    )


def _problem(job: TrainingJob, settings: Settings) -> tuple[str, str]:
    trainer = job.spec.trainer
    try:
        if trainer.recipe is not None:
            recipes.parse(trainer.recipe, dict(trainer.hyperparameters or {}))
    except recipes.HyperparameterError as error:
        return "InvalidHyperparameter", str(error)
    unfit = tasks.problems(job.spec, job.spec.data.task) if job.spec.data.task is not None else ()
    if unfit:
        return dataset.UNFIT, "; ".join(unfit)
    if not storage_status(job, settings).uri:
        return "NoStorage", "spec.storage.uri: required, since the operator has no default store (chart: storage.uri)"
    return "", ""


def version_name(job: TrainingJob) -> str:
    return model_version_name(job.spec.publish.model, job.spec.publish.version)


def wanted(job: TrainingJob, settings: Settings) -> Wanted:
    reason, problem = _problem(job, settings)
    return Wanted(
        suspend=job.spec.suspend,
        workers=job.spec.workers.replicas,
        max_restarts=job.spec.failure_policy.max_restarts,
        version_name=version_name(job),
        run_hash=run_hash(job),
        problem_reason=reason,
        problem=problem,
    )


def told(job: TrainingJob) -> Told:
    """What status says of attempts and of the result. What is published never changes, and so is believed."""
    status = job.status
    attempt = status.attempt.number if status.attempt else 0
    suspended = status.phase == "Suspended" or dataset.held_up(job)
    if status.artifact is None:
        return Told(attempt, suspended=suspended)
    metrics = tuple((name, float(figure)) for name, figure in sorted((status.metrics or {}).items()))
    at = status.progress or TrainingProgress()
    result = Publish(status.artifact.uri, status.artifact.digest, metrics, at.epoch or 0, at.step or 0)
    return Told(attempt, result, suspended)


def run_hash(job: TrainingJob) -> str:
    """Of all that an attempt is made from and that the user wrote. The operator's image and defaults are not among it:
    an upgrade of the operator restarts nobody's training."""
    # Without what is as it is by default: a field that a later version adds is no change of the user's.
    spec = job.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    for name in ("suspend", "publish"):
        spec.pop(name, None)
    spec.get("failurePolicy", {}).pop("maxRestarts", None)
    # What status shows of the metrics changes no training.
    spec.get("evaluation", {}).pop("metrics", None)
    if spec.get("data", {}).get("split", {}).get("stratify"):
        # As it is where it is left out; API servers wrote it down when it was a default.
        del spec["data"]["split"]["stratify"]
    return hashlib.sha256(json.dumps(compact(spec), sort_keys=True).encode()).hexdigest()[:16]


def _processes(job: TrainingJob) -> int:
    """Per worker: what is asked for, else one for each GPU, else one."""
    if job.spec.workers.processes_per_worker is not None:
        return job.spec.workers.processes_per_worker
    limits = job.spec.workers.resources.limits if job.spec.workers.resources else None
    gpus = [
        int(amount) for name, amount in (limits or {}).items() if name.endswith(_GPU_SUFFIX) and str(amount).isdigit()
    ]
    return max(1, sum(gpus))


def _early_stopping(rule: EarlyStopping | None) -> contract.EarlyStopping | None:
    if rule is None:
        return None
    mode = rule.mode or ("Min" if rule.metric.endswith("_loss") else "Max")
    return contract.EarlyStopping(metric=rule.metric, mode=mode, patience=rule.patience)


def _data(job: TrainingJob) -> contract.Data:
    """Raises ValueError where the Dataset is not known yet."""
    stated = job.spec.data
    if stated.uri is None:
        return _dataset(job)
    split = stated.split or Split()
    return contract.Data(
        uri=stated.uri,
        target=stated.target,
        task=stated.task or "Classification",
        split=contract.Split(
            train=float(split.train),
            validation=float(split.validation),
            test=float(split.test),
            stratify=split.stratify is not False,
            seed=split.seed,
        ),
    )


def _dataset(job: TrainingJob) -> contract.Data:
    data = dataset.pinned(job)
    if data is None:
        raise ValueError(f"{job.metadata.name}: its Dataset is to be settled before an attempt is made")
    return dataset.contract_data(data, job.spec.data.task)


def _own_data(job: TrainingJob) -> owncode.OwnData:
    """Raises ValueError where the Dataset is not known yet."""
    stated = job.spec.data
    if stated.uri is None:
        prepared = _dataset(job)
        return owncode.OwnData(uri=prepared.uri, digest=prepared.digest, store=prepared.store, task=stated.task)
    return owncode.OwnData(uri=stated.uri, target=stated.target, task=stated.task)


def _run(job: TrainingJob, storage: StorageStatus, attempt: int) -> contract.TrainingRun:
    """What the pods of a recipe are told."""
    spec = job.spec
    return contract.TrainingRun(
        namespace=job.metadata.namespace,
        name=job.metadata.name,
        uid=job.metadata.uid,
        attempt=attempt,
        publish=contract.Publish(model=spec.publish.model, version=spec.publish.version),
        store=contract.StoreAccess(uri=storage.uri, endpoint=storage.endpoint, region=storage.region),
        data=_data(job),
        trainer=contract.Trainer(
            recipe=spec.trainer.recipe or "", hyperparameters=dict(spec.trainer.hyperparameters or {})
        ),
        workers=_workers(job, attempt),
        early_stopping=_early_stopping(spec.early_stopping),
        checkpoint=contract.Checkpointing(every_steps=spec.checkpoint.every_steps or 50, keep=spec.checkpoint.keep),
        evaluation=contract.Evaluation(gates=_gates(job)),
        grace_seconds=children.TRAINER_GRACE_SECONDS,
        stall_seconds=seconds(spec.failure_policy.stall_timeout),
    )


def _own_run(job: TrainingJob, storage: StorageStatus, attempt: int) -> owncode.OwnRun:
    """What the containers around the user's own code are told."""
    spec, code = job.spec, job.spec.trainer
    overlay = spec.workers.pod_template.to_object() if spec.workers.pod_template else {}
    grace = (overlay.get("spec") or {}).get("terminationGracePeriodSeconds", children.GRACE_SECONDS)
    return owncode.OwnRun(
        namespace=job.metadata.namespace,
        name=job.metadata.name,
        uid=job.metadata.uid,
        attempt=attempt,
        publish=contract.Publish(model=spec.publish.model, version=spec.publish.version),
        store=contract.StoreAccess(uri=storage.uri, endpoint=storage.endpoint, region=storage.region),
        data=_own_data(job),
        code=owncode.Code(
            image=code.image or "",
            command=code.command,
            args=code.args,
            env={one.name: one.value for one in code.env or ()},
        ),
        workers=_workers(job, attempt),
        keep=spec.checkpoint.keep,
        gates=_gates(job),
        # What is left is for the last upload of all.
        grace_seconds=max(1.0, grace - children.GRACE_SECONDS + children.TRAINER_GRACE_SECONDS)
        if isinstance(grace, int)
        else children.TRAINER_GRACE_SECONDS,
        stall_seconds=seconds(spec.failure_policy.stall_timeout),
    )


def _workers(job: TrainingJob, attempt: int) -> contract.Workers:
    return contract.Workers(
        replicas=job.spec.workers.replicas,
        processes_per_worker=_processes(job),
        master=children.master(job.metadata.name, job.metadata.uid, attempt),
    )


def _gates(job: TrainingJob) -> tuple[contract.Gate, ...]:
    return tuple(
        contract.Gate(
            metric=gate.metric,
            min=float(gate.min) if gate.min is not None else None,
            max=float(gate.max) if gate.max is not None else None,
        )
        for gate in job.spec.evaluation.gates or ()
    )


def blueprint(job: TrainingJob, settings: Settings, *, attempt: int, owner: Object) -> children.Blueprint:
    """What the attempt's children are made from."""
    spec, storage = job.spec, storage_status(job, settings)
    run = _own_run(job, storage, attempt) if is_own(spec) else _run(job, storage, attempt)
    resources = spec.workers.resources.to_object() if spec.workers.resources else {}
    overlay = spec.workers.pod_template.to_object() if spec.workers.pod_template else {}
    return children.Blueprint(
        run=run,
        owner=owner,
        image=settings.trainer_image,
        secret=storage.secret_ref.name if storage.secret_ref else "",
        resources=resources,
        overlay=overlay,
        run_hash=run_hash(job),
    )


def model_version(job: TrainingJob) -> Object:
    """The ModelVersion that the job publishes. It has no owner: it outlives the job that made it."""
    publish = job.spec.publish
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelVersion",
        "metadata": {
            "name": version_name(job),
            "namespace": job.metadata.namespace,
            "labels": {"modelwright.dev/model": publish.model},
        },
        "spec": {
            "model": publish.model,
            "version": publish.version,
            "source": {"trainingJobRef": {"name": job.metadata.name}},
        },
    }


def published(job: TrainingJob, publish: Publish) -> dict[str, Any]:
    """What status says of the result."""
    told = job.status.progress or TrainingProgress()
    # Training that is over between two looks at it was never told of.
    progress = told.model_copy(update={"phase": "Done", "percent": 100, "epoch": publish.epoch, "step": publish.step})
    return {
        "progress": progress,
        "model_version_ref": StatusRef(name=version_name(job)),
        "artifact": ArtifactRef(uri=publish.artifact_uri, digest=publish.artifact_digest),
        "metrics": {name: f"{value:.6g}" for name, value in publish.metrics if name in job.spec.evaluation.shown},
    }
