"""Kopf as a watch that wakes us, and nothing else.

For handlers of changes Kopf copies each object twice per event, to tell what changed since it last wrote that down, and
keeps what it wants to remember in the object's annotations. `on.event` needs neither: without them an event costs half
the CPU (measured), and nothing is ever written to a user's object.
"""

from __future__ import annotations

from typing import Any

import kopf

from modelwright.kube.client import PAGE_SIZE
from modelwright.kube.resources import API_GROUP

# Each object has a task of its own from its event until so much later. All objects have one at the start: those of one
# page should be gone before the last page is there.
_IDLE_SECONDS = 0.5


class _NoDiffBase(kopf.DiffBaseStorage):
    """Nothing is compared."""

    def build(self, *, body: Any, extra_fields: Any = None) -> kopf.BodyEssence:
        del body, extra_fields
        return kopf.BodyEssence({})

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


class _NoProgress(kopf.ProgressStorage):
    """Nothing is retried by Kopf, so that there is no progress to keep."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: Any) -> Any:
        return essence


def settings() -> kopf.OperatorSettings:
    made = kopf.OperatorSettings()
    made.posting.enabled = False
    made.scanning.disabled = True
    made.peering.standalone = True
    made.persistence.finalizer = f"{API_GROUP}/kopf-sets-none"
    made.persistence.diffbase_storage = _NoDiffBase()
    made.persistence.progress_storage = _NoProgress()
    # A list of thousands of raw objects at once would stay in the process's size for ever.
    made.watching.chunk_size = PAGE_SIZE
    made.queueing.idle_timeout = _IDLE_SECONDS
    return made
