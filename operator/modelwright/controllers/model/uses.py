"""Who serves what: of each InferenceService what it answers with, what it is about to, and what it may go back to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from modelwright.api.model_version import UseRole, VersionUse
from modelwright.api.versions import model_version_name
from modelwright.kube.resources import Key, Object

_SHOWN = 64


@dataclasses.dataclass(frozen=True, slots=True)
class ServiceUse:
    """An InferenceService. `active`, `target`, `before` and `previous` are names of ModelVersions, empty where there is
    none: `before` is the one that a change under way may go back to, `previous` the one that a person may. `named` is
    the one that its spec names; or `channel` is the channel that it follows."""

    key: Key
    model: str
    channel: str
    named: str
    active: str
    target: str
    before: str
    deleting: bool
    previous: str = ""

    @property
    def versions(self) -> set[str]:
        return {self.active, self.target, self.before, self.named} - {""}

    def role(self, version: str) -> UseRole | None:
        """What it has to do with the ModelVersion of this name, as its status says."""
        if self.deleting:
            # Its pods go with it; whoever holds it back holds it back alone.
            return None
        if version == self.active:
            return "Active"
        if version == self.target:
            return "Next"
        return "Before" if version == self.before else None

    def asks_for(self, version: str, channels: Mapping[str, str]) -> bool:
        """Whether its spec asks for the version; `channels` are the model's, with the ModelVersion of each."""
        return not self.deleting and version in (self.named, channels.get(self.channel))


def service_use(obj: Object) -> ServiceUse:
    metadata, model, status = obj["metadata"], obj["spec"]["model"], obj.get("status") or {}
    rollout = status.get("rollout") or {}
    version, name = model.get("version"), str(model["name"])
    return ServiceUse(
        key=Key(metadata["namespace"], metadata["name"]),
        model=name,
        channel=str(model.get("channel", "")),
        named=model_version_name(name, version, model.get("variant")) if version else "",
        active=_reference(status.get("active")),
        target=_reference(rollout.get("target")),
        before=_reference(status.get("previous")) if rollout else "",
        deleting=bool(metadata.get("deletionTimestamp")),
        previous=_reference(status.get("previous")),
    )


def _reference(revision: Object | None) -> str:
    return _named((revision or {}).get("modelVersionRef"))


def _named(reference: Object | None) -> str:
    return str((reference or {}).get("name", ""))


def pointed_at(model: Object | None) -> dict[str, str]:
    """The ModelVersion that each channel of a Model points at, as its status says."""
    channels = ((model or {}).get("status") or {}).get("channels") or {}
    return {name: reference for name, one in channels.items() if (reference := _named(one.get("modelVersionRef")))}


def ever_pointed_at(model: Object | None) -> set[str]:
    """The ModelVersions that its channels point at, or did."""
    channels = ((model or {}).get("status") or {}).get("channels") or {}
    return {
        name
        for one in channels.values()
        for reference in (one.get("modelVersionRef"), *(one.get("history") or ()))
        if (name := _named(reference))
    }


def users(
    version: str, uses: Iterable[ServiceUse], channels: Mapping[str, str], *, asked: bool = True
) -> tuple[VersionUse, ...]:
    """The InferenceServices that have to do with the ModelVersion `version`, by name. One that asks for it and has not
    begun yet is about to serve it, where `asked` counts."""
    found = []
    for use in sorted(uses, key=lambda one: one.key):
        role = use.role(version) or ("Next" if asked and use.asks_for(version, channels) else None)
        if role is not None:
            found.append(VersionUse(name=use.key.name, role=role))
    return tuple(found)


def first(found: Sequence[VersionUse]) -> tuple[VersionUse, ...] | None:
    """As many as status holds."""
    return tuple(found[:_SHOWN]) or None


def told(found: Iterable[VersionUse]) -> str:
    """On one line: digits, edge (next)."""
    return ", ".join(one.name if one.role == "Active" else f"{one.name} ({one.role.lower()})" for one in found)
