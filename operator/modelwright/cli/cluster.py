"""The cluster and the namespace that a command acts in, as kubectl's configuration says."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import yaml
from kubernetes.aio.config import ConfigException
from pydantic import ValidationError

from modelwright.kube import errors
from modelwright.kube.client import Client


class Refused(Exception):  # noqa: N818 - it reads as what happened
    """What was asked for cannot be done; the text says why, and what can."""


@dataclasses.dataclass(frozen=True, slots=True)
class Where:
    namespace: str | None
    context: str | None
    kubeconfig: str | None


def namespace_of(where: Where) -> str:
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


@contextlib.asynccontextmanager
async def connected(where: Where) -> AsyncIterator[tuple[Client, str]]:
    """A client, and the namespace. What the API server refuses becomes Refused."""
    kubeconfig = Path(where.kubeconfig) if where.kubeconfig else None
    try:
        async with await Client.connect(kubeconfig, context=where.context) as client:
            yield client, namespace_of(where)
    except ConfigException as wrong:
        raise Refused(f"kubectl's configuration cannot be used: {wrong}") from wrong
    except (errors.ApiError, ValidationError) as failed:
        raise Refused(str(failed)) from failed
