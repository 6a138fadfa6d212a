"""The members of a combination: brought from the store, and checked to be alike in what goes in and comes out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

from modelwright import versions
from modelwright.artifact import LOGITS, PREDICTION, PROBABILITIES, Manifest, Onnx, Tensor
from modelwright.contract import Outcome
from modelwright.derivation import CombineRun, Member
from modelwright.store import Store

from modelwright_trainer.failures import TrainingFailed, UserFailed
from modelwright_trainer.onnxgraph import Session

TASKS = ("Classification", "Regression")
_FIELD = "spec.source.combine"


class MembersDiffer(TrainingFailed):
    """The members cannot be combined; the text names the member, the tensor or class, and what differs."""

    def __init__(self, message: str) -> None:
        super().__init__(Outcome.MEMBERS_DIFFER, f"{_FIELD}.members: {message}")


@dataclasses.dataclass(frozen=True)
class Opened:
    """A member, its files in `folder`."""

    member: Member
    manifest: Manifest
    folder: Path

    @property
    def name(self) -> str:
        return self.member.name

    @property
    def onnx(self) -> Onnx:
        """What its manifest says of its graph."""
        found = self.manifest.formats.onnx
        assert found is not None  # noqa: S101 - members are checked for it
        return found

    @functools.cached_property
    def session(self) -> Session:
        return Session(self.folder, self.onnx)

    @property
    def rows(self) -> Tensor:
        """Its only input."""
        return self.manifest.inputs[0]

    @property
    def output(self) -> str:
        """The name of what is combined: the prediction, or the probabilities, or else the logits that they are of."""
        given = {one.name for one in self.manifest.outputs}
        if self.manifest.task == "Regression":
            return PREDICTION
        return PROBABILITIES if PROBABILITIES in given else LOGITS


def opened(run: CombineRun, store: Store, folder: Path) -> list[Opened]:
    """The members in their order, every digest checked, and alike. Nothing of them is run. Raises UserFailed,
    MembersDiffer, Damaged, StoreError."""
    _weights(run)
    manifests = [versions.read(store, member.uri, member.digest) for member in run.members]
    # Before their weights are brought, which may be many.
    _alike([member.name for member in run.members], manifests)
    if run.method == "Vote" and manifests[0].task != "Classification":
        raise UserFailed(
            f"{_FIELD}.method: Vote is for Classification, and the members do {manifests[0].task}: take Mean, Weighted"
            " or Stack"
        )
    found = []
    for number, member in enumerate(run.members):
        place = folder / f"member-{number}"
        found.append(Opened(member, versions.fetch(store, member.uri, member.digest, place), place))
    return found


def _weights(run: CombineRun) -> None:
    names = [member.name for member in run.members]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserFailed(f"{_FIELD}.members: {twice} is named twice: give it a larger weight instead")
    if run.method in ("Mean", "Stack"):
        weighed = next((member for member in run.members if member.weight != 1), None)
        if weighed:
            raise UserFailed(
                f"{_FIELD}.members: {weighed.name} has the weight {weighed.weight:g}, and {run.method} takes none:"
                " leave it out, or take the method Weighted or Vote"
            )


def _alike(names: Sequence[str], manifests: Sequence[Manifest]) -> None:
    """Raises MembersDiffer for the first member that is not as the first of all."""
    for name, one in zip(names, manifests, strict=True):
        _combinable(name, one)
    first, wanted = names[0], manifests[0]
    for name, one in zip(names[1:], manifests[1:], strict=True):
        if one.task != wanted.task:
            raise MembersDiffer(f"{name} does {one.task}, and {first} does {wanted.task}: combine versions of one task")
        _same_names("class", name, one.classes, first, wanted.classes)
        ours, theirs = one.inputs[0], wanted.inputs[0]
        for what, own, other in (
            ("name", ours.name, theirs.name),
            ("type", ours.dtype, theirs.dtype),
            ("shape", _shape(ours), _shape(theirs)),
        ):
            if own != other:
                raise MembersDiffer(
                    f"input {ours.name} of {name} has the {what} {own}, and input {theirs.name} of {first} the {what}"
                    f" {other}: train them on the same columns"
                )
        _same_names(f"column of the input {ours.name}", name, ours.names, first, theirs.names)


def _combinable(name: str, one: Manifest) -> None:
    if one.formats.onnx is None:
        formats = ", ".join(one.formats.model_dump(exclude_none=True))
        raise MembersDiffer(f"{name} has no graph (its formats are {formats}): combine versions with the format onnx")
    if one.task not in TASKS:
        raise MembersDiffer(f"{name} does {one.task or 'no task'}, and what is combined does {' or '.join(TASKS)}")
    if len(one.inputs) != 1:
        listed = ", ".join(tensor.name for tensor in one.inputs)
        raise MembersDiffer(f"{name} has the inputs {listed}: combine versions with one input, the rows")
    given = {tensor.name: tensor for tensor in one.outputs}
    wanted = (PREDICTION,) if one.task == "Regression" else (PROBABILITIES, LOGITS)
    tensor = next((given[output] for output in wanted if output in given), None)
    if tensor is None:
        raise MembersDiffer(
            f"{name} gives {', '.join(given)}, and of {one.task} {' or '.join(wanted)} is combined: name an output so"
        )
    if one.task == "Classification" and not one.classes:
        raise MembersDiffer(f"{name} names no classes, so that their order cannot be checked")
    width = len(one.classes) if one.task == "Classification" else 1
    if tensor.dtype != "float32" or tensor.shape not in ((None, width), *(((None,),) if width == 1 else ())):
        raise MembersDiffer(
            f"output {tensor.name} of {name} is {tensor.dtype} {_shape(tensor)}, and float32 [rows, {width}] is"
            " combined: export it so"
        )


def _same_names(what: str, name: str, ours: Sequence[str], first: str, theirs: Sequence[str]) -> None:
    if tuple(ours) == tuple(theirs):
        return
    if len(ours) != len(theirs):
        raise MembersDiffer(
            f"{name} has {len(ours)} of what {first} has {len(theirs)} of ({what}): train them on the same data set"
        )
    at = next(at for at, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
    raise MembersDiffer(
        f"{what} {at + 1} is {ours[at]!r} in {name} and {theirs[at]!r} in {first}: their order must be the same; train"
        " them on the same data set"
    )


def _shape(tensor: Tensor) -> str:
    return f"[{', '.join('rows' if length is None else str(length) for length in tensor.shape)}]"


def trained_alike(members: Sequence[Opened]) -> None:
    """Raises UserFailed where the members were trained on different rows: the test rows of one may be training rows of
    another."""
    first = members[0]
    wanted = first.manifest.lineage.data
    for one in members:
        told = one.manifest.lineage.data
        if told is None or wanted is None:
            raise UserFailed(
                f"spec.evaluation.datasetRef: {one.name} does not say what it was trained on: name the Dataset to"
                " evaluate on"
            )
        if (told.digest, told.split) != (wanted.digest, wanted.split):
            raise UserFailed(
                f"spec.evaluation.datasetRef: {one.name} was trained on {told.uri} and {first.name} on {wanted.uri}, or"
                " on other parts of it, so that the test rows of one may be training rows of the other: name the"
                " Dataset to evaluate on, with rows that none has seen"
            )
