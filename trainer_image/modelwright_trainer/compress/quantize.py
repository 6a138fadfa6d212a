"""quantize: the graph's matrices in 8 or 4 bits, by ONNX Runtime's own tools.

Weights of 8 bits use 7 of them, each output channel with its own scale: where a processor has no VNNI instructions,
pairs of products are added up in 16 bits, which 8-bit weights against 8-bit activations overflow, and saturate (ONNX
Runtime's documentation of quantization, "When and why do I need to try U8U8"). So the file gives the same everywhere.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from modelwright.derivation import Quantize
from onnx import helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from modelwright_trainer import packed
from modelwright_trainer.compress import files
from modelwright_trainer.compress.state import State
from modelwright_trainer.compress.subject import needs_module
from modelwright_trainer.compress.work import Work
from modelwright_trainer.failures import DataFailed

BLOCK = 32
"""Inputs of a matrix that share a scale in 4 bits."""
_MATRICES = ("Conv", "Gemm", "MatMul")
_CALIBRATED = 64


def apply(work: Work, state: State, asked: Quantize) -> State:
    """The state as a graph alone. Raises StepNeedsModule where it is quantized already, or has nothing to
    quantize."""
    if state.quantized:
        raise needs_module("the graph is quantized already: name quantize once in spec.source.compress.steps")
    if state.rebuild is not None:
        work.learner(state)
    model = _folded(files.whole(work, state), dense=asked.scheme != "Int8Static")
    if not _left(model):
        raise needs_module(
            f"quantize: {work.parent.name} has no matrix product or convolution with weights of its own: there is"
            " nothing to quantize"
        )
    with tempfile.TemporaryDirectory(dir=work.scratch) as folder:
        made = _made(work, model, asked, Path(folder))
    _noted(work, made)
    graph, weights = packed.apart(made.SerializeToString(deterministic=True))
    return State(None, weights, {}, graph, quantized=True)


def _made(work: Work, model: onnx.ModelProto, asked: Quantize, folder: Path) -> onnx.ModelProto:
    source, target = folder / "float.onnx", folder / "quantized.onnx"
    onnx.save(model, source)
    logging.getLogger().setLevel(logging.ERROR)  # the tools warn of a pre-processing that was done above
    if asked.scheme == "Int4Weight":
        # accuracy_level 4: activations are int8 in the product, which is what the runtime is fast with.
        quantizer = MatMulNBitsQuantizer(model, block_size=BLOCK, is_symmetric=True, accuracy_level=4)
        quantizer.process()
        return quantizer.model.model
    if asked.scheme == "Int8Dynamic":
        quantize_dynamic(
            source, target, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Conv"], extra_options={"MatMulConstBOnly": True},
        )  # fmt: skip
    else:
        quantize_static(
            source, target, _Rows(work, model), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm", "Conv", "Relu", "MaxPool"],
            extra_options={"MatMulConstBOnly": True},
        )  # fmt: skip
    return onnx.load(target)


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    """The rows that ranges are measured on: some of the named split, evenly over it."""

    def __init__(self, work: Work, model: onnx.ModelProto) -> None:
        """Raises DataFailed where the split has no rows."""
        asked = work.calibration
        part = work.rows.parts[asked.split]
        if not len(part):
            raise DataFailed(f"calibration.split: {asked.split} has no rows: calibrate on train")
        chosen = part[np.unique(np.linspace(0, len(part) - 1, min(asked.rows, len(part))).astype(np.int64))]
        self._input = model.graph.input[0].name
        self._pieces: Iterator[npt.NDArray[Any]] = iter(
            [work.rows.table.features[chosen[at : at + _CALIBRATED]] for at in range(0, len(chosen), _CALIBRATED)]
        )

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        rows = next(self._pieces, None)
        return None if rows is None else {self._input: rows}


def _folded(model: onnx.ModelProto, *, dense: bool) -> onnx.ModelProto:
    """With weights as the tools look for them: a transposed one as it is then, and, where `dense`, a Gemm of one as
    product and sum."""
    graph = model.graph
    values = {one.name: one for one in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    turned: dict[str, str] = {}

    def turn(name: str, perm: list[int] | None = None) -> str:
        made = f"{name}.t"
        if made not in values:
            array = np.ascontiguousarray(numpy_helper.to_array(values[name]).transpose(perm))
            values[made] = numpy_helper.from_array(array, made)
        return made

    for node in graph.node:
        attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        if node.op_type == "Transpose" and node.input[0] in values:
            turned[node.output[0]] = turn(node.input[0], attributes.get("perm"))
            continue
        node.input[:] = [turned.get(name, name) for name in node.input]
        plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0 and not attributes.get("transA")
        if dense and node.op_type == "Gemm" and plain and node.input[1] in values:
            weight = turn(node.input[1]) if attributes.get("transB") else node.input[1]
            summed = len(node.input) > 2 and node.input[2]
            product = f"{node.output[0]}.product" if summed else node.output[0]
            nodes.append(helper.make_node("MatMul", [node.input[0], weight], [product], name=f"{product}.node"))
            if summed:
                nodes.append(helper.make_node("Add", [product, node.input[2]], [node.output[0]]))
            continue
        nodes.append(node)
    for index, node in enumerate(nodes):
        node.name = node.name or f"{node.op_type}.{index}"
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    del graph.initializer[:]
    graph.initializer.extend(values[name] for name in sorted(values) if name in used)
    return model


def _left(model: onnx.ModelProto) -> list[tuple[str, tuple[int, ...]]]:
    """The matrices that are float32 still, with their shapes."""
    values = {one.name: one for one in model.graph.initializer if one.data_type == onnx.TensorProto.FLOAT}
    return [
        (node.input[1], tuple(values[node.input[1]].dims))
        for node in model.graph.node
        if node.op_type in _MATRICES and len(node.input) > 1 and node.input[1] in values
    ]


def _noted(work: Work, made: onnx.ModelProto) -> None:
    four = any(node.op_type == "MatMulNBits" for node in made.graph.node)
    for name, shape in _left(made):
        why = "4 bits are for matrices" if four and len(shape) != 2 else "ONNX Runtime's tools leave it"
        work.notes.append(f"{name.removesuffix('.t')} {list(shape)} is left in float32: {why}")
