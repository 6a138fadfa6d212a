"""Writes a status once per pass, and only where it says something new."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelwright.kube.client import Client
from modelwright.kube.resources import Object, Resource


def compact(value: Any) -> Any:
    """Without what says nothing: nulls, and mappings that are empty with them. Lists keep their length."""
    if isinstance(value, Mapping):
        inner = {key: compact(one) for key, one in value.items() if one is not None}
        return {key: one for key, one in inner.items() if not (isinstance(one, dict) and not one)}
    if isinstance(value, list | tuple):
        return [compact(one) for one in value]
    return value


def merge_patch(current: Mapping[str, Any], wanted: Mapping[str, Any]) -> Object:
    """The JSON merge patch (RFC 7386) that turns `current` into `wanted`; empty where they say the same."""
    return _difference(compact(current), compact(wanted))


def _difference(current: Object, wanted: Object) -> Object:
    patch: Object = {key: None for key in current if key not in wanted}
    for key, value in wanted.items():
        known = current.get(key)
        if isinstance(value, dict) and isinstance(known, dict):
            if inner := _difference(known, value):
                patch[key] = inner
        elif key not in current or not _same(known, value):
            patch[key] = value
    return patch


def _same(one: Any, other: Any) -> bool:
    # For Python True == 1, for the API they differ; 1 and 1.0 are the same number for both.
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


async def write_status(
    client: Client,
    resource: Resource,
    name: str,
    namespace: str,
    *,
    resource_version: str,
    current: Mapping[str, Any],
    wanted: Mapping[str, Any],
) -> Object | None:
    """Writes `wanted` where it differs from `current`, the status that was read at `resource_version`.

    Returns the object as written, or None where nothing was. Raises Conflict where the object has changed since it was
    read, or is another one of that name (a version is never used twice): the pass planned on what no longer holds.
    """
    patch = merge_patch(current, wanted)
    if not patch:
        return None
    return await client.patch_status(resource, name, patch, namespace, resource_version=resource_version)
