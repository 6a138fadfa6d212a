"""The operator's configuration, from environment variables that the chart sets."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping


class Misconfigured(Exception):  # noqa: N818 - it reads as what is wrong
    """A variable is missing or wrong; the text names it and what to write."""


@dataclasses.dataclass(frozen=True, slots=True)
class StorageDefaults:
    """What an object's `spec.storage` leaves out."""

    uri: str = ""
    endpoint: str = ""
    region: str = ""
    secret: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """`namespace` is the operator's own, where its Lease is; `watch_namespace` empty: all namespaces are watched."""

    namespace: str
    trainer_image: str
    server_image: str = ""
    watch_namespace: str = ""
    storage: StorageDefaults = StorageDefaults()
    metrics_port: int = 9400
    lease: str = "modelwright"
    lease_seconds: float = 15.0
    """How long the other replicas wait for a leader that says nothing."""


def from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
    """Raises Misconfigured."""

    def required(name: str, what: str) -> str:
        value = environment.get(name, "")
        if not value:
            raise Misconfigured(f"{name} is not set: it is {what}")
        return value

    port = environment.get("MODELWRIGHT_METRICS_PORT", "9400")
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise Misconfigured(f"MODELWRIGHT_METRICS_PORT: {port!r} is no port; write a number from 1 to 65535")
    lease_seconds = environment.get("MODELWRIGHT_LEASE_SECONDS", "15")
    # Below, a busy machine's pauses would look like the death of a leader.
    if not lease_seconds.isdigit() or not 3 <= int(lease_seconds) <= 3600:
        raise Misconfigured(f"MODELWRIGHT_LEASE_SECONDS: {lease_seconds!r}; write a whole number from 3 to 3600")
    return Settings(
        namespace=required("MODELWRIGHT_NAMESPACE", "the operator's own namespace"),
        trainer_image=required("MODELWRIGHT_TRAINER_IMAGE", "the image of training pods"),
        server_image=environment.get("MODELWRIGHT_SERVER_IMAGE", ""),
        watch_namespace=environment.get("MODELWRIGHT_WATCH_NAMESPACE", ""),
        storage=StorageDefaults(
            uri=environment.get("MODELWRIGHT_STORAGE_URI", ""),
            endpoint=environment.get("MODELWRIGHT_STORAGE_ENDPOINT", ""),
            region=environment.get("MODELWRIGHT_STORAGE_REGION", ""),
            secret=environment.get("MODELWRIGHT_STORAGE_SECRET", ""),
        ),
        metrics_port=int(port),
        lease=environment.get("MODELWRIGHT_LEASE", "modelwright"),
        lease_seconds=float(lease_seconds),
    )
