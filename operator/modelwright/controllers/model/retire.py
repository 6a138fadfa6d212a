"""How versions that are not kept go: written down, deleted in the cluster, and then, by a Job, in the store. Pure.

Each deed follows from what is written down, or from what was done; so a pass that is repeated does the same again.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection, Sequence

from modelwright.api.model import Model, ModelStatus
from modelwright.api.model_retention import RetentionStatus, RetiredVersion
from modelwright.api.types import seconds
from modelwright.collection import CollectSummary
from modelwright.controllers.model.collect import CollectPodView, CollectView
from modelwright.controllers.model.plan import Event
from modelwright.controllers.model.retention import folder_of, kept, own_folders, retiring
from modelwright.controllers.model.uses import ServiceUse
from modelwright.controllers.modelversion.observed import VersionView


@dataclasses.dataclass(frozen=True, slots=True)
class Retire:
    """`delete`: versions that are written down, to be deleted in the cluster. `folders`: make the Job that looks
    through these, and removes the artifacts of `gone`; `work`, also what compressions left. `end`: a Job that has done
    its work, and goes once the status is written. `look_again` is in seconds."""

    status: RetentionStatus | None
    delete: tuple[RetiredVersion, ...] = ()
    folders: tuple[str, ...] = ()
    gone: tuple[RetiredVersion, ...] = ()
    work: bool = True
    end: CollectView | None = None
    events: tuple[Event, ...] = ()
    look_again: float | None = None


def plan_retirement(
    model: Model,
    status: ModelStatus,
    versions: Sequence[VersionView],
    uses: Sequence[ServiceUse],
    read: Collection[str],
    job: CollectView | None,
    pods: Sequence[CollectPodView],
    now: datetime.datetime,
    *,
    has_image: bool,
) -> Retire:
    """`status` is the model's as it is to be, `read` are versions that trainings begin with, `job` is the one that
    looks through the store, with its `pods`."""
    retention, before = model.spec.retention, model.status.retention or RetentionStatus()
    if retention is None:
        told = before.model_copy(update={"retiring": None}) if model.status.retention else None
        return Retire(told, end=job)
    after, events = _collected(before, job, pods, now)
    keep = kept(model, retention, status, versions, uses, read)
    on = retiring(after.retiring or (), versions, keep)
    there = {one.uid: one for one in versions}
    known = {one.uid for one in before.retiring or ()}
    # Only what was written down before: so its artifact is found whatever happens to the operator now.
    doomed = tuple(
        one for one in on if one.uid in known and one.uid in there
        and not there[one.uid].deleting and one.name not in keep
    )  # fmt: skip
    gone = tuple(one for one in on if one.uid not in there)
    after = after.model_copy(update={"retiring": on or None})
    if doomed:
        names = ", ".join(one.name for one in doomed)
        events.append(Event("VersionsRetired", f"not kept, and deleted: {names}"))
    made = Retire(after, doomed, events=tuple(events))
    if job is not None:
        return dataclasses.replace(made, end=job if job.ended else None)
    since = (now - after.collected_at).total_seconds() if after.collected_at else None
    due = seconds(retention.every) - since if since is not None else 0.0
    at_work = any(one.uid in there and not there[one.uid].deleting for one in on)
    uris = (*(one.uri for one in versions if one.uri), *(one.uri for one in gone))
    folders = tuple(sorted(one for one in own_folders(model, uris) if one.startswith("s3://")))
    if due > 0 and not (gone and not at_work and after.message is None):
        return dataclasses.replace(made, look_again=due)
    if not folders or at_work:
        return made
    if not has_image:
        words = "the operator has no image for servers, which looks through the store (chart: serverImage)"
        return dataclasses.replace(made, status=after.model_copy(update={"message": words}))
    # What is made by Jobs of its own has its work there.
    at_work_there = any(not (one.ready or one.failure or one.training_job) for one in versions)
    ours = tuple(one for one in gone if folder_of(one.uri) in folders)
    return dataclasses.replace(made, folders=folders, gone=ours, work=not at_work_there)


def _collected(
    before: RetentionStatus, job: CollectView | None, pods: Sequence[CollectPodView], now: datetime.datetime
) -> tuple[RetentionStatus, list[Event]]:
    """What the Job, if it has ended, has to say; once."""
    if job is None or not job.ended or before.collected_by == job.uid:
        return before, []
    said = next((one for pod in pods if (one := CollectSummary.from_message(pod.message)) is not None), None)
    if said is None and job.ended == "Complete":
        # Its word was lost with its pod; what was to go has gone.
        said = CollectSummary()
    told = before.model_copy(update={"collected_at": now.replace(microsecond=0), "collected_by": job.uid})
    if said is None or said.failure:
        words = said.failure if said and said.failure else f"the Job failed: {job.message}"
        told = told.model_copy(update={"message": words[:1024]})
        return told, [Event("CollectionFailed", words[:1024], warning=True)]
    left = tuple(one for one in before.retiring or () if one.digest not in job.retired)
    told = told.model_copy(
        update={
            "message": None,
            "retiring": left or None,
            "retired": before.retired + len(before.retiring or ()) - len(left),
            "freed_bytes": before.freed_bytes + said.freed_bytes,
            "last_freed_bytes": said.freed_bytes,
            "blobs": said.left_blobs,
            "bytes": said.left_bytes,
        }
    )
    if not said.freed_bytes:
        return told, []
    words = (
        f"{said.manifests} versions, {said.blobs + said.work} files, {said.freed_bytes} bytes removed from the store"
    )
    return told, [Event("StoreCollected", words)]
