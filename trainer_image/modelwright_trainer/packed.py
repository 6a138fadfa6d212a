"""The published file in the fewest bytes: a graph that names its initializers and carries none, and the container."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from modelwright import artifact, packing
from onnx import TensorProto, numpy_helper
from safetensors.numpy import save_file

from modelwright_trainer import onnxgraph
from modelwright_trainer.onnxgraph import Array

# Who loads the graph without its container is told so by the runtime: there is no such file.
_LOCATION = "packed:"
# What shapes are inferred from has to be in the graph; all of it is small, and so are scales and zero points.
_SMALL = 128
# A container is decoded at each start: it has to save something.
_WORTH = 0.75
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def apart(graph: bytes) -> tuple[bytes, dict[str, Array]]:
    """A graph whose initializers are in it, as one that only names the larger of them, and these."""
    model = onnx.load_from_string(graph)
    taken = {}
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.nbytes > _SMALL and value.dtype.name in packing.DTYPES:
            taken[tensor.name] = value
    return named(model, taken), taken


def named(model: onnx.ModelProto, tensors: Mapping[str, Array]) -> bytes:
    """`model` without the content of these initializers, and with no more text than it needs."""
    model = _renamed(model)
    for tensor in model.graph.initializer:
        if tensor.name in tensors:
            place = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            place.data_location = TensorProto.EXTERNAL
            place.external_data.add(key="location", value=_LOCATION)
            tensor.CopyFrom(place)
    return bytes(model.SerializeToString(deterministic=True))


def _renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Values between nodes are known to nobody outside: the shortest names will do."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    del graph.value_info[:]
    kept = {one.name for one in (*graph.input, *graph.output, *graph.initializer)}
    names = (name for name in _short() if name not in kept)
    given: dict[str, str] = {"": ""}
    for node in graph.node:
        node.ClearField("name")
        node.ClearField("doc_string")
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            return model  # a graph within may use any of the names
        for output in node.output:
            if output not in kept and output not in given:
                given[output] = next(names)
        for attribute in node.attribute:
            attribute.t.ClearField("name") if attribute.HasField("t") else None
    for node in graph.node:
        node.input[:] = [given.get(name, name) for name in node.input]
        node.output[:] = [given.get(name, name) for name in node.output]
    return copy


def _short() -> Iterator[str]:
    for length in itertools.count(1):
        yield from map("".join, itertools.product(_LETTERS, repeat=length))


def write(graph: bytes, tensors: Mapping[str, Array], folder: Path) -> artifact.Onnx:
    """Writes a graph and its initializers to `folder`, as a container where that saves a quarter, else as
    safetensors. `graph` is as `named` gives it, or with external data."""
    for name in (artifact.ONNX_FILE, artifact.WEIGHTS_FILE, artifact.PACKED_FILE):
        (folder / name).unlink(missing_ok=True)
    model = onnx.load_from_string(graph)
    opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    container = packing.encode(tensors)
    plain = folder / artifact.WEIGHTS_FILE
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, plain)
    if len(container) < _WORTH * plain.stat().st_size:
        plain.unlink()
        (folder / artifact.PACKED_FILE).write_bytes(container)
        (folder / artifact.ONNX_FILE).write_bytes(named(model, tensors))
        return artifact.Onnx(
            weights="", packed=artifact.PACKED_FILE, unpacked=packing.size(tensors.values()), opset=opset,
            ir_version=model.ir_version,
        )  # fmt: skip
    external = {one.name: one for one in onnxgraph.external(plain)}
    for tensor in model.graph.initializer:
        if tensor.name in external:
            tensor.CopyFrom(external[tensor.name])
    (folder / artifact.ONNX_FILE).write_bytes(model.SerializeToString(deterministic=True))
    return artifact.Onnx(opset=opset, ir_version=model.ir_version)
