"""An inference request of the Open Inference Protocol V2 over gRPC: from its message to arrays, and back.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_grpc.md

Pure, and called on the worker threads. Tensors come raw (`raw_input_contents`, the bytes of the binary tensor data
extension) or typed (`contents`, a list by the tensor's type), and go as they came. Whatever a client may send wrong is
a `BadRequest` that names it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from modelwright_server import tensors
from modelwright_server.inference import (
    BadRequest,
    Inference,
    Wanted,
    check_complete,
    check_datatype,
    check_served,
    fitting,
    named,
    timeout,
)
from modelwright_server.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from modelwright_server.tensors import Array, BadTensor, Spec

_FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", tensors.BYTES: "bytes_contents",
}  # fmt: skip


def read(body: bytes) -> ModelInferRequest:
    """Raises BadRequest."""
    try:
        return ModelInferRequest.FromString(body)
    except DecodeError as error:
        raise BadRequest("the request is no message inference.ModelInferRequest") from error


def parse(request: ModelInferRequest, inputs: Mapping[str, Spec], outputs: Mapping[str, Spec]) -> Inference:
    """The inference that is asked for, of a graph with these inputs and outputs by name. Raises BadRequest."""
    raw = bool(request.raw_input_contents)
    try:
        arrays = _inputs(request, inputs)
    except BadTensor as error:
        raise BadRequest(str(error)) from error
    wanted: dict[str, Wanted] = {}
    for index, one in enumerate(request.outputs):
        spec = named("outputs", index, one.name, outputs, wanted)
        check_served(f"output {one.name!r}", one.parameters)
        wanted[one.name] = Wanted(spec, raw)
    chosen = list(wanted.values()) or [Wanted(spec, raw) for spec in outputs.values()]
    stated = request.parameters.get("timeout")
    value = getattr(stated, stated.WhichOneof("parameter_choice") or "bool_param") if stated else None
    return Inference(request.id or None, arrays, chosen, timeout(value))


def answer(model: str, version: str, inference: Inference, arrays: Sequence[Array]) -> bytes:
    """The serialized response with `arrays`, those of `inference.outputs` in their order. All are raw where the
    request's were, or where one is of FP16, which has no typed form."""
    raw = any(wanted.binary or wanted.spec.datatype not in _FIELDS for wanted in inference.outputs)
    response = ModelInferResponse(model_name=model, model_version=version, id=inference.id or "")
    for wanted, array in zip(inference.outputs, arrays, strict=True):
        datatype = wanted.spec.datatype
        output = response.outputs.add(name=wanted.spec.name, datatype=datatype, shape=array.shape)
        if raw:
            response.raw_output_contents.append(bytes(tensors.to_binary(datatype, array)))
        else:
            getattr(output.contents, _FIELDS[datatype]).extend(_values(datatype, array))
    serialized: bytes = response.SerializeToString()
    return serialized


def _inputs(request: ModelInferRequest, specs: Mapping[str, Spec]) -> dict[str, Array]:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise BadRequest(f"raw_input_contents has {len(raw)} elements, inputs {len(request.inputs)}: one is of each")
    arrays: dict[str, Array] = {}
    lengths: dict[str, tuple[int, str]] = {}
    for index, one in enumerate(request.inputs):
        spec = named("inputs", index, one.name, specs, arrays)
        check_served(f"input {one.name!r}", one.parameters)
        shape = fitting(list(one.shape), spec, lengths)
        check_datatype(one.datatype, spec)
        given = [field.name for field, _ in one.contents.ListFields()]
        if not raw:
            arrays[one.name] = _typed(spec, shape, one.contents, given)
        elif given:
            raise BadRequest(f"input {one.name!r}: it has both {given[0]} and raw_input_contents")
        else:
            arrays[one.name] = tensors.from_binary(one.name, spec.datatype, shape, memoryview(raw[index]))
    check_complete(arrays, specs)
    return arrays


def _typed(spec: Spec, shape: Sequence[int], contents: Any, given: Sequence[str]) -> Array:
    name, datatype = spec.name, spec.datatype
    field = _FIELDS.get(datatype)
    if field is None:
        raise BadRequest(f"input {name!r}: {datatype} has no typed contents in the protocol: use raw_input_contents")
    for other in given:
        if other != field:
            raise BadRequest(f"input {name!r}: the data of {datatype} are in {field}, not in {other}")
    values = getattr(contents, field)
    count = math.prod(shape)
    if len(values) != count:
        raise BadRequest(f"input {name!r}: {field} has {len(values)} elements, its shape {list(shape)} has {count}")
    if datatype == tensors.BYTES:
        texts = [tensors.to_text(name, index, content) for index, content in enumerate(values)]
        return np.array(texts, dtype=object).reshape(shape)
    try:
        return np.array(list(values), dtype=spec.numpy).reshape(shape)
    except OverflowError as error:
        raise BadRequest(f"input {name!r}: a value is outside of {datatype}: {error}") from error


def _values(datatype: str, array: Array) -> list[Any]:
    if datatype == tensors.BYTES:
        return [text.encode() if isinstance(text, str) else bytes(text) for text in array.ravel()]
    values: list[Any] = array.ravel().tolist()
    return values
