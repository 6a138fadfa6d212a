"""The operator as a process of this machine, and what its writes are called."""

from __future__ import annotations

import json
import re
import socket
import sys
from pathlib import Path
from typing import Any

from dev.demo import BUCKET
from tests.e2e.crash.conftest import World
from tests.faults.proxy import Request, counts_as_write

# Short, since each restart waits for its predecessor's Lease; but with pods that start on all sides a busy machine may
# keep a renewal waiting for 2 s.
LEASE_SECONDS = 5
SECRET = "store"  # noqa: S105 - a Secret's name


def command(world: World, kubeconfig: Path, namespace: str) -> list[str | Path]:
    """The operator for one namespace, with its Lease there too, and a free port for its metrics."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        "KUBECONFIG": kubeconfig,
        "MODELWRIGHT_NAMESPACE": namespace,
        "MODELWRIGHT_WATCH_NAMESPACE": namespace,
        "MODELWRIGHT_LEASE_SECONDS": LEASE_SECONDS,
        "MODELWRIGHT_METRICS_PORT": port,
        # It does not start without one.
        "MODELWRIGHT_TRAINER_IMAGE": world.trainer or "none",
        "MODELWRIGHT_SERVER_IMAGE": world.server,
        "MODELWRIGHT_STORAGE_URI": f"s3://{BUCKET}/crash",
        "MODELWRIGHT_STORAGE_ENDPOINT": world.store.inside,
        "MODELWRIGHT_STORAGE_REGION": world.store.region,
        "MODELWRIGHT_STORAGE_SECRET": SECRET,
    }
    return ["env", *(f"{name}={value}" for name, value in environment.items()), sys.executable, "-m", "modelwright"]


# Children are named after five digits of a hash of their owner's uid, and then an attempt, a stage, or a hash of the
# spec.
_UID = re.compile(r"-[0-9a-f]{5}-(?=([a-z]+-)?\d+$)")
_UID_AND_SPEC = re.compile(r"-[0-9a-f]{5}-[0-9a-f]{8}$")
_ALONG = {"progress", "conditions", "curve", "served", "servedBy", "serving"}
RECURRING = ("the Lease is renewed", "an Event", "told along: ")


def label(request: Request) -> str | None:
    """What a write of the operator is called.

    A status is named by what it settles: the phase, the attempt, and the names of its other fields. One that settles
    nothing, and only tells along how far the training is, what is waited for, or who serves a version, is written as
    often as there is time for; so are Lease renewals and Events. Of each kind of these the first is a point, since any
    other leaves behind the same world.
    """
    if request.is_write and request.resource == "leases":
        return "the Lease is made" if request.method == "POST" else "the Lease is renewed"
    if request.resource == "events" and request.is_write:
        return "an Event"
    if not counts_as_write(request):
        return None
    if request.subresource != "status":
        return _UID.sub("-<uid>-", _UID_AND_SPEC.sub("-<uid>-<spec>", str(request)))
    kind = request.resource.removesuffix("s")
    status = json.loads(request.body)["status"]
    if set(status) <= _ALONG:
        return f"told along: {kind} {request.name} {'progress' if 'progress' in status else 'conditions'}"
    steps = [one["state"] for one in status.get("steps") or ()]
    if "Running" in steps:
        # Whether it is told that a step runs depends on how long it does.
        return f"told along: {kind} {request.name} runs"
    attempt = (status.get("attempt") or {}).get("number")
    phase = status.get("phase", "")
    # That a version is Running was told before, unless its first step was done between two looks.
    settled = ["" if steps and phase == "Running" else phase, f"attempt {attempt}" if attempt else ""]
    settled += [f"{steps.count('Succeeded')} steps done"] if steps else []
    settled += sorted(set(status) - _ALONG - {"phase", "attempt", "steps", "storage", "startTime", "completionTime"})
    return f"status of {kind} {request.name}: {', '.join(filter(None, settled))}"


def recurring(name: str) -> bool:
    return name.startswith(RECURRING)


def state(obj: dict[str, Any]) -> str:
    """What the end comes to: of a training all that its status says but times, speed and words; of a version its
    digest, so that a run that was disturbed must have trained, or compressed, the very same weights."""
    status = obj.get("status") or {}
    true = [one for one in status.get("conditions") or () if one["status"] == "True"]
    if any(one["type"] == "Suspended" for one in true):
        # A Job applies its pod failure policy to pods that end since it is suspended, or not: a race within Kubernetes.
        true = [one for one in true if one["type"] != "FailureTarget"]
    said = [str(status.get("phase", "")), *sorted(f"{one['type']}={one.get('reason', '')}" for one in true)]
    if "attempt" in status:
        said += [f"attempt {status['attempt']['number']}", f"restarts {status.get('restarts')}"]
    if "progress" in status:
        progress = status["progress"]
        said.append(f"{progress.get('phase')} at {progress.get('step')}, {progress.get('percent')} %")
    said += [f"{one['name']} {one['state']}" for one in status.get("steps") or ()]
    if "artifact" in status:
        said.append(status["artifact"]["digest"][:19])
    said += [f"{name}={status[name]}" for name in ("metrics", "modelVersionRef", "summary") if name in status]
    return "; ".join(said)
