"""From what the user wrote, and the operator's configuration, to what the plan and the pods are told. Pure."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

from modelwright import contract, owncode
from modelwright.api import recipes, tasks
from modelwright.api.base import API_VERSION, StatusRef
from modelwright.api.slices import PartFigures
from modelwright.api.storage import ArtifactRef, StorageStatus
from modelwright.api.training_data import Split
from modelwright.api.training_history import AttemptEnd
from modelwright.api.training_job import TrainingJob, TrainingProgress
from modelwright.api.training_own import is_own
from modelwright.api.training_workers import Checkpoint, EarlyStopping, Strategy
from modelwright.api.types import seconds
from modelwright.api.versions import model_version_name
from modelwright.controllers.modelversion.observed import MADE_BY, MADE_LABEL
from modelwright.controllers.podspec import store_used, template_overlay
from modelwright.controllers.trainingjob import children, dataset, grace
from modelwright.controllers.trainingjob.outcome import Failure
from modelwright.controllers.trainingjob.records import Active, End, Publish, Told, Wanted
from modelwright.kube.resources import Object
from modelwright.kube.status import compact
from modelwright.settings import Settings

_GPU_SUFFIX = "/gpu"


def storage_status(job: TrainingJob, settings: Settings) -> StorageStatus:
    """The store that is used: what the spec leaves out is the operator's."""
    return store_used(job.spec.storage, settings)


def _problem(job: TrainingJob, settings: Settings) -> tuple[str, str]:
    trainer = job.spec.trainer
    try:
        if trainer.recipe is not None:
            recipes.parse(trainer.recipe, dict(trainer.hyperparameters or {}))
    except recipes.HyperparameterError as error:
        return "InvalidHyperparameter", str(error)
    workers = job.spec.workers
    if workers.priority_class_name and "priorityClassName" in template_overlay(workers.pod_template).get("spec", {}):
        return "InvalidSpec", (
            "spec.workers.priorityClassName: given in podTemplate.spec.priorityClassName as well; leave out one of them"
        )
    if (unmounted := _unmounted(job)) is not None:
        return "InvalidSpec", (
            f"spec.checkpoint.local.path: no volume is mounted at {unmounted}: add one by workers.podTemplate.spec, in"
            " volumes and in volumeMounts of the container trainer"
        )
    size, processes = job.spec.strategy.shard_size if job.spec.strategy else None, _processes(job)
    if size is not None and job.spec.workers.replicas * processes % size:
        counted = f"{job.spec.workers.replicas} workers with {processes} processes each"
        return "InvalidSpec", f"spec.strategy.shardSize: {size} does not divide the processes of {counted}"
    unfit = tasks.problems(job.spec, job.spec.data.task) if job.spec.data.task is not None else ()
    if unfit:
        return dataset.UNFIT, "; ".join(unfit)
    if not storage_status(job, settings).uri:
        return "NoStorage", "spec.storage.uri: required, since the operator has no default store (chart: storage.uri)"
    return "", ""


def _unmounted(job: TrainingJob) -> str | None:
    """Where local checkpoints would go, where no volume is mounted there."""
    local = job.spec.checkpoint.local
    if local is None:
        return None
    containers = template_overlay(job.spec.workers.pod_template).get("spec", {}).get("containers") or ()
    trainers = [one for one in containers if isinstance(one, dict) and one.get("name") == children.CONTAINER]
    mounts = [mount for one in trainers for mount in one.get("volumeMounts") or ()]
    places = [str(mount.get("mountPath", "")).rstrip("/") for mount in mounts if isinstance(mount, dict)]
    covered = any(place and f"{local.path}/".startswith(f"{place}/") for place in places)
    return None if covered else local.path


def _checkpointing(stated: Checkpoint) -> contract.Checkpointing:
    local = stated.local
    return contract.Checkpointing(
        every_steps=stated.every_steps or 50,
        keep=stated.keep,
        local=contract.LocalCheckpointing(path=local.path, every_steps=local.every_steps) if local else None,
    )


