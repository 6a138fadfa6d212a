"""`collect`: removes from a model's folder in the store what nobody refers to any more.

Each object is looked at once more right before it goes: one that was written meanwhile stays. A run that is cut off has
removed a part, in an order that leaves nothing that is referred to without its content.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Sequence

from modelwright import artifact
from modelwright.artifact import Manifest
from modelwright.collection import CollectRun, CollectSummary, Entry, Sweep, manifests_of, sweep
from modelwright.store import Store, StoreError, Trouble

log = logging.getLogger(__name__)


def main(run: CollectRun) -> CollectSummary:
    """Never raises: what is wrong is in the summary."""
    store, summary = Store(run.store), CollectSummary()
    for folder in run.folders:
        try:
            summary += collected(run, folder, store, datetime.datetime.now(datetime.UTC))
        except StoreError as error:
            summary += CollectSummary(failure=str(error))
        except Exception as error:
            log.exception("the collection failed")
            summary += CollectSummary(failure=f"{type(error).__name__}: {error}")
    return summary


def collected(run: CollectRun, folder: str, store: Store, now: datetime.datetime) -> CollectSummary:
    """Of one folder. Raises StoreError."""
    prefix = f"{folder.rstrip('/')}/"
    entries = [Entry(*one) for one in store.entries(folder)]
    found = _manifests(prefix, store, entries)
    if isinstance(found, str):
        return CollectSummary(failure=found)
    plan = sweep(
        entries,
        found,
        {one.uri.removeprefix(prefix): one.digest for one in run.retired if one.uri.startswith(prefix)},
        now=now,
        min_age=datetime.timedelta(seconds=run.min_age_seconds),
        work=run.work,
    )
    return _removed(prefix, store, plan)


def _manifests(prefix: str, store: Store, entries: Sequence[Entry]) -> dict[str, tuple[str, Manifest]] | str:
    """All of the folder, by their paths; or why it cannot be told what is referred to. They are read after the blobs
    were listed: whoever publishes writes blobs first."""
    found: dict[str, tuple[str, Manifest]] = {}
    for one in manifests_of(entries):
        uri = prefix + one.path
        try:
            content = store.read(uri)
        except StoreError as error:
            if error.trouble is Trouble.NO_OBJECT:
                continue
            raise
        try:
            found[one.path] = artifact.digest_of(content), Manifest.from_bytes(content)
        except ValueError:
            return (
                f"{uri}: it is no manifest that this version of modelwright reads, so that it cannot be told which"
                " blobs it refers to; nothing is removed: mend it, or remove it"
            )
    return found


def _removed(prefix: str, store: Store, plan: Sweep) -> CollectSummary:
    freed = 0
    counts = []
    for entries in (plan.manifests, plan.blobs, plan.work):
        count = 0
        for one in entries:
            uri = prefix + one.path
            written = store.modified(uri)
            # A listing tells fractions of a second, the look at one object none.
            if written is None or int(written.timestamp()) != int(one.modified.timestamp()):
                continue
            store.remove([uri])
            log.info("removed %s, %d bytes", uri, one.size)
            count, freed = count + 1, freed + one.size
        counts.append(count)
    manifests, blobs, work = counts
    return CollectSummary(
        manifests=manifests,
        blobs=blobs,
        work=work,
        freed_bytes=freed,
        left_blobs=len(plan.left),
        left_bytes=sum(one.size for one in plan.left),
        young=plan.young,
    )
