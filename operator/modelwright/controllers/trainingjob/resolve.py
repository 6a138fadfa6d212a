"""From what the user wrote, and the operator's configuration, to what the plan and the pods are told. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from modelwright import contract
from modelwright.api import recipes
from modelwright.api.base import API_VERSION, StatusRef
from modelwright.api.storage import ArtifactRef, StorageStatus
from modelwright.api.training_job import TrainingJob
from modelwright.api.versions import model_version_name
from modelwright.controllers.trainingjob import children
from modelwright.controllers.trainingjob.plan import Publish, Wanted
from modelwright.kube.resources import Object
from modelwright.settings import Settings

_GPU_SUFFIX = "/gpu"


def storage_status(job: TrainingJob, settings: Settings) -> StorageStatus:
    """The store that is used: each field that the spec leaves out is the operator's. A spec that names a store of its
    own (`uri`) gets nothing of the operator's: its endpoint and Secret would lead to another one."""
    stated, defaults = job.spec.storage, settings.storage
    if stated is not None and stated.uri is not None:
        return StorageStatus(
            uri=stated.uri,
            endpoint=stated.endpoint,
            region=stated.region,
            secret_ref=StatusRef(name=stated.secret_ref.name) if stated.secret_ref else None,
        )
    secret = stated.secret_ref.name if stated and stated.secret_ref else defaults.secret
    return StorageStatus(
        uri=defaults.uri,
        endpoint=(stated.endpoint if stated else None) or defaults.endpoint or None,
        region=(stated.region if stated else None) or defaults.region or None,
        secret_ref=StatusRef(name=secret) if secret else None,
    )


def _problem(job: TrainingJob, settings: Settings) -> tuple[str, str]:
    try:
        recipes.parse(job.spec.trainer.recipe, dict(job.spec.trainer.hyperparameters or {}))
    except recipes.HyperparameterError as error:
        return "InvalidHyperparameter", str(error)
    if not storage_status(job, settings).uri:
        return "NoStorage", "spec.storage.uri: required, since the operator has no default store (chart: storage.uri)"
    return "", ""


def wanted(job: TrainingJob, settings: Settings) -> Wanted:
    reason, problem = _problem(job, settings)
    return Wanted(
        suspend=job.spec.suspend,
        workers=job.spec.workers.replicas,
        max_restarts=job.spec.failure_policy.max_restarts,
        version_name=model_version_name(job.spec.publish.model, job.spec.publish.version),
        run_hash=run_hash(job, settings),
        problem_reason=reason,
        problem=problem,
    )


def run_hash(job: TrainingJob, settings: Settings) -> str:
    """Of all that an attempt is made from and that a user may change. The operator's image is not among it: an upgrade
    of the operator restarts nobody's training."""
    spec = job.spec.to_object()
    for name in ("suspend", "failurePolicy", "publish"):
        spec.pop(name, None)
    stated = {"spec": spec, "storage": storage_status(job, settings).to_object()}
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:16]


def _processes(job: TrainingJob) -> int:
    """Per worker: what is asked for, else one for each GPU, else one."""
    if job.spec.workers.processes_per_worker is not None:
        return job.spec.workers.processes_per_worker
    limits = job.spec.workers.resources.limits if job.spec.workers.resources else None
    gpus = [
        int(amount) for name, amount in (limits or {}).items() if name.endswith(_GPU_SUFFIX) and str(amount).isdigit()
    ]
    return max(1, sum(gpus))


def blueprint(job: TrainingJob, settings: Settings, *, attempt: int, owner: Object) -> children.Blueprint:
    """What the attempt's children are made from."""
    spec, storage = job.spec, storage_status(job, settings)
    split = spec.data.split
    run = contract.TrainingRun(
        namespace=job.metadata.namespace,
        name=job.metadata.name,
        uid=job.metadata.uid,
        attempt=attempt,
        publish=contract.Publish(model=spec.publish.model, version=spec.publish.version),
        store=contract.StoreAccess(uri=storage.uri, endpoint=storage.endpoint, region=storage.region),
        data=contract.Data(
            uri=spec.data.uri,
            target=spec.data.target,
            task=spec.data.task,
            split=contract.Split(
                train=float(split.train),
                validation=float(split.validation),
                test=float(split.test),
                stratify=split.stratify,
                seed=split.seed,
            ),
        ),
        trainer=contract.Trainer(recipe=spec.trainer.recipe, hyperparameters=dict(spec.trainer.hyperparameters or {})),
        workers=contract.Workers(
            replicas=spec.workers.replicas,
            processes_per_worker=_processes(job),
            master=children.master(job.metadata.name, attempt),
        ),
        checkpoint=contract.Checkpointing(every_steps=spec.checkpoint.every_steps, keep=spec.checkpoint.keep),
        evaluation=contract.Evaluation(
            gates=tuple(
                contract.Gate(
                    metric=gate.metric,
                    min=float(gate.min) if gate.min is not None else None,
                    max=float(gate.max) if gate.max is not None else None,
                )
                for gate in spec.evaluation.gates or ()
            )
        ),
        grace_seconds=children.TRAINER_GRACE_SECONDS,
    )
    resources = spec.workers.resources.to_object() if spec.workers.resources else {}
    overlay = spec.workers.pod_template.to_object() if spec.workers.pod_template else {}
    return children.Blueprint(
        run=run,
        owner=owner,
        image=settings.trainer_image,
        secret=storage.secret_ref.name if storage.secret_ref else "",
        resources=resources,
        overlay=overlay,
        run_hash=run_hash(job, settings),
    )


def model_version(job: TrainingJob) -> Object:
    """The ModelVersion that the job publishes. It has no owner: it outlives the job that made it."""
    publish = job.spec.publish
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelVersion",
        "metadata": {
            "name": model_version_name(publish.model, publish.version),
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
    spec = job.spec.publish
    return {
        "model_version_ref": StatusRef(name=model_version_name(spec.model, spec.version)),
        "artifact": ArtifactRef(uri=publish.artifact_uri, digest=publish.artifact_digest),
        "metrics": {name: f"{value:.6g}" for name, value in publish.metrics},
    }
