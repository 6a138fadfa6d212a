"""What a step leaves for the next one, and how it lies in the store: files by their content, then `state.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from modelwright.artifact import RecipeRebuild, digest_of
from modelwright.contract import Shape
from modelwright.derivation import CompressRun, DerivationSummary, Size
from modelwright.store import Store, StoreError, Trouble
from modelwright.versions import Damaged
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file

from modelwright_trainer.onnxgraph import Array

STATE_FILE = "state.json"


class Held(Shape):
    """What of a tensor is to be kept by whatever is done next: its zeros where `sparse`, that it has only so many
    `values` (0 among them where it has zeros). `rank` is of the two factors that stand for a matrix."""

    sparse: bool = False
    values: int | None = None
    rank: int | None = None


@dataclasses.dataclass(frozen=True)
class State:
    """A model between two steps. `rebuild` is the recipe that makes its module, whose tensors `weights` may be smaller
    than the recipe's own; None where there is only `graph`, an ONNX graph that names `weights` as its initializers."""

    rebuild: RecipeRebuild | None
    weights: Mapping[str, Array]
    held: Mapping[str, Held] = dataclasses.field(default_factory=dict)
    graph: bytes | None = None
    quantized: bool = False

    def with_weights(self, weights: Mapping[str, Array], **held: Held) -> State:
        return dataclasses.replace(self, weights=settled(weights), held={**self.held, **held})


def settled(weights: Mapping[str, Array]) -> dict[str, Array]:
    """Without −0, which a mask makes of what is below 0 and which would be no zero to the container."""
    return {name: value + np.zeros((), value.dtype) if value.dtype.kind == "f" else value
            for name, value in weights.items()}  # fmt: skip


class Saved(Shape):
    """`state.json`: digests of the files beside it, which are named by them; what the step said is `summary`."""

    rebuild: RecipeRebuild | None = None
    held: Mapping[str, Held] = {}
    weights: str
    graph: str | None = None
    quantized: bool = False
    size: Size
    summary: DerivationSummary


def folder_of(run: CompressRun, stage: int) -> str:
    return f"{run.work_folder}/{stage}"


def saved(store: Store, run: CompressRun, stage: int) -> Saved | None:
    """What stage `stage` left; None where it did not come to its end. Raises Damaged, StoreError."""
    uri = f"{folder_of(run, stage)}/{STATE_FILE}"
    try:
        return Saved.model_validate_json(store.read(uri))
    except StoreError as error:
        if error.trouble is Trouble.NO_OBJECT:
            return None
        raise
    except ValidationError as error:
        raise Damaged(f"{uri}: it is no state of a step: remove {run.work_folder}, and it is made anew") from error


def load(store: Store, run: CompressRun, stage: int, scratch: Path) -> tuple[State, Saved]:
    """The state that stage `stage` left, every digest checked. Raises Damaged, StoreError."""
    folder, found = folder_of(run, stage), saved(store, run, stage)
    if found is None:
        raise Damaged(f"{folder}: step {stage + 1} left no {STATE_FILE}: remove {run.work_folder}, and begin anew")
    path = scratch / f"state-{stage}.safetensors"
    _brought(store, folder, found.weights, path)
    graph = None
    if found.graph is not None:
        model = scratch / f"state-{stage}.onnx"
        _brought(store, folder, found.graph, model)
        graph = model.read_bytes()
    return State(found.rebuild, load_file(path), found.held, graph, found.quantized), found


def _brought(store: Store, folder: str, digest: str, path: Path) -> None:
    uri = f"{folder}/{digest.removeprefix('sha256:')}"
    found, _ = store.download(uri, path)
    if found != digest:
        raise Damaged(f"{uri}: its content is {found}: it was altered: remove it and {STATE_FILE}, and run again")


def save(store: Store, run: CompressRun, state: State, size: Size, summary: DerivationSummary, scratch: Path) -> None:
    """Leaves the state of stage `run.stage`, `state.json` last: a Job that is killed before has done nothing. Raises
    StoreError."""
    folder = folder_of(run, run.stage)
    path = scratch / "leaving.safetensors"
    save_file({name: np.ascontiguousarray(value) for name, value in state.weights.items()}, path)
    weights = _left(store, folder, path.read_bytes())
    graph = None if state.graph is None else _left(store, folder, state.graph)
    told = Saved(
        rebuild=state.rebuild,
        held=state.held,
        weights=weights,
        graph=graph,
        quantized=state.quantized,
        size=size,
        summary=summary,
    )
    store.write(f"{folder}/{STATE_FILE}", told.to_json().encode())


def _left(store: Store, folder: str, content: bytes) -> str:
    digest = digest_of(content)
    store.write(f"{folder}/{digest.removeprefix('sha256:')}", content)
    return digest


def clear(store: Store, run: CompressRun) -> None:
    """Removes what all stages left. Raises StoreError."""
    folder = run.work_folder
    store.remove([f"{folder}/{name}" for name in store.names(folder)])
