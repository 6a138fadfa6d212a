"""The weights that a fine-tuning begins with: those of a published version of the same recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from modelwright import artifact, packing, versions
from modelwright.contract import InitFrom, Trainer
from modelwright.store import Store
from modelwright.versions import Damaged
from safetensors.numpy import load_file

from modelwright_trainer.failures import UserFailed
from modelwright_trainer.learner import Learner, whole
from modelwright_trainer.onnxgraph import Weights

_FIELD = "trainer.initFrom"


def weights(store: Store, stated: InitFrom, trainer: Trainer, learner: Learner, folder: Path) -> Weights:
    """The version's whole state dict, its preprocessing with it, where it fits the module that is to be trained.
    `folder` is for the download. Raises UserFailed that names what differs, Damaged, StoreError."""
    manifest = versions.read(store, stated.uri, stated.digest)
    named = f"{manifest.model} {manifest.version}"
    made = manifest.rebuild.recipe if isinstance(manifest.rebuild, artifact.RecipeRebuild) else "your own code"
    if made != trainer.recipe:
        raise UserFailed(f"{_FIELD}: {named} was made by {made}, not {trainer.recipe}: name a version of that recipe")
    _same_columns(named, manifest, learner)
    onnx = manifest.formats.onnx
    packed = onnx.packed if onnx else None
    file = next(one for one in manifest.files if one.path == (packed or artifact.WEIGHTS_FILE))
    folder.mkdir(parents=True, exist_ok=True)
    blob, path = artifact.blob_uri(stated.uri, file.digest), folder / file.path
    found, _ = store.download(blob, path)
    if found != file.digest:
        raise Damaged(f"{blob}: {file.path} is {found}; the manifest says {file.digest}")
    try:
        read = packing.decode(path.read_bytes(), unpacked=onnx and onnx.unpacked) if packed else load_file(path)
    except ValueError as error:
        raise Damaged(f"{blob}: {file.path}: {error}") from error
    path.unlink()
    check(named, read, whole(learner.module()))
    return read


def _same_columns(named: str, manifest: artifact.Manifest, learner: Learner) -> None:
    """Equal shapes are not enough: a column, or a class, in another place would be taken for its neighbour."""
    for what, theirs, ours in (
        ("features", manifest.inputs[0].names, learner.inputs[0].names),
        ("outputs", manifest.outputs[0].names, learner.outputs[0].names),
    ):
        if len(theirs) == len(ours) and theirs != ours:
            place = next(at for at, pair in enumerate(zip(theirs, ours, strict=True)) if pair[0] != pair[1])
            raise UserFailed(
                f"{_FIELD}: number {place + 1} of the {what} is {ours[place]} in the data and {theirs[place]} in"
                f" {named}: train on the same ones in the same order"
            )


def check(named: str, given: Weights, wanted: Weights, field: str = _FIELD) -> None:
    """Raises UserFailed naming `field` and the first tensor that does not fit, with both shapes."""
    for name, ours in wanted.items():
        if name not in given:
            raise UserFailed(
                f"{field}: {named} has no tensor {name}, which the module has with shape {_shape(ours)}: give the"
                " hyperparameters that it was trained with"
            )
        if given[name].shape != ours.shape:
            raise UserFailed(
                f"{field}: {name} has shape {_shape(given[name])} in {named} and {_shape(ours)} in the module: give"
                " the hyperparameters that it was trained with, and data with as many features and classes"
            )
    more = sorted(set(given) - set(wanted))
    if more:
        raise UserFailed(
            f"{field}: {named} has a tensor {more[0]} of shape {_shape(given[more[0]])}, which the module has not:"
            " give the hyperparameters that it was trained with"
        )


def _shape(value: np.ndarray) -> str:
    return f"[{', '.join(map(str, value.shape))}]"
