"""`modelwright import`: ModelVersions for what lies in a store, the way back after a namespace, or a cluster, was lost.

The digest that is written is that of the manifest as it is in the store now; a Job in the namespace then checks every
file, and that it answers as it did.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import yaml

from modelwright import artifact
from modelwright.api.base import API_VERSION
from modelwright.api.versions import model_version_name, precedence
from modelwright.artifact import MANIFEST, Manifest
from modelwright.cli.cluster import Refused, Where, connected
from modelwright.cli.stores import opened
from modelwright.kube import errors
from modelwright.kube.client import Client
from modelwright.kube.resources import MODELVERSIONS, Object
from modelwright.store import Store


@dataclasses.dataclass(frozen=True, slots=True)
class Reach:
    """How the pods of the namespace reach the store; what is left out is the operator's."""

    endpoint: str | None = None
    region: str | None = None
    secret: str | None = None

    def to_object(self) -> Object:
        stated = {"endpoint": self.endpoint, "region": self.region}
        made: Object = {name: value for name, value in stated.items() if value}
        return {**made, "secretRef": {"name": self.secret}} if self.secret else made


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """A version in the store: its manifest, where that lies, and its digest."""

    uri: str
    digest: str
    manifest: Manifest

    @property
    def name(self) -> str:
        return model_version_name(self.manifest.model, self.manifest.version, self.manifest.variant)


def model_version(stored: Stored, reach: Reach) -> Object:
    """The ModelVersion that imports it."""
    manifest = stored.manifest
    spec: dict[str, Any] = {"model": manifest.model, "version": manifest.version}
    if manifest.variant:
        spec["variant"] = manifest.variant
    source: dict[str, Any] = {"uri": stored.uri, "digest": stored.digest}
    if storage := reach.to_object():
        source["storage"] = storage
    spec["source"] = {"artifact": source}
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelVersion",
        "metadata": {"name": stored.name},
        "spec": spec,
    }


def read(store: Store, uri: str, digest: str | None = None) -> Stored:
    """The version whose manifest is at `uri`, of the given digest where one is given. Raises Refused, StoreError."""
    content = store.read(uri)
    try:
        manifest = Manifest.from_bytes(content, digest)
    except ValueError as wrong:
        raise Refused(f"{uri}: it is no manifest of a version: {str(wrong).splitlines()[0]}") from wrong
    return Stored(uri, artifact.digest_of(content), manifest)


def below(store: Store, folder: str) -> list[Stored]:
    """All versions below a folder of the store, in the order of their models and versions. Raises Refused where two of
    them would be one ModelVersion, StoreError."""
    folder = folder.rstrip("/")
    paths = [name for name in store.names(folder) if _is_manifest(name)]
    found = [read(store, f"{folder}/{name}") for name in paths]
    if not found:
        raise Refused(f"{folder}: there is no versions/<version>/{MANIFEST} below it")
    places: dict[str, str] = {}
    for one in found:
        if one.name in places:
            raise Refused(
                f"{places[one.name]} and {one.uri} are both {one.name}; name the folder of one namespace, such as"
                " s3://bucket/models/team"
            )
        places[one.name] = one.uri
    return sorted(
        found, key=lambda one: (one.manifest.model, precedence(one.manifest.version), one.manifest.variant or "")
    )


def _is_manifest(name: str) -> bool:
    parts = f"/{name}".split("/")
    return len(parts) >= 4 and parts[-1] == MANIFEST and parts[-3] == "versions"


async def run(uri: str, digest: str | None, reach: Reach, where: Where, *, every: bool, apply: bool) -> str:
    """Reads the store, and returns the ModelVersions as YAML, or what became of each where they are applied. Raises
    Refused."""
    if every and digest:
        raise Refused("--digest is of one manifest; leave it out with --all")
    if not every and not uri.endswith(f"/{MANIFEST}"):
        raise Refused(f"{uri}: a version is .../versions/<version>/{MANIFEST}; for all below a folder add --all")
    with opened(uri) as store:
        stored = await asyncio.to_thread(below, store, uri) if every else [read(store, uri, digest)]
    objects = [model_version(one, reach) for one in stored]
    if not apply:
        return yaml.safe_dump_all(objects, sort_keys=False).rstrip()
    async with connected(where) as (client, namespace):
        return "\n".join([await _apply(client, namespace, obj) for obj in objects])


async def _apply(client: Client, namespace: str, obj: Object) -> str:
    name, digest = obj["metadata"]["name"], obj["spec"]["source"]["artifact"]["digest"]
    try:
        await client.create(MODELVERSIONS, {**obj, "metadata": {**obj["metadata"], "namespace": namespace}})
    except errors.AlreadyExists:
        there = await client.get(MODELVERSIONS, name, namespace)
        known = (there.get("status") or {}).get("artifact") or there["spec"]["source"].get("artifact") or {}
        if known.get("digest") == digest:
            return f"{name} is there already, with the same digest"
        raise Refused(
            f"ModelVersion {name} exists in namespace {namespace} and is another ({known.get('digest', 'no artifact')},"
            f" in the store {digest}); a version never changes: delete it first, or leave it"
        ) from None
    return f"{name} is imported ({digest})"
