"""`modelwright pull`: a version's files from the store, each checked against its digest."""

from __future__ import annotations

import asyncio
from pathlib import Path

from modelwright import versions
from modelwright.api.model import Model
from modelwright.api.model_version import ModelVersion
from modelwright.api.versions import is_semver, model_version_name
from modelwright.cli.cluster import Refused, Where, connected
from modelwright.cli.stores import opened
from modelwright.kube import errors
from modelwright.kube.client import Client
from modelwright.kube.resources import MODELS, MODELVERSIONS


def wanted(model: Model, what: str, variant: str | None) -> str:
    """The name of the ModelVersion that is asked for: `what` is a channel, a version, or empty for the newest. A
    variant is one of the version that it comes to. Raises Refused."""
    name, status = model.metadata.name, model.status
    if is_semver(what):
        return model_version_name(name, what, variant)
    if not what:
        if status.latest is None:
            raise Refused(f"Model {name} has no version that is Ready")
        return model_version_name(name, status.latest, variant)
    channel = (status.channels or {}).get(what)
    if channel is None:
        known = ", ".join(sorted(status.channels or {})) or "none"
        raise Refused(f"Model {name} has no channel {what}; it has {known}")
    if channel.model_version_ref is None or channel.version is None:
        raise Refused(f"channel {what} of Model {name} points at nothing: {channel.message}")
    return model_version_name(name, channel.version, variant) if variant else channel.model_version_ref.name


async def _name(client: Client, namespace: str, asked: str, variant: str | None) -> str:
    model, _, what = asked.partition(":")
    if is_semver(what):
        # Such a one needs no Model.
        return model_version_name(model, what, variant)
    try:
        found = await client.get(MODELS, model, namespace)
    except errors.NotFound as missing:
        raise Refused(
            f"Model {model} does not exist in namespace {namespace}; a version without one is {model}:1.0.0"
        ) from missing
    return wanted(Model.model_validate(found), what, variant)


async def run(asked: str, variant: str | None, to: str | None, where: Where) -> str:
    """Fetches `asked`, MODEL[:CHANNEL or VERSION], into the folder `to`; returns what to tell. Raises Refused."""
    async with connected(where) as (client, namespace):
        name = await _name(client, namespace, asked, variant)
        try:
            version = ModelVersion.model_validate(await client.get(MODELVERSIONS, name, namespace))
        except errors.NotFound as missing:
            raise Refused(f"ModelVersion {name} does not exist in namespace {namespace}") from missing
    artifact = version.status.artifact
    if artifact is None:
        raise Refused(f"ModelVersion {name} has no artifact yet: its phase is {version.status.phase}")
    folder = Path(to or name)
    with opened(artifact.uri) as store:
        manifest = await asyncio.to_thread(versions.fetch, store, artifact.uri, artifact.digest, folder)
    size = sum(file.size for file in manifest.files)
    told = [
        f"{name} ({artifact.digest}) is in {folder}: {len(manifest.files)} files, {size} bytes, every digest checked"
    ]
    if version.spec.retracted is not None:
        told.append(f"it is retracted: {version.spec.retracted.reason}")
    return "\n".join(told)
