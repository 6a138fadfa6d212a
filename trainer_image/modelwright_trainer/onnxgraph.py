"""The published file: an ONNX graph whose weights are external data inside `model.safetensors`.

safetensors is a header and then the tensors' bytes, and ONNX external data is a file, an offset and a length: so both
formats read one copy of the weights, by the names of the module's state dict.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from modelwright import packing
from modelwright.artifact import INPUT, ONNX_FILE, WEIGHTS_FILE, Onnx, Tensor
from onnx import TensorProto, external_data_helper, helper, numpy_helper
from safetensors.numpy import save_file

OPSET = 21
TREES, _TREES_OPSET = "ai.onnx.ml", 3
IR_VERSION = 10
PROVIDER = "CPUExecutionProvider"
LEFT, RIGHT = "left", "right"
"""What the factors of a weight [out, in] are called in its place: [out, rank] and [rank, in]."""
Weights = Mapping[str, npt.NDArray[np.float32]]
Array = npt.NDArray[Any]
_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
_OF_SAFETENSORS = {
    "F64": TensorProto.DOUBLE, "F32": TensorProto.FLOAT, "F16": TensorProto.FLOAT16, "I64": TensorProto.INT64,
    "I32": TensorProto.INT32, "I16": TensorProto.INT16, "I8": TensorProto.INT8, "U8": TensorProto.UINT8,
    "BOOL": TensorProto.BOOL,
}  # fmt: skip

_SMALL = 64


class Graph:
    """A graph in the making: its nodes in the order in which they are added, over the weights, which are written to
    `folder` at once and are the graph's initializers by their names."""

    def __init__(self, name: str, weights: Weights, folder: Path, *, rows: str = INPUT) -> None:
        """`rows` is the input's name."""
        self.input = rows
        save_file({name: np.ascontiguousarray(value) for name, value in weights.items()}, folder / WEIGHTS_FILE)
        self.shapes = {name: value.shape for name, value in weights.items()}
        self._name, self._folder = name, folder
        self._initializers = external(folder / WEIGHTS_FILE)
        self._nodes: list[onnx.NodeProto] = []

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Adds a node with one output; returns the output's name."""
        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, name: str, value: Array) -> str:
        """Adds a small array that is no weight, such as a shape; returns its name."""
        self._nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name)))
        return name

    def cast(self, values: str, dtype: str) -> str:
        return self.node("Cast", [values], f"{values}.{dtype}", to=_TYPES[dtype])

    def reshape(self, values: str, shape: Sequence[int], output: str) -> str:
        """-1 in `shape` is what is left."""
        return self.node("Reshape", [values, self.constant(f"{output}.shape", np.array(shape, np.int64))], output)

    def linear(self, rows: str, prefix: str, output: str) -> str:
        """An `nn.Linear` of that name, on [rows, features]; or two of them, where its weight is a product."""
        if f"{prefix}.{LEFT}" not in self.shapes:
            return self.node("Gemm", [rows, f"{prefix}.weight", f"{prefix}.bias"], output, transB=1)
        narrow = self.node("Gemm", [rows, f"{prefix}.{RIGHT}"], f"{output}.narrow", transB=1)
        return self.node("Gemm", [narrow, f"{prefix}.{LEFT}", f"{prefix}.bias"], output, transB=1)

    def product(self, values: str, prefix: str) -> str:
        """[rows, length, …] times the weight of an `nn.Linear`, or both its factors."""
        parts = ("weight",) if f"{prefix}.{LEFT}" not in self.shapes else (RIGHT, LEFT)
        for part in parts:
            turned = self.node("Transpose", [f"{prefix}.{part}"], f"{prefix}.{part}.turned", perm=[1, 0])
            values = self.node("MatMul", [values, turned], f"{prefix}.{part}.product")
        return values

    def write(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Writes the file, and checks it."""
        graph = helper.make_graph(self._nodes, self._name, infos(inputs), infos(outputs), self._initializers)
        opsets = [helper.make_opsetid("", OPSET)]
        if any(node.domain == TREES for node in self._nodes):
            opsets.append(helper.make_opsetid(TREES, _TREES_OPSET))
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        model.producer_name = "modelwright"
        (self._folder / ONNX_FILE).write_bytes(model.SerializeToString(deterministic=True))
        onnx.checker.check_model(self._folder / ONNX_FILE, full_check=True)


def infos(tensors: Sequence[Tensor]) -> list[onnx.ValueInfoProto]:
    """Inputs or outputs of a graph."""
    return [
        helper.make_tensor_value_info(
            one.name, _TYPES[one.dtype], ["rows" if length is None else length for length in one.shape]
        )
        for one in tensors
    ]


def external(path: Path) -> list[TensorProto]:
    """An initializer for each tensor of a safetensors file, with its place in the file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    initializers = []
    for name, entry in sorted(header.items()):
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        tensor = TensorProto(name=name, data_type=_OF_SAFETENSORS[entry["dtype"]], dims=entry["shape"])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", path.name), ("offset", str(8 + length + begin)), ("length", str(end - begin))):
            tensor.external_data.add(key=key, value=value)
        initializers.append(tensor)
    return initializers


def renamed(graph: onnx.GraphProto, rename: Callable[[str], str]) -> None:
    """Gives every value and node of the graph, and of graphs inside its nodes, another name. What is said of the types
    of values in between is left out: the runtime infers it."""
    del graph.value_info[:]
    for node in graph.node:
        node.name = rename(node.name)
        for values in (node.input, node.output):
            values[:] = [rename(name) for name in values]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                renamed(inner, rename)
    for named in (*graph.input, *graph.output, *graph.initializer):
        named.name = rename(named.name)


def apart(graph: onnx.GraphProto) -> dict[str, Array]:
    """Takes the weights out of a graph that has them all: the initializers but for the small ones, which the runtime
    looks at as it builds it (shapes and the like), and types that safetensors does not have."""
    taken, kept = {}, []
    for tensor in graph.initializer:
        value = numpy_helper.to_array(tensor) if tensor.data_type in _OF_SAFETENSORS.values() else None
        if value is None or (value.dtype != np.float32 and value.size <= _SMALL):
            kept.append(tensor)
        else:
            taken[tensor.name] = value
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return taken


def fill(model: onnx.ModelProto, weights: Mapping[str, Array]) -> onnx.ModelProto:
    """The graph with those initializers in it that lie elsewhere: beside it, or in a container."""
    for tensor in model.graph.initializer:
        if external_data_helper.uses_external_data(tensor):
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    return model


def tensors(folder: Path, onnx_: Onnx) -> dict[str, Array]:
    """The initializers of the graph in `folder`, wherever they lie, by name. Raises ValueError where its container is
    damaged."""
    packed = _packed(folder, onnx_)
    model = onnx.load(folder / onnx_.path, load_external_data=not packed)
    inside = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer if one.name not in packed}
    return {**inside, **packed}


