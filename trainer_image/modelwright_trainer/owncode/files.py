"""The folder that the pod's containers share, and what they leave in it for each other."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from modelwright import owncode
from modelwright.contract import Shape

# Of our containers' own; the user's code has no business there.
_RUN = ".run"


class Fetched(Shape):
    """What `fetch` found: the digest of the data, the run's fingerprint with it, and the step that the code goes on
    from."""

    data_digest: str
    fingerprint: str
    resumed_step: int | None = None


@dataclasses.dataclass(frozen=True)
class Folder:
    """Paths of `modelwright.owncode` below `root`."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / owncode.DATA

    @property
    def checkpoint(self) -> Path:
        return self.root / owncode.CHECKPOINT

    @property
    def output(self) -> Path:
        return self.root / owncode.OUTPUT

    @property
    def progress(self) -> Path:
        return self.root / owncode.PROGRESS_FILE

    @property
    def fetched(self) -> Path:
        return self.root / _RUN / "fetched.json"

    @property
    def publishing(self) -> Path:
        """Is there once the code has ended with 0."""
        return self.root / _RUN / "publishing"

    def make(self) -> None:
        """All folders; the user's container may write to its own whichever user it runs as."""
        for path in (self.data, self.checkpoint, self.output):
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o777)
        self.fetched.parent.mkdir(exist_ok=True)

    def read_fetched(self) -> Fetched:
        return Fetched.model_validate_json(self.fetched.read_text())
