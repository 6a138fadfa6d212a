"""What a person does with an InferenceService: each is an annotation that names what it is about, so that it acts once
and can be seen, and undone, with kubectl."""

from __future__ import annotations

import dataclasses
import datetime
import os
from pathlib import Path
from typing import Any

import yaml
from kubernetes.aio.config import ConfigException
from pydantic import ValidationError

from modelwright.api.inference_service import ABORT, PROMOTE, RETRY, ROLLBACK, InferenceService, Revision
from modelwright.api.types import to_the_second
from modelwright.kube import errors
from modelwright.kube.client import Client
from modelwright.kube.resources import INFERENCESERVICES


class Refused(Exception):  # noqa: N818 - it reads as what happened
    """What was asked for cannot be done; the text says why, and what can."""


@dataclasses.dataclass(frozen=True, slots=True)
class Where:
    namespace: str | None
    context: str | None
    kubeconfig: str | None


def _version(revision: Revision) -> str:
    return f"{revision.version}--{revision.variant}" if revision.variant else revision.version


def annotation(command: str, service: InferenceService, now: datetime.datetime) -> tuple[str, str, str]:
    """The annotation that does what `command` says, its value, and what to tell. Raises Refused.

    The time in it makes it another asking than the same one before."""
    status, name = service.status, service.metadata.name

    def asking(revision: Revision) -> str:
        return f"{revision.name}@{to_the_second(now)}"

    rollout, active, previous, failed = status.rollout, status.active, status.previous, status.failed
    if command == "promote":
        if rollout is None or rollout.step not in ("Starting", "Analysing", "AwaitingPromotion"):
            raise Refused(f"{name} has nothing that waits for a promotion: its phase is {status.phase}")
        target = rollout.target
        waits = "" if rollout.step == "AwaitingPromotion" else ", as soon as it is ready and has passed its analysis"
        return PROMOTE, asking(target), f"{_version(target)} will answer all requests of {name}{waits}"
    if command == "abort":
        if rollout is None or rollout.step in ("SwitchingBack", "Ending"):
            raise Refused(f"{name} has no change under way that could be dropped: its phase is {status.phase}")
        return ABORT, asking(rollout.target), f"the change of {name} to {_version(rollout.target)} is dropped"
    if command == "rollback":
        if active is None or previous is None:
            raise Refused(f"{name} has no version before this one to go back to")
        told = f"{name} goes back from {_version(active)} to {_version(previous)}"
        if rollout is not None and rollout.step not in ("Observing", "Keeping"):
            raise Refused(f"{name} changes to {_version(rollout.target)} just now; drop that with `modelwright abort`")
        return ROLLBACK, asking(active), f"{told}; it stays there until the spec or the channel changes"
    if failed is None:
        raise Refused(f"{name} has no failed version to try again")
    return RETRY, to_the_second(failed.at), f"{name} tries {failed.version} once more"


def story(service: InferenceService) -> str:
    """What it serves, and what is under way, on a few lines."""
    status = service.status
    main = next((one for one in status.conditions or () if one.type == "Ready"), None)
    lines = [f"{service.metadata.name}: {status.phase}" + (f", {status.ready} pods ready" if status.ready else "")]
    if status.active is not None:
        lines.append(f"  answers   {_version(status.active)}  ({status.active.name}, {status.active.digest[:19]}…)")
    if status.rollout is not None:
        rollout = status.rollout
        lines.append(
            f"  changing  to {_version(rollout.target)}, step {rollout.step} since {to_the_second(rollout.since)}"
        )
        for when, seen in (("before", rollout.before), ("after", rollout.after)):
            if seen is not None:
                p99 = f", p99 {seen.p99}" if seen.p99 else ""
                lines.append(f"            {when} the switch: {seen.errors} of {seen.requests} requests failed{p99}")
    if status.previous is not None:
        lines.append(f"  before    {_version(status.previous)}  (modelwright rollback goes back to it)")
    if status.failed is not None:
        lines.append(f"  failed    {status.failed.version}  {status.failed.reason}: {status.failed.message}")
    if main is not None:
        lines.append(f"  {main.reason}: {main.message}")
    return "\n".join(lines)


def _namespace(where: Where) -> str:
    """That of the command, or of kubectl's context, as kubectl takes it."""
    if where.namespace:
        return where.namespace
    path = where.kubeconfig or os.environ.get("KUBECONFIG", "").split(os.pathsep)[0] or "~/.kube/config"
    try:
        config: dict[str, Any] = yaml.safe_load(Path(path).expanduser().read_text()) or {}
    except OSError:
        return "default"
    current = where.context or config.get("current-context")
    contexts: dict[str, dict[str, Any]] = {one["name"]: one["context"] for one in config.get("contexts") or ()}
    return str(contexts.get(str(current), {}).get("namespace") or "default")


async def run(command: str, name: str, where: Where) -> str:
    """Does what `command` says, and returns what to tell. Raises Refused."""
    namespace = _namespace(where)
    kubeconfig = Path(where.kubeconfig) if where.kubeconfig else None
    try:
        async with await Client.connect(kubeconfig, context=where.context) as client:
            obj = await client.get(INFERENCESERVICES, name, namespace)
            service = InferenceService.model_validate(obj)
            if command == "status":
                return story(service)
            key, value, told = annotation(command, service, datetime.datetime.now(datetime.UTC))
            metadata = {"resourceVersion": obj["metadata"]["resourceVersion"], "annotations": {key: value}}
            await client.patch(INFERENCESERVICES, name, {"metadata": metadata}, namespace)
            return told
    except ConfigException as wrong:
        raise Refused(f"kubectl's configuration cannot be used: {wrong}") from wrong
    except errors.NotFound as missing:
        raise Refused(f"InferenceService {name} does not exist in namespace {namespace}") from missing
    except errors.Conflict as changed:
        raise Refused(f"{name} changed meanwhile; look again, and repeat it") from changed
    except (errors.ApiError, ValidationError) as failed:
        raise Refused(str(failed)) from failed
