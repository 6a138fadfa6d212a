"""Objects as a cluster in use has them: trainings that are over, with their Jobs and pods, versions and models.

Only what a kubelet and a job controller would write is written here, for they are not in the light tier; statuses of
versions and models are the operator's own, from a run before the one that is measured.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from modelwright.kube.client import Client
from modelwright.kube.resources import (
    JOBS,
    MODELS,
    MODELVERSIONS,
    PODS,
    TRAININGJOBS,
    Object,
    Resource,
    owner_reference,
)

from dev import examples

EXAMPLE: Object = examples.training_job()
AT = "2026-01-01T00:00:00Z"
VERSIONS_PER_MODEL = 10
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
CONCURRENCY = 24


async def all_of(what: Iterable[Awaitable[Any]]) -> None:
    """Awaits them, a bounded number at a time."""
    slots = asyncio.Semaphore(CONCURRENCY)

    async def one(awaitable: Awaitable[Any]) -> None:
        async with slots:
            await awaitable

    await asyncio.gather(*(one(awaitable) for awaitable in what))


def training_job(namespace: str, number: int) -> Object:
    made = copy.deepcopy(EXAMPLE)
    model, version = f"model-{number // VERSIONS_PER_MODEL}", f"1.{number % VERSIONS_PER_MODEL}.0"
    made["metadata"] = {"namespace": namespace, "name": f"{model}-v{version.replace('.', '-')}"}
    made["spec"]["publish"] = {"model": model, "version": version}
    return made


def model(namespace: str, number: int) -> Object:
    channels = {"stable": {"version": "1.0.0"}, "candidate": {"latest": True}}
    return {"metadata": {"namespace": namespace, "name": f"model-{number}"}, "spec": {"channels": channels}}


def finished_status(job: Object, job_name: str) -> Object:
    version = job["metadata"]["name"]
    condition = {
        "type": "Succeeded", "status": "True", "reason": "Published", "message": f"published as ModelVersion {version}",
        "lastTransitionTime": AT, "observedGeneration": 1,
    }  # fmt: skip
    return {
        "phase": "Succeeded",
        "observedGeneration": 1,
        "conditions": [condition],
        "attempt": {"number": 1, "jobName": job_name},
        "restarts": {"counted": 0, "notCounted": 0},
        "progress": {
            "phase": "Done", "epoch": 20, "epochs": 20, "step": 460, "totalSteps": 460, "percent": 100,
            "trainLoss": "0.0123", "validationLoss": "0.0456", "samplesPerSecond": "12345.6",
            "lastCheckpointStep": 450, "updatedAt": AT,
        },
        "startTime": AT,
        "completionTime": AT,
        "modelVersionRef": {"name": version},
        "artifact": {"uri": f"s3://modelwright/artifacts/{version}/manifest.json", "digest": "sha256:" + "0" * 64},
        "metrics": {"accuracy": "0.9722", "f1_macro": "0.9719", "log_loss": "0.1023"},
        "storage": {"uri": "s3://modelwright/artifacts", "secretRef": {"name": "store"}},
    }  # fmt: skip


def _pod_template(labels: Object) -> Object:
    container = {"name": "trainer", "image": "trainer:bench", "args": ["run", "--job", "/etc/modelwright/job.json"]}
    return {"metadata": {"labels": labels}, "spec": {"restartPolicy": "Never", "containers": [container]}}


async def finished_training(client: Client, namespace: str, number: int, *, pods: int) -> None:
    """A TrainingJob that has published, its Job that is complete, `pods` of its pods, and its ModelVersion."""
    made = await client.create(TRAININGJOBS, training_job(namespace, number))
    name = f"{made['metadata']['name']}-00000-1"
    labels = {
        "app.kubernetes.io/managed-by": "modelwright",
        "modelwright.dev/trainingjob": made["metadata"]["name"],
        "modelwright.dev/attempt": "1",
    }
    metadata = {
        "namespace": namespace, "name": name, "labels": labels,
        "annotations": {"modelwright.dev/run-hash": "0123456789abcdef"},
        "ownerReferences": [owner_reference(TRAININGJOBS, made)],
    }  # fmt: skip
    spec = {
        "completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimit": 0,
        "template": _pod_template(labels),
    }  # fmt: skip
    job = await client.create(JOBS, {"metadata": metadata, "spec": spec})
    job["status"] = {
        "startTime": AT, "completionTime": AT, "succeeded": 2, "completedIndexes": "0,1",
        "uncountedTerminatedPods": {}, "ready": 0, "terminating": 0,
        "conditions": [
            {"type": kind, "status": "True", "reason": "CompletionsReached", "message": "Reached expected number",
             "lastProbeTime": AT, "lastTransitionTime": AT}
            for kind in ("SuccessCriteriaMet", "Complete")
        ],
    }  # fmt: skip
    await client.patch(JOBS, name, {"status": job["status"]}, namespace, subresource="status")
    for index in range(pods):
        await _ended_pod(client, namespace, f"{name}-{index}", labels, job, index)
    # What the operator reads its ModelVersion from; it makes the version itself.
    await client.patch(
        TRAININGJOBS, made["metadata"]["name"], {"status": finished_status(made, name)}, namespace, subresource="status"
    )
    publish = made["spec"]["publish"]
    version = {
        "metadata": {
            "namespace": namespace, "name": made["metadata"]["name"],
            "labels": {"modelwright.dev/model": publish["model"]},
        },
        "spec": {**publish, "source": {"trainingJobRef": {"name": made["metadata"]["name"]}}},
    }  # fmt: skip
    await client.create(MODELVERSIONS, version)


async def _ended_pod(client: Client, namespace: str, name: str, labels: Object, job: Object, index: int) -> None:
    template = _pod_template(labels)
    metadata = {
        **template["metadata"], "namespace": namespace, "name": name,
        "annotations": {"batch.kubernetes.io/job-completion-index": str(index)},
        "ownerReferences": [owner_reference(JOBS, job)],
    }  # fmt: skip
    await client.create(PODS, {"metadata": metadata, "spec": {**template["spec"], "nodeName": "node-0"}})
    ended = {"exitCode": 0, "reason": "Completed", "startedAt": AT, "finishedAt": AT, "message": "{}"}
    status = {
        "phase": "Succeeded", "podIP": "10.0.0.1", "startTime": AT,
        "containerStatuses": [
            {"name": "trainer", "ready": False, "restartCount": 0, "image": "trainer:bench", "imageID": "",
             "state": {"terminated": ended}}
        ],
    }  # fmt: skip
    await client.patch(PODS, name, {"status": status}, namespace, subresource="status")


async def with_client(kubeconfig: Path, work: Callable[[Client], Awaitable[None]]) -> None:
    async with await Client.connect(kubeconfig, pool=CONCURRENCY, user_agent="bench") as client:
        await work(client)


async def namespace(client: Client, name: str) -> None:
    await client.create(NAMESPACES, {"metadata": {"name": name}})


async def models(client: Client, namespace: str, first: int, count: int) -> None:
    await all_of(client.create(MODELS, model(namespace, number)) for number in range(first, first + count))
