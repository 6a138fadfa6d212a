"""The files of a state, as a server loads them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
from modelwright import artifact

from modelwright_trainer import onnxgraph, packed
from modelwright_trainer.compress.state import State
from modelwright_trainer.compress.work import Work


def write(work: Work, state: State, folder: Path) -> artifact.Onnx:
    """Writes graph and weights to `folder`, packed where that is shorter."""
    return packed.write(graph_of(work, state, folder), state.weights, folder)


def graph_of(work: Work, state: State, folder: Path) -> bytes:
    """The graph, which names the state's weights. `folder` is for files in between."""
    if state.graph is not None:
        return state.graph
    assert state.rebuild is not None  # noqa: S101 - a state has one of both
    work.publisher(state.rebuild).write(state.weights, folder)
    return (folder / artifact.ONNX_FILE).read_bytes()


def whole(work: Work, state: State) -> onnx.ModelProto:
    """The graph with its weights in it."""
    with tempfile.TemporaryDirectory(dir=work.scratch) as folder:
        model = onnx.load_from_string(graph_of(work, state, Path(folder)))
    return onnxgraph.fill(model, state.weights)
