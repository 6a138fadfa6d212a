"""Which versions are kept, pure: retention never takes what anybody uses, or may go back to."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from modelwright.api.model import Model, ModelStatus
from modelwright.api.model_retention import RETIRING, Retention, RetiredVersion
from modelwright.api.versions import model_version_name, precedence
from modelwright.controllers.model.uses import ServiceUse
from modelwright.controllers.modelversion.observed import VersionView


def kept(
    model: Model,
    retention: Retention,
    status: ModelStatus,
    versions: Sequence[VersionView],
    uses: Iterable[ServiceUse],
    read: Collection[str] = (),
) -> set[str]:
    """The names of the ModelVersions that are kept, of `versions`. `status` is the model's with what its channels point
    at now; `read` are versions that trainings begin with."""
    names = _newest(retention.keep_last, versions) | set(read)
    for one in versions:
        pinned = one.version in (retention.pinned or ())
        # What is not Ready is being made, or failed and is to be looked into.
        if pinned or not one.ready or not one.made_by_operator:
            names.add(one.key.name)
    for channel in (model.spec.channels or {}).values():
        if channel.version is not None:
            names.add(model_version_name(model.metadata.name, channel.version, channel.variant))
    for held in (status.channels or {}).values():
        names |= {held.model_version_ref.name} if held.model_version_ref else set()
        names |= {one.name for one in held.history or ()}
    for use in uses:
        names |= use.versions | ({use.previous} if use.previous else set())
    return _with_ancestors(names, versions) & {one.key.name for one in versions}


def _newest(count: int, versions: Iterable[VersionView]) -> set[str]:
    """Of each variant the newest that can be used, and whatever is newer than the last of these."""
    by_variant: dict[str, list[VersionView]] = {}
    for one in versions:
        by_variant.setdefault(one.variant, []).append(one)
    names: set[str] = set()
    for of_variant in by_variant.values():
        usable = sorted((precedence(one.version) for one in of_variant if one.usable), reverse=True)
        least = usable[count - 1] if len(usable) >= count else None
        names |= {one.key.name for one in of_variant if least is None or precedence(one.version) >= least}
    return names


def _with_ancestors(names: set[str], versions: Sequence[VersionView]) -> set[str]:
    """Also what they were made of, or are compared with."""
    known = {one.key.name: one for one in versions}
    found, waiting = set[str](), list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            if name in known:
                waiting += [*known[name].parents, *known[name].compared]
    return found


def retiring(
    before: Sequence[RetiredVersion], versions: Sequence[VersionView], keep: set[str]
) -> tuple[RetiredVersion, ...]:
    """The versions that are on their way out: those of `before`, but for what is kept after all and not being deleted,
    and as many more as there may be at a time, the oldest first. One that is gone from the cluster is still to go
    from the store; another one of its name is another version."""
    there = {one.key.name: one for one in versions}
    on = [
        one for one in before
        if (view := there.get(one.name)) is None or (view.uid == one.uid and (view.deleting or one.name not in keep))
    ]  # fmt: skip
    known = {one.name for one in on}
    for view in sorted(versions, key=lambda one: (precedence(one.version), one.variant)):
        if view.key.name not in keep | known and not view.deleting and view.uri and len(on) < RETIRING:
            on.append(RetiredVersion(name=view.key.name, uid=view.uid, uri=view.uri, digest=view.digest))
    return tuple(on)


def folder_of(uri: str) -> str:
    """The model's folder that a manifest lies in."""
    return uri.rpartition("/versions/")[0]


def own_folders(model: Model, uris: Iterable[str]) -> set[str]:
    """The folders among those of the manifests that are this model's own: what lies in another namespace's is that
    one's to look through."""
    own = f"/models/{model.metadata.namespace}/{model.metadata.name}"
    return {folder for uri in uris if (folder := folder_of(uri)).endswith(own)}