def version_name(job: TrainingJob) -> str:
    return model_version_name(job.spec.publish.model, job.spec.publish.version)


def wanted(job: TrainingJob, settings: Settings) -> Wanted:
    reason, problem = _problem(job, settings)
    deadline = job.spec.failure_policy.active_deadline
    size = job.spec.strategy.shard_size if job.spec.strategy else None
    return Wanted(
        suspend=job.spec.suspend,
        workers=job.spec.workers.replicas,
        max_restarts=job.spec.failure_policy.max_restarts,
        version_name=version_name(job),
        run_hash=run_hash(job),
        problem_reason=reason,
        problem=problem,
        unsized_hash=unsized_hash(job),
        min_workers=job.spec.workers.min_replicas,
        workers_in=size // math.gcd(size, _processes(job)) if size else 1,
        queue=job.spec.queue_name or "",
        deadline=seconds(deadline) if deadline else None,
    )


def told(job: TrainingJob) -> Told:
    """What status says of attempts and of the result. What is published never changes, and so is believed."""
    status = job.status
    main = next((one for one in status.conditions or () if one.type == "Succeeded"), None)
    at = status.progress or TrainingProgress()
    before = Told(
        attempt=status.attempt.number if status.attempt else 0,
        suspended=status.phase == "Suspended" or dataset.held_up(job),
        ends=tuple(_end(one) for one in status.history or ()),
        reason=main.reason if main else "",
        message=main.message if main else "",
        step=at.step,
        active=Active(status.active.seconds, status.active.since) if status.active else Active(),
    )
    if status.artifact is None:
        return before
    metrics = tuple((name, float(figure)) for name, figure in sorted((status.metrics or {}).items()))
    result = Publish(status.artifact.uri, status.artifact.digest, metrics, at.epoch or 0, at.step or 0)
    return dataclasses.replace(before, result=result)


def _end(told: AttemptEnd) -> End:
    # A reason that is no outcome's is one after which another attempt follows.
    retried = contract.Outcome.named(told.reason).retried
    failure = Failure(told.reason, told.message, retried=retried, counted=told.counted, step=told.to_step)
    succeeded = told.reason == contract.Outcome.SUCCEEDED.reason
    return End(told.number, failure, told.run_hash, told.ended_at, told.workers, succeeded)


def run_hash(job: TrainingJob) -> str:
    """Of all that an attempt is made from and that the user wrote. The operator's image and defaults are not among it:
    an upgrade of the operator restarts nobody's training."""
    return _hash(_made_from(job))


def unsized_hash(job: TrainingJob) -> str:
    """As `run_hash`, but for the number of workers."""
    spec = _made_from(job)
    spec.get("workers", {}).pop("replicas", None)
    return _hash(spec)


def _made_from(job: TrainingJob) -> dict[str, Any]:
    # Without what is as it is by default: a field that a later version adds is no change of the user's.
    spec = job.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    for name in ("suspend", "publish", "cleanup"):
        spec.pop(name, None)
    for name in ("maxRestarts", "activeDeadline"):
        spec.get("failurePolicy", {}).pop(name, None)
    spec.get("workers", {}).pop("minReplicas", None)
    # What status shows of the metrics changes no training.
    spec.get("evaluation", {}).pop("metrics", None)
    if spec.get("data", {}).get("split", {}).get("stratify"):
        # As it is where it is left out; API servers wrote it down when it was a default.
        del spec["data"]["split"]["stratify"]
    return spec


def _hash(spec: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(compact(spec), sort_keys=True).encode()).hexdigest()[:16]


def _processes(job: TrainingJob) -> int:
    """Per worker: what is asked for, else one for each GPU, else one; of what is fitted at once, one."""
    if job.spec.workers.processes_per_worker is not None:
        return job.spec.workers.processes_per_worker
    if issubclass(recipes.RECIPES.get(job.spec.trainer.recipe or "", object), recipes.FittedHyperparameters):
        return 1
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


