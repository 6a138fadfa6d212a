"""The pod of a worker that runs the user's own image and command.

The code's container is no main container of its pod: it runs as an init container, and the main one publishes.

    init: fetch → progress (goes on beside the others) → trainer (the user's)      main: publish

So it is the kubelet that starts what publishes only after the code has ended with 0, and that reports each exit code as
it was. Nothing of ours is in the user's image, and nothing in the pod may ask Kubernetes how a neighbour ended. What
was weighed against it:

- A main container `publish` beside the code's learns neither that the code has ended nor how; files would have to say
  so, and code that dies says nothing.
- A sidecar that publishes when it is stopped, after the code as the main container: it does not learn the exit code
  either, and would publish what a failed training left.
- A program of ours, copied into the pod to run the command under (as Argo and Tekton do): it must fit any image, so it
  is a static binary, and it must know the command, so an image's own entry point would not do.
- Another Job that publishes what the first one uploaded: two Jobs to an attempt, and all of the output twice in the
  store.

What it costs: the pod's phase is Pending while the code runs, and `kubectl get pods` says Init:2/3 (`observed.py` looks
at the containers). Kubernetes counts the resources of the greatest phase, so that nothing is reserved twice. Where the
pod is to end, code and `progress` get SIGTERM at once (a sidecar waits for main containers only), and so `progress`
looks for the code's processes: the pod's containers share their process ids. The code is not the first process
then either, whose SIGTERM the kernel would drop unless it handles it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from modelwright import owncode
from modelwright.contract import JOB_PATH, PROGRESS_PORT
from modelwright.controllers.podspec import container_security
from modelwright.kube.resources import Object
from modelwright.owncode import OwnRun

TRAINER, FETCH, PROGRESS, PUBLISH = "trainer", "fetch", "progress", "publish"
_INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
# Of the container that stands beside the code all the time; its memory is what large files are uploaded through.
_BESIDE = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}}
# What Kubernetes itself knows the amounts of; all else are devices, which only the code computes on.
_PLAIN = ("cpu", "memory", "ephemeral-storage")
_HOME = "/tmp"  # noqa: S108 - the container's own


def failure_rules() -> list[Object]:
    """The pod failure policy after its first rule. Exit codes of the user's mean nothing to us, so that one rule is
    enough; the Job's condition names the container and its code."""
    return [{"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [0]}}]


def containers(run: OwnRun, image: str, secret: str, resources: Mapping[str, Any]) -> Object:
    """The fields of the pod's spec that hold containers, and what they share; `image` is the trainer's."""

    def ours(name: str, args: tuple[str, ...], needs: Mapping[str, Any]) -> Object:
        return _ours(name, args, image=image, secret=secret, resources=needs)

    plain = _without_devices(resources)
    beside = ours(PROGRESS, owncode.PROGRESS, _BESIDE)
    beside |= {"restartPolicy": "Always", "ports": [{"name": "progress", "containerPort": PROGRESS_PORT}]}
    return {
        "shareProcessNamespace": True,
        "initContainers": [ours(FETCH, owncode.FETCH, plain), beside, _trainer(run, resources)],
        "containers": [ours(PUBLISH, owncode.PUBLISH, plain)],
        "volumes": [
            {"name": "work", "emptyDir": {}},
            {"name": "scratch", "emptyDir": {}},
            {"name": "home", "emptyDir": {}},
        ],
    }


def _ours(name: str, args: tuple[str, ...], *, image: str, secret: str, resources: Mapping[str, Any]) -> Object:
    return {
        "name": name,
        "image": image,
        "args": list(args),
        "envFrom": [{"secretRef": {"name": secret}}] if secret else [],
        "resources": dict(resources),
        "terminationMessagePolicy": "File",
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "job", "mountPath": str(PurePosixPath(JOB_PATH).parent), "readOnly": True},
            {"name": "work", "mountPath": owncode.FOLDER},
            {"name": "scratch", "mountPath": _HOME},
        ],
    }


def _trainer(run: OwnRun, resources: Mapping[str, Any]) -> Object:
    """The user's container. It gets no credentials of the store: what it reads and leaves are files."""
    code, indices = run.code, list(owncode.INDEX_VARIABLES)
    given = {"HOME": _HOME, **owncode.environment(run)}
    if run.workers.processes_per_worker == 1:
        # What starts without torchrun is the pod's one rank.
        indices.append("RANK")
        given["LOCAL_RANK"] = "0"
    made: Object = {
        "name": TRAINER,
        "image": code.image,
        "env": [
            *({"name": name, "value": value} for name, value in given.items()),
            *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": _INDEX}}} for name in indices),
            *({"name": name, "value": value} for name, value in code.env.items()),
        ],
        "resources": dict(resources),
        # The last lines of its log, where it writes no message itself.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        # Other people's images write where they like.
        "securityContext": {
            key: value for key, value in container_security().items() if key != "readOnlyRootFilesystem"
        },
        "volumeMounts": [
            {"name": "work", "mountPath": owncode.FOLDER},
            {"name": "home", "mountPath": _HOME},
        ],
    }
    for name, words in (("command", code.command), ("args", code.args)):
        if words is not None:
            made[name] = list(words)
    return made


def _without_devices(resources: Mapping[str, Any]) -> Object:
    return {
        kind: {name: amount for name, amount in amounts.items() if name in _PLAIN}
        for kind, amounts in resources.items()
        if isinstance(amounts, Mapping)
    }


def overlay_of(overlay: Mapping[str, Any]) -> Object:
    """The user's pod template as it is laid over these containers. There, too, the worker is the container `trainer`;
    what volumes it mounts, the others mount at the same place, since data and store may be on them."""
    spec = dict(overlay.get("spec") or {})
    stated = [one for one in spec.get("containers") or () if isinstance(one, Mapping)]
    trainer = [dict(one) for one in stated if one.get("name") == TRAINER]
    mounts = [mount for one in trainer for mount in one.get("volumeMounts") or ()]
    around = [{"name": name, "volumeMounts": mounts} for name in (FETCH, PROGRESS)] if mounts else []
    main = [one for one in stated if one.get("name") != TRAINER]
    if mounts:
        main.append({"name": PUBLISH, "volumeMounts": mounts})
    spec["initContainers"] = [*around, *trainer, *(spec.get("initContainers") or ())]
    spec["containers"] = main
    return {**overlay, "spec": {key: value for key, value in spec.items() if value not in ([], None)}}


def in_order(spec: Mapping[str, Any]) -> Object:
    """With the code's container after all other init containers: those of the user's own prepare something for it."""
    init = list(spec.get("initContainers") or ())
    last = [one for one in init if one["name"] == TRAINER]
    return {**spec, "initContainers": [*(one for one in init if one["name"] != TRAINER), *last]}
