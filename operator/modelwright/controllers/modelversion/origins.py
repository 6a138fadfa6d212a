"""What a version is made of and compared with: waited for, and then pinned in status. Pure.

Once pinned, nothing of it is looked at again: a parent that is deleted, a channel that moves, a Dataset that is
prepared anew change nothing of a version that is under way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from modelwright.api.base import StatusRef
from modelwright.api.dataset import Dataset
from modelwright.api.model import Model
from modelwright.api.model_version import ModelVersion
from modelwright.api.version_evaluation import Comparison
from modelwright.api.version_status import Compared, EvaluationData, EvaluationStatus, VersionOrigin
from modelwright.controllers.modelversion.observed import VersionView

WAITING, PARENT_FAILED, PARENT_RETRACTED = "WaitingForParent", "ParentFailed", "ParentRetracted"
CYCLE = "Cycle"
NOT_READY, DATASET_NOT_READY, DATASET_FAILED = "WaitingForComparison", "DatasetNotReady", "DatasetFailed"

Versions = Callable[[str], VersionView | None]
"""By name, in the namespace of the version."""


@dataclasses.dataclass(frozen=True, slots=True)
class Missing:
    """Why the work cannot begin yet. `stalled`: nothing comes of it until a person acts."""

    reason: str
    message: str
    stalled: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Origins:
    """All that the version hangs on. `parents` are in the order of the spec."""

    parents: tuple[VersionOrigin, ...]
    evaluation: EvaluationStatus | None


def dataset_name(version: ModelVersion) -> str | None:
    evaluation = version.spec.evaluation
    return evaluation.dataset_ref.name if evaluation and evaluation.dataset_ref else None


def origins(
    version: ModelVersion, versions: Versions, model: Model | None, dataset: Dataset | None
) -> Origins | Missing:
    """`model` and `dataset` are those that the evaluation refers to, None where there is no such object."""
    cycle = _cycle(version.metadata.name, _parent_names(version), versions)
    if cycle is not None:
        made = ", which is made of ".join(cycle)
        message = f"{made}: none of them can be the first; delete one, and create it out of another version"
        return Missing(CYCLE, message, stalled=True)
    parents: list[VersionOrigin] = []
    for name in _parent_names(version):
        view = versions(name)
        if view is not None and view.retracted:
            message = f"ModelVersion {name} was taken back: {view.retracted}. Delete this one, and make it of another"
            return Missing(PARENT_RETRACTED, message, stalled=True)
        found = _version(name, view, WAITING, PARENT_FAILED)
        if isinstance(found, Missing):
            return found
        parents.append(found)
    evaluation = _evaluation(version, versions, model, dataset)
    return evaluation if isinstance(evaluation, Missing) else Origins(tuple(parents), evaluation)


def _parent_names(version: ModelVersion) -> tuple[str, ...]:
    return tuple(one.name_of(version.spec.model) for one in version.spec.source.parents)


def _cycle(name: str, parents: tuple[str, ...], versions: Versions) -> tuple[str, ...] | None:
    """The way from the version back to itself, both ends included."""
    seen: set[str] = set()
    ways: list[tuple[str, ...]] = [(name, parent) for parent in reversed(parents)]
    while ways:
        way = ways.pop()
        if way[-1] == name:
            return way
        if way[-1] in seen:
            continue
        seen.add(way[-1])
        view = versions(way[-1])
        ways += [(*way, parent) for parent in reversed(view.parents if view else ())]
    return None


def _version(name: str, view: VersionView | None, waiting: str, failed: str) -> VersionOrigin | Missing:
    if view is None:
        return Missing(waiting, f"waiting for ModelVersion {name}, which does not exist: create it")
    if view.deleting:
        return Missing(waiting, f"waiting for ModelVersion {name}, which is being deleted")
    if view.ready and view.digest:
        return VersionOrigin(name=name, uri=view.uri, digest=view.digest)
    if view.failure:
        return Missing(failed, f"ModelVersion {name} failed: {view.failure}", stalled=True)
    return Missing(waiting, f"waiting for ModelVersion {name}, which is not Ready")


def _evaluation(
    version: ModelVersion, versions: Versions, model: Model | None, dataset: Dataset | None
) -> EvaluationStatus | Missing | None:
    stated, data, against = version.spec.evaluation, None, []
    if stated is None:
        return None
    if stated.dataset_ref is not None:
        found = _dataset(stated.dataset_ref.name, dataset)
        if isinstance(found, Missing):
            return found
        data = found
    for metric, comparison in _comparisons(version):
        origin = _compared(version.spec.model, comparison, versions, model)
        if isinstance(origin, Missing):
            return origin
        against.append(Compared(**origin.model_dump(), metric=metric, channel=comparison.channel))
    return EvaluationStatus(data=data, against=tuple(against) or None) if data or against else None


def _comparisons(version: ModelVersion) -> Iterator[tuple[str, Comparison]]:
    for gate in (version.spec.evaluation.gates if version.spec.evaluation else None) or ():
        if gate.against is not None:
            yield gate.metric, gate.against


def _compared(name: str, comparison: Comparison, versions: Versions, model: Model | None) -> VersionOrigin | Missing:
    named = comparison.name_of(name)
    if named is not None:
        return _version(named, versions(named), NOT_READY, NOT_READY)
    if model is None:
        return Missing(
            NOT_READY, f"waiting for channel {comparison.channel} of Model {name}, which does not exist: create it"
        )
    channel = (model.status.channels or {}).get(comparison.channel or "")
    if channel is None or channel.model_version_ref is None:
        words = "it has no such channel" if channel is None else channel.message or "it points at nothing yet"
        return Missing(NOT_READY, f"waiting for channel {comparison.channel} of Model {name}: {words}")
    pointed = channel.model_version_ref.name
    return _version(pointed, versions(pointed), NOT_READY, NOT_READY)


def _dataset(name: str, dataset: Dataset | None) -> EvaluationData | Missing:
    if dataset is None:
        return Missing(DATASET_NOT_READY, f"waiting for Dataset {name}, which does not exist: create it")
    status = dataset.status
    if status.observed_generation != dataset.metadata.generation:
        return Missing(DATASET_NOT_READY, f"waiting for Dataset {name}, which is looked at")
    said = next((one.message for one in status.conditions or () if one.type == "Succeeded"), "")
    if status.phase == "Failed":
        return Missing(DATASET_FAILED, f"Dataset {name} failed: {said}", stalled=True)
    if status.phase != "Succeeded" or status.artifact is None or status.storage is None:
        return Missing(DATASET_NOT_READY, f"waiting for Dataset {name}, which is {status.phase}: {said}")
    return EvaluationData(dataset_ref=StatusRef(name=name), artifact=status.artifact, storage=status.storage)
