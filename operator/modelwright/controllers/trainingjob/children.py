"""The children of an attempt: the resolved job in a ConfigMap, the headless Service for its pods to meet, the Job.

All have the attempt's name and are made once: an attempt that was written down is never written again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from modelwright.contract import COMMAND, JOB_PATH, MASTER_PORT, PROGRESS_PORT, Outcome, TrainingRun
from modelwright.controllers.podspec import container_security, overlaid, pod_security, short_hash, without_credentials
from modelwright.controllers.trainingjob import grace, owncode
from modelwright.controllers.trainingjob.observed import (
    ATTEMPT_LABEL,
    HASH_ANNOTATION,
    NAME_LABEL,
    QUEUE_LABEL,
    REPLICAS_ANNOTATION,
    UNSIZED_ANNOTATION,
)
from modelwright.controllers.trainingjob.outcome import RULES
from modelwright.kube.resources import Object
from modelwright.owncode import OwnRun

CONTAINER = owncode.TRAINER
# What a pod ends with that SIGTERM reached before our program could handle it.
_TERMINATED = 143


@dataclasses.dataclass(frozen=True, slots=True)
class Blueprint:
    """What the children are made from. `image` is the trainer's; `overlay` the user's pod template, laid over ours;
    `replicas` what the spec asks for, where the attempt has fewer workers."""

    run: TrainingRun | OwnRun
    owner: Object
    """The owner reference."""
    image: str
    secret: str
    resources: Mapping[str, Any]
    overlay: Mapping[str, Any]
    run_hash: str = ""
    unsized_hash: str = ""
    replicas: int = 0
    priority_class: str = ""
    queue: str = ""
    grace_seconds: int = grace.DEFAULT_SECONDS

    @property
    def name(self) -> str:
        return attempt_name(self.run.name, self.run.uid, self.run.attempt)


def attempt_name(job: str, uid: str, attempt: int) -> str:
    """The name of all children of an attempt; `uid` is the TrainingJob's.

    A TrainingJob that is deleted and made again must not meet the children of the one before it: they are collected
    later, and a kubelet that knows an immutable ConfigMap of that name mounts the old content into new pods (measured).
    """
    return f"{job}-{short_hash(uid)}-{attempt}"


def master(job: str, uid: str, attempt: int) -> str:
    """The DNS name of index 0 through the attempt's headless Service."""
    name = attempt_name(job, uid, attempt)
    return f"{name}-0.{name}"


def children(blueprint: Blueprint) -> tuple[Object, Object, Object]:
    """ConfigMap, Service and Job, in the order in which they are made: a Job's pods need the others."""
    return _config_map(blueprint), _service(blueprint), _job(blueprint)


def _metadata(blueprint: Blueprint) -> Object:
    return {
        "name": blueprint.name,
        "namespace": blueprint.run.namespace,
        "labels": {
            "app.kubernetes.io/managed-by": "modelwright",
            NAME_LABEL: blueprint.run.name,
            ATTEMPT_LABEL: str(blueprint.run.attempt),
        },
        "ownerReferences": [dict(blueprint.owner)],
    }


def _config_map(blueprint: Blueprint) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(blueprint),
        "immutable": True,
        "data": {PurePosixPath(JOB_PATH).name: blueprint.run.to_json()},
    }


def _service(blueprint: Blueprint) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(blueprint),
        "spec": {
            "clusterIP": "None",
            # The ranks look for each other before any of them is ready.
            "publishNotReadyAddresses": True,
            "selector": {"batch.kubernetes.io/job-name": blueprint.name},
            "ports": [
                {"name": "rendezvous", "port": MASTER_PORT},
                {"name": "progress", "port": PROGRESS_PORT},
            ],
        },
    }


def _job(blueprint: Blueprint) -> Object:
    metadata = _metadata(blueprint)
    replicas = blueprint.run.workers.replicas
    metadata["annotations"] = {
        HASH_ANNOTATION: blueprint.run_hash,
        UNSIZED_ANNOTATION: blueprint.unsized_hash,
        REPLICAS_ANNOTATION: str(blueprint.replicas or replicas),
    }
    pods = dict(metadata["labels"])
    if blueprint.queue:
        metadata["labels"][QUEUE_LABEL] = blueprint.queue
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            # The queue lets it run, and may stop it again.
            **({"suspend": True} if blueprint.queue else {}),
            "completionMode": "Indexed",
            "completions": replicas,
            "parallelism": replicas,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _rules(blueprint)},
            "template": _template(blueprint, pods),
        },
    }


def _rules(blueprint: Blueprint) -> list[Object]:
    """One rule for each outcome, in the order of `outcome.RULES`, so that the Job's condition tells the cause.

    Pods that a queue stops have not failed: the same Job makes others once it may run again. With the user's own code
    they cannot be told from others, and another attempt follows.
    """
    disrupted = {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    if isinstance(blueprint.run, OwnRun):
        return [disrupted, *owncode.failure_rules()]
    by_code = [_rule(outcome, stopped=bool(blueprint.queue) and outcome is Outcome.PREEMPTED) for outcome in RULES]
    return [disrupted, *by_code]


def _rule(outcome: Outcome, *, stopped: bool) -> Object:
    codes = [outcome.code, _TERMINATED] if stopped else [outcome.code]
    on = {"containerName": CONTAINER, "operator": "In", "values": codes}
    return {"action": "Ignore" if stopped else "FailJob", "onExitCodes": on}


def _template(blueprint: Blueprint, labels: Mapping[str, str]) -> Object:
    run, overlay = blueprint.run, blueprint.overlay
    ours: Object = {
        "metadata": {"labels": dict(labels)},
        "spec": {
            "subdomain": blueprint.name,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": blueprint.grace_seconds,
            "securityContext": pod_security(),
            **({"priorityClassName": blueprint.priority_class} if blueprint.priority_class else {}),
            **_containers(blueprint),
        },
    }
    ours["spec"]["volumes"].insert(0, {"name": "job", "configMap": {"name": blueprint.name}})
    if isinstance(run, OwnRun):
        ours["metadata"]["annotations"] = {"kubectl.kubernetes.io/default-container": owncode.TRAINER}
        overlay = owncode.overlay_of(overlay)
    merged = overlaid(ours, overlay)
    if isinstance(run, OwnRun):
        merged["spec"] = owncode.in_order(merged["spec"])
    # Training pods hold no Kubernetes credentials, and run once, whatever is laid over.
    merged["spec"] = {**without_credentials(merged["spec"]), "restartPolicy": "Never", "subdomain": blueprint.name}
    merged["metadata"]["labels"] = {**merged["metadata"].get("labels", {}), **labels}
    return merged


def _containers(blueprint: Blueprint) -> Object:
    """The containers of a pod and the volumes that they share, but for the job's."""
    if isinstance(blueprint.run, OwnRun):
        return owncode.containers(blueprint.run, blueprint.image, blueprint.secret, blueprint.resources)
    return {
        "containers": [
            {
                "name": CONTAINER,
                "image": blueprint.image,
                "args": list(COMMAND),
                "envFrom": [{"secretRef": {"name": blueprint.secret}}] if blueprint.secret else [],
                "ports": [{"name": "progress", "containerPort": PROGRESS_PORT}],
                "resources": dict(blueprint.resources),
                "terminationMessagePolicy": "File",
                "securityContext": container_security(),
                "volumeMounts": [
                    {"name": "job", "mountPath": str(PurePosixPath(JOB_PATH).parent), "readOnly": True},
                    {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108 - the container's own
                ],
            }
        ],
        "volumes": [{"name": "scratch", "emptyDir": {}}],
    }
