"""A foreign ONNX file: everything that it declares is compared with what is there before a runtime sees it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from modelwright.artifact import ONNX_FILE, WEIGHTS_FILE
from modelwright.store import Store
from onnx import TensorProto, external_data_helper, helper
from safetensors.numpy import save_file

from modelwright_trainer import onnxgraph
from modelwright_trainer.imported.source import FIELD, Refused, brought, folder_of, inside

MOST_GRAPH_BYTES = 2**31 - 1
# What a value that no row has a part in may take: a graph of a few bytes can ask for any amount.
_MOST_CONSTANT_BYTES = 2**30
# Those whose operators the runtime has.
_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
_EXPORT = "export the model again"


def read(store: Store, uri: str, digest: str | None, folder: Path) -> tuple[onnx.ModelProto, str]:
    """The graph at `uri` with all of its weights, and the file's digest. Raises Refused, StoreError."""
    path = folder / "source.onnx"
    found = brought(store, uri, path, digest=digest, most=MOST_GRAPH_BYTES)
    model = _parsed(uri, path.read_bytes())
    _standard(uri, model)
    places = _beside(uri, model)
    for location in sorted(places):
        brought(store, f"{folder_of(uri)}/{location}", folder / location, below=folder_of(uri))
    _as_declared(uri, model, {location: (folder / location).stat().st_size for location in places})
    _bounded(uri, model, path)
    external_data_helper.load_external_data_for_model(model, str(folder))
    return model, found


def _parsed(uri: str, content: bytes) -> onnx.ModelProto:
    try:
        model = onnx.load_from_string(content)
    except Exception as error:
        raise Refused(f"{uri} is no ONNX file, or was cut off after {len(content)} bytes: upload it again") from error
    if not model.graph.node or not model.opset_import:
        raise Refused(f"{uri} is no ONNX graph that is whole: it has no nodes, or says no opset: {_EXPORT}")
    if not model.graph.output:
        raise Refused(f"{uri} has no outputs: it was cut off, or is no graph to be served: {_EXPORT}")
    if model.graph.sparse_initializer:
        raise Refused(f"{uri} has sparse initializers, which are not imported: {_EXPORT} with dense ones")
    return model


def _standard(uri: str, model: onnx.ModelProto) -> None:
    own = {function.domain for function in model.functions}
    for node in _nodes(model):
        if node.domain not in _DOMAINS and node.domain not in own:
            raise Refused(
                f"{uri}: the node {node.name or node.op_type} uses {node.domain}.{node.op_type}, an operator of a"
                f" library of its own, which the runtime has not: {_EXPORT} with ONNX's own operators"
            )


def _beside(uri: str, model: onnx.ModelProto) -> set[str]:
    """The files that hold the tensors that the graph does not. Raises Refused where one would be outside its folder."""
    places = set()
    for tensor in external_data_helper._get_all_tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        if not inside(location):
            raise Refused(
                f"{uri}: tensor {tensor.name} has its data in {location!r}, which is outside of the file's folder:"
                " save the external data beside the graph"
            )
        places.add(location)
    return places


def _as_declared(uri: str, model: onnx.ModelProto, sizes: Mapping[str, int]) -> None:
    """Raises Refused where a tensor's shape is not what its bytes are: one would be given memory that it never
    fills."""
    for tensor in external_data_helper._get_all_tensors(model):
        if any(length < 0 for length in tensor.dims):
            raise Refused(f"{uri}: tensor {tensor.name} has the shape {list(tensor.dims)}: {_EXPORT}")
        wanted = _bytes(tensor.data_type, math.prod(tensor.dims))
        there = _there(uri, tensor, sizes)
        if wanted is not None and there is not None and wanted != there:
            raise Refused(
                f"{uri}: tensor {tensor.name} declares {list(tensor.dims)}, which is {wanted} bytes, and has {there}:"
                f" the file is damaged or made to mislead: {_EXPORT}"
            )


def _bytes(data_type: int, entries: int) -> int | None:
    """None of texts, and of types of less than a byte."""
    try:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(data_type))
    except (KeyError, ValueError, TypeError):
        return None
    name = TensorProto.DataType.Name(data_type)
    return None if name == "STRING" or "4" in name.removesuffix("64") else entries * dtype.itemsize


def _there(uri: str, tensor: TensorProto, sizes: Mapping[str, int]) -> int | None:
    """How many bytes a tensor has; None where they are texts or of less than a byte each."""
    if tensor.data_location == TensorProto.EXTERNAL:
        told = {entry.key: entry.value for entry in tensor.external_data}
        try:
            offset, size = int(told.get("offset", "0")), sizes[told["location"]]
            length = int(told.get("length", size - offset))
        except ValueError as error:
            words = f"{uri}: tensor {tensor.name} has an offset or length that is no number: {_EXPORT}"
            raise Refused(words) from error
        if offset < 0 or length < 0 or offset + length > size:
            raise Refused(
                f"{uri}: tensor {tensor.name} is said to be {length} bytes from byte {offset} of {told['location']},"
                f" which has {size}: upload the whole file"
            )
        return length
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data)
    field = helper.tensor_dtype_to_field(tensor.data_type)
    entries = len(getattr(tensor, field))
    # float16 and whole numbers of few bits are entries of int32_data.
    return _bytes(tensor.data_type, entries) if field != "string_data" else None


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                waiting += graph.node


def _bounded(uri: str, model: onnx.ModelProto, path: Path) -> None:
    """Raises Refused where a value that no row has a part in would take more than there may be, or where the graph is
    not consistent."""
    try:
        onnx.checker.check_model(path)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:
        first = " ".join(str(error).split())[:400]
        raise Refused(f"{uri} is no valid ONNX graph ({first}): {_EXPORT}") from error
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        tensor = value.type.tensor_type
        lengths = [length.dim_value for length in tensor.shape.dim if length.HasField("dim_value")]
        if len(lengths) < len(tensor.shape.dim) or not tensor.elem_type:
            continue
        needed = _bytes(tensor.elem_type, math.prod(lengths)) or 0
        if needed > _MOST_CONSTANT_BYTES:
            raise Refused(
                f"{uri}: the value {value.name} would take {needed} bytes whatever the rows are, and"
                f" {_MOST_CONSTANT_BYTES} are the most: {_EXPORT}"
            )


def renamed(uri: str, model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Gives inputs and outputs the names of `names`. Raises Refused."""
    known = [one.name for one in (*model.graph.input, *model.graph.output)]
    for theirs, ours in names.items():
        if theirs not in known:
            raise Refused(f"{FIELD}.names: {uri} has no input or output {theirs}; it has {', '.join(known)}")
        taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
        if ours in taken and ours not in names:
            raise Refused(f"{FIELD}.names: {ours} is the name of another value of {uri}: take another one")
    if names:
        onnxgraph.renamed(model.graph, lambda name: names.get(name, name))


def written(model: onnx.ModelProto, folder: Path) -> None:
    """Writes the graph to `folder` as versions have it: weights in a file of their own, with plain alignment."""
    weights = onnxgraph.apart(model.graph)
    save_file({name: np.ascontiguousarray(value) for name, value in weights.items()}, folder / WEIGHTS_FILE)
    model.graph.initializer.extend(onnxgraph.external(folder / WEIGHTS_FILE))
    model.producer_name = model.producer_name or "imported"
    (folder / ONNX_FILE).write_bytes(model.SerializeToString(deterministic=True))