def _packed(folder: Path, onnx_: Onnx) -> dict[str, Array]:
    if onnx_.packed is None:
        return {}
    return packing.decode((folder / onnx_.packed).read_bytes(), unpacked=onnx_.unpacked)


class Session:
    """The file in `folder` in ONNX Runtime, on one thread. Its only input is the rows."""

    def __init__(self, folder: Path, onnx_: Onnx | None = None) -> None:
        """`onnx_` is what the manifest says of it; None: it was written by a `Graph`. Raises ValueError where its
        container is damaged."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        if onnx_ is not None and onnx_.packed is not None:
            self._held = inject(options, _packed(folder, onnx_))
        path = folder / (onnx_.path if onnx_ else ONNX_FILE)
        self._session = onnxruntime.InferenceSession(path, options, providers=[PROVIDER])
        (self._input,) = (one.name for one in self._session.get_inputs())
        self._outputs = tuple(one.name for one in self._session.get_outputs())

    def run(self, rows: Array, *, only: Sequence[str] | None = None, batch: int = 4096) -> dict[str, Array]:
        """The outputs (those named in `only`, or all) for `rows` [rows, …], by name."""
        names = tuple(only) if only is not None else self._outputs
        parts = [self._session.run(names, {self._input: rows[at : at + batch]}) for at in range(0, len(rows), batch)]
        return {name: np.concatenate([part[index] for part in parts]) for index, name in enumerate(names)}


def inject(options: onnxruntime.SessionOptions, tensors: Mapping[str, Array]) -> Any:
    """Gives a session the initializers of a graph that names them and carries none, before the runtime optimizes
    anything: what it computes, and how fast, is as if they had been in the file. What is returned has to live as long
    as the session: the runtime reads these very arrays."""
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(tensor) for tensor in tensors.values()]
    options.add_external_initializers(list(tensors), values)
    return tensors, values
