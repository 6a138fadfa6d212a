"""What a pod serves, for both of its protocols: one version, from before it is loaded until the process ends."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from modelwright_server.executor import Executor
from modelwright_server.metrics import Metrics
from modelwright_server.outcomes import Kind, Refused

if TYPE_CHECKING:
    from modelwright_server.model import Model

SERVER_NAME = "modelwright-server"


@dataclasses.dataclass
class Served:
    """`model` is None until the version may serve; `ready` holds until SIGTERM, after which requests are still
    answered for a while. Inferences run on `executor`, everything else on the loop."""

    name: str
    version: str
    server_version: str
    metrics: Metrics
    executor: Executor
    model: Model | None = None
    ready: bool = False

    def check_name(self, name: str, version: str | None) -> None:
        """Raises Refused (NotFound) where the pod does not serve that; `version` may be left out, as None or ""."""
        if name != self.name:
            raise Refused(Kind.NOT_FOUND, f"there is no model {name[:200]!r} here; this server has {self.name!r}")
        if version and version != self.version:
            raise Refused(
                Kind.NOT_FOUND,
                f"there is no version {version[:200]!r} of {name!r} here; this server has {self.version!r}",
            )

    def loaded(self) -> Model:
        """Raises Refused (NotReady)."""
        if self.model is None:
            raise Refused(Kind.NOT_READY, f"model {self.name} is not ready yet")
        return self.model
