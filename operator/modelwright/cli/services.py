"""What a person does with an InferenceService: each is an annotation that names what it is about, so that it acts once
and can be seen, and undone, with kubectl."""

from __future__ import annotations

import datetime

from modelwright.api.inference_service import ABORT, PROMOTE, RETRY, ROLLBACK, InferenceService, Revision
from modelwright.api.types import to_the_second
from modelwright.cli.cluster import Refused, Where, connected
from modelwright.kube import errors
from modelwright.kube.resources import INFERENCESERVICES


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


async def run(command: str, name: str, where: Where) -> str:
    """Does what `command` says, and returns what to tell. Raises Refused."""
    async with connected(where) as (client, namespace):
        try:
            obj = await client.get(INFERENCESERVICES, name, namespace)
            service = InferenceService.model_validate(obj)
            if command == "status":
                return story(service)
            key, value, told = annotation(command, service, datetime.datetime.now(datetime.UTC))
            metadata = {"resourceVersion": obj["metadata"]["resourceVersion"], "annotations": {key: value}}
            await client.patch(INFERENCESERVICES, name, {"metadata": metadata}, namespace)
        except errors.NotFound as missing:
            raise Refused(f"InferenceService {name} does not exist in namespace {namespace}") from missing
        except errors.Conflict as changed:
            raise Refused(f"{name} changed meanwhile; look again, and repeat it") from changed
    return told


__all__ = ["Refused", "annotation", "run", "story"]
