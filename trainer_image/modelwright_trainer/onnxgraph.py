"""The published file: an ONNX graph whose weights are external data inside `model.safetensors`.

safetensors is a header and then the tensors' bytes, and ONNX external data is a file, an offset and a length: so both
formats read one copy of the weights, by the names of the module's state dict.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from modelwright.artifact import INPUT, LOGITS, ONNX_FILE, PROBABILITIES, WEIGHTS_FILE
from onnx import TensorProto, helper
from safetensors.numpy import save_file

OPSET = 21
IR_VERSION = 10
PROVIDER = "CPUExecutionProvider"
Weights = Mapping[str, npt.NDArray[np.float32]]
Rows = npt.NDArray[np.float32]


def write(weights: Weights, folder: Path) -> None:
    """Writes the graph of a `model.Perceptron` with this state dict, and its weights, to `folder`."""
    save_file({name: np.ascontiguousarray(value) for name, value in weights.items()}, folder / WEIGHTS_FILE)
    initializers = _external(folder / WEIGHTS_FILE)
    depth = sum(1 for name in weights if name.endswith(".weight"))
    features, classes = weights["linears.0.weight"].shape[1], weights[f"linears.{depth - 1}.weight"].shape[0]
    nodes = [
        helper.make_node("Sub", [INPUT, "standardize.mean"], ["centered"]),
        helper.make_node("Div", ["centered", "standardize.scale"], ["standardized"]),
    ]
    hidden = "standardized"
    for layer in range(depth):
        last = layer == depth - 1
        made = LOGITS if last else f"linear.{layer}"
        names = [hidden, f"linears.{layer}.weight", f"linears.{layer}.bias"]
        nodes.append(helper.make_node("Gemm", names, [made], transB=1))
        if not last:
            hidden = f"hidden.{layer}"
            nodes.append(helper.make_node("Relu", [made], [hidden]))
    nodes.append(helper.make_node("Softmax", [LOGITS], [PROBABILITIES], axis=-1))
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["rows", features])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", classes]) for name in (LOGITS, PROBABILITIES)],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name = "modelwright"
    (folder / ONNX_FILE).write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(folder / ONNX_FILE, full_check=True)


def _external(path: Path) -> list[TensorProto]:
    """An initializer for each tensor of a safetensors file of float32, with its place in the file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    initializers = []
    for name, entry in sorted(header.items()):
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=entry["shape"])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", path.name), ("offset", str(8 + length + begin)), ("length", str(end - begin))):
            tensor.external_data.add(key=key, value=value)
        initializers.append(tensor)
    return initializers


def run(folder: Path, rows: Rows, *, batch: int = 4096) -> dict[str, Rows]:
    """The outputs of the file in `folder` for `rows` [rows, features], by name, from ONNX Runtime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / ONNX_FILE, options, providers=[PROVIDER])
    parts = [session.run([LOGITS, PROBABILITIES], {INPUT: rows[at : at + batch]}) for at in range(0, len(rows), batch)]
    return {name: np.concatenate([part[index] for part in parts]) for index, name in enumerate((LOGITS, PROBABILITIES))}
