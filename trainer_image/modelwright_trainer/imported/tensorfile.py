"""Foreign safetensors: what the header declares is compared with the bytes; and as the weights of a built-in recipe."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from modelwright.contract import Data, Trainer
from modelwright.derivation import ImportRun
from modelwright.store import Store
from safetensors.numpy import load_file

from modelwright_trainer import initial, recipes
from modelwright_trainer.data import Table
from modelwright_trainer.failures import TrainingFailed
from modelwright_trainer.imported.source import FIELD, Refused, brought
from modelwright_trainer.learner import Learner, whole

# As the format's own library bounds it.
_MOST_HEADER_BYTES = 100_000_000
_BITS: Mapping[str, int] = {
    "F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I8": 8, "U8": 8, "BOOL": 8, "F4": 4,
}  # fmt: skip


def tensors_of(path: Path, name: str) -> dict[str, int]:
    """The tensors of a safetensors file and their bytes, of its header alone. Raises Refused where it is cut off, or
    declares what it does not hold."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 10 or length > min(size - 8, _MOST_HEADER_BYTES):
            raise Refused(f"{name} is no safetensors file, or was cut off after {size} bytes: upload it again")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            entries = {key: value for key, value in header.items() if key != "__metadata__"}
            places = sorted((*value["data_offsets"], key) for key, value in entries.items())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Refused(f"{name} is no safetensors file: its header cannot be read: save it again") from error
    reached = 0
    for begin, end, key in places:
        dtype, shape = entries[key].get("dtype"), entries[key].get("shape")
        if begin != reached or end < begin:
            raise Refused(
                f"{name}: tensor {key} is said to begin at byte {begin}, and the one before it ends at {reached}"
            )
        if dtype not in _BITS or not isinstance(shape, list) or any(type(one) is not int or one < 0 for one in shape):
            raise Refused(f"{name}: tensor {key} is {dtype} {shape}, which is no type and shape: save it again")
        wanted = math.prod(shape) * _BITS[dtype] // 8
        if wanted != end - begin:
            raise Refused(
                f"{name}: tensor {key} declares {dtype} {shape}, which is {wanted} bytes, and has {end - begin}: the"
                " file is damaged or made to mislead: save it again"
            )
        reached = end
    if 8 + length + reached != size:
        raise Refused(f"{name} has {size} bytes, and its header declares {8 + length + reached}: upload the whole file")
    return {key: end - begin for begin, end, key in places}


def rebuilt(run: ImportRun, store: Store, scratch: Path, folder: Path) -> tuple[Learner, str]:
    """Writes the graph of a recipe with the weights at `run.uri` to `folder`; the recipe at work, and the file's
    digest. Raises Refused, UserFailed, StoreError."""
    path = scratch / "source.safetensors"
    found = brought(store, run.uri, path, digest=run.digest)
    tensors_of(path, run.uri)
    learner = _learner(run)
    weights = load_file(path)
    wrong = next((name for name, value in weights.items() if value.dtype != np.float32), None)
    if wrong:
        raise Refused(f"{run.uri}: tensor {wrong} is {weights[wrong].dtype}, and a recipe's are float32: convert them")
    unfit = next((name for name, value in weights.items() if not np.isfinite(value).all()), None)
    if unfit:
        raise Refused(f"{run.uri}: tensor {unfit} has values that are infinite or no numbers")
    try:
        initial.check(run.uri, weights, whole(learner.module()), FIELD)
    except TrainingFailed as error:
        raise Refused(str(error)) from error
    learner.write(weights, folder)
    return learner, found


def _learner(run: ImportRun) -> Learner:
    """The recipe on a table of no rows to speak of: it says how wide the tensors are, and nothing else."""
    tokens = recipes.kind(_trainer(run)) is np.int64
    rows = np.zeros((2, len(run.columns)), np.int64 if tokens else np.float32)
    classified = run.task == "Classification"
    targets = np.arange(2) % max(1, len(run.classes)) if classified else np.arange(2, dtype=np.float32)
    if run.task in ("AnomalyDetection", "LanguageModelling", "Clustering"):
        targets = None
    dtypes = ("int64" if tokens else "float",) * len(run.columns)
    table = Table(rows, targets, run.columns, dtypes, run.classes, "sha256:" + "0" * 64)
    made = recipes.learner(
        _trainer(run), Data(uri=run.uri, target="target", task=run.task or "Classification"), table, np.arange(2)
    )
    if not isinstance(made, Learner):
        raise Refused(
            f"{FIELD}.recipe: {run.recipe} is fitted at once, and has no state dict to import: export it as ONNX"
        )
    return made


def _trainer(run: ImportRun) -> Trainer:
    return Trainer(recipe=str(run.recipe), hyperparameters=run.hyperparameters)
