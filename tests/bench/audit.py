"""The API server's audit log as it grows: who wrote what, when, and to what end."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

# The API server rotates the log by size (MiB), and a bench would lose its beginning.
FLAGS = ("--audit-log-maxsize=100000",)
READS = frozenset({"get", "list", "watch"})


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """A request that was answered. `at` is when, in seconds; `what` is verb, resource and subresource; `status_fields`
    are those of the status that a patch of it names."""

    agent: str
    user: str
    what: str
    name: str
    code: int
    at: float
    dry_run: bool
    status_fields: tuple[str, ...]

    @property
    def is_write(self) -> bool:
        return self.what.partition(" ")[0] not in READS

    @property
    def told(self) -> str:
        words = f"dry-run {self.what}" if self.dry_run else self.what
        return words if self.code < 300 else f"{words} ({self.code})"


class Audit:
    """What was logged since this was made."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._from = log.stat().st_size if log.exists() else 0
        self._counted = self._from

    def count(self, text: bytes) -> int:
        """Occurrences of `text` in what was logged since the last count: cheap enough to be asked beside a measurement
        on the same cores."""
        with self._log.open("rb") as file:
            file.seek(self._counted)
            new = file.read()
        whole = new.rfind(b"\n") + 1
        self._counted += whole
        return new[:whole].count(text)

    def writes(self) -> Iterator[Request]:
        return (request for request in self.requests() if request.is_write)

    def requests(self) -> Iterator[Request]:
        """All but watches, in the order of their answers."""
        with self._log.open("rb") as file:
            file.seek(self._from)
            for line in file:
                event = json.loads(line)
                if event["verb"] == "watch" or event["stage"] != "ResponseComplete" or "objectRef" not in event:
                    continue
                of = event["objectRef"]
                subresource = f"/{of['subresource']}" if of.get("subresource") else ""
                yield Request(
                    agent=event.get("userAgent", ""),
                    user=event["user"]["username"],
                    what=f"{event['verb']} {of['resource']}{subresource}",
                    name=of.get("name") or (event.get("requestObject") or {}).get("metadata", {}).get("name", ""),
                    code=event["responseStatus"]["code"],
                    at=datetime.datetime.fromisoformat(event["stageTimestamp"]).timestamp(),
                    dry_run="dryRun=" in event["requestURI"],
                    status_fields=tuple(sorted((event.get("requestObject") or {}).get("status") or ())),
                )


def counts(requests: Iterable[Request]) -> dict[str, int]:
    """How many there are of each kind, in the order of their names."""
    counted: dict[str, int] = {}
    for request in requests:
        counted[request.told] = counted.get(request.told, 0) + 1
    return dict(sorted(counted.items()))