def _strategy(stated: Strategy) -> contract.Strategy:
    return contract.Strategy(
        type=stated.type,
        shard_size=stated.shard_size,
        local_steps=stated.local_steps or 1,
        outer_learning_rate=float(stated.outer_learning_rate or 1),
        outer_momentum=float(stated.outer_momentum or 0),
    )


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


def _run(job: TrainingJob, storage: StorageStatus, attempt: int, workers: int) -> contract.TrainingRun:
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
        workers=_workers(job, attempt, workers),
        strategy=_strategy(spec.strategy or Strategy()),
        early_stopping=_early_stopping(spec.early_stopping),
        checkpoint=_checkpointing(spec.checkpoint),
        evaluation=contract.Evaluation(gates=_gates(job), slices=_slices(job)),
        grace_seconds=grace.program_seconds(job),
        stall_seconds=seconds(spec.failure_policy.stall_timeout),
    )


def _own_run(job: TrainingJob, storage: StorageStatus, attempt: int, workers: int) -> owncode.OwnRun:
    """What the containers around the user's own code are told."""
    spec, code = job.spec, job.spec.trainer
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
        workers=_workers(job, attempt, workers),
        keep=spec.checkpoint.keep,
        gates=_gates(job),
        # What is left is for the last upload of all.
        grace_seconds=grace.program_seconds(job),
        stall_seconds=seconds(spec.failure_policy.stall_timeout),
    )


def _workers(job: TrainingJob, attempt: int, replicas: int) -> contract.Workers:
    return contract.Workers(
        replicas=replicas,
        processes_per_worker=_processes(job),
        master=children.master(job.metadata.name, job.metadata.uid, attempt),
    )


def _slices(job: TrainingJob) -> tuple[contract.Slice, ...]:
    return tuple(
        contract.Slice(
            column=one.column,
            values=tuple(map(float, one.values or ())),
            bounds=tuple(sorted(map(float, one.bounds or ()))),
        )
        for one in job.spec.evaluation.slices or ()
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


def blueprint(
    job: TrainingJob, settings: Settings, *, attempt: int, owner: Object, workers: int | None = None
) -> children.Blueprint:
    """What the attempt's children are made from. `workers`: how many, where it is not as many as the spec asks for."""
    spec, storage = job.spec, storage_status(job, settings)
    size = workers or spec.workers.replicas
    run = _own_run(job, storage, attempt, size) if is_own(spec) else _run(job, storage, attempt, size)
    resources = spec.workers.resources.to_object() if spec.workers.resources else {}
    overlay = template_overlay(spec.workers.pod_template)
    return children.Blueprint(
        run=run,
        owner=owner,
        image=settings.trainer_image,
        secret=storage.secret_ref.name if storage.secret_ref else "",
        resources=resources,
        overlay=overlay,
        run_hash=run_hash(job),
        unsized_hash=unsized_hash(job),
        replicas=spec.workers.replicas,
        priority_class=spec.workers.priority_class_name or "",
        queue=spec.queue_name or "",
        grace_seconds=grace.pod_seconds(job),
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
            "labels": {"modelwright.dev/model": publish.model, MADE_LABEL: MADE_BY},
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
        # Said once, with the metrics: a later look finds them in status.
        **({"slices": _parts(publish.slices)} if publish.slices else {}),
        **({"classes": _parts(publish.classes)} if publish.classes else {}),
    }


def _parts(found: Sequence[contract.PartFigures]) -> tuple[PartFigures, ...]:
    return tuple(
        PartFigures(
            name=one.name[:256],
            rows=one.rows,
            metrics={name: f"{value:.6g}" for name, value in one.metrics.items()} or None,
        )
        for one in found
    )
