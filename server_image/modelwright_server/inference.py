"""An inference request of the Open Inference Protocol V2: from the body's bytes to arrays, and back.

Pure, and called on the worker threads. Whatever a client may send wrong is a `BadRequest` that names it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import orjson

from modelwright_server import tensors
from modelwright_server.http11 import Response
from modelwright_server.tensors import Array, BadTensor, Spec

HEADER_LENGTH = b"inference-header-content-length"
_BINARY = (b"content-type", b"application/octet-stream")
_MOST_DIMENSIONS = 32


class BadRequest(ValueError):  # noqa: N818 - its status, 400, is of that name
    """What is wrong with the client's request; the text says where."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """An output that is asked for, and whether as binary data."""

    spec: Spec
    binary: bool


@dataclasses.dataclass(frozen=True)
class Inference:
    id: str | None
    inputs: Mapping[str, Array]
    outputs: Sequence[Wanted]
    timeout_seconds: float | None = None
    """How long after the request's arrival its client still wants the answer."""


def parse(
    body: bytes, header_length: bytes | None, inputs: Mapping[str, Spec], outputs: Mapping[str, Spec]
) -> Inference:
    """The inference that is asked for, of a graph with these inputs and outputs by name. `header_length` is the header
    Inference-Header-Content-Length's value. Raises BadRequest."""
    try:
        stated, rest = _divided(body, header_length)
        if not isinstance(stated, dict):
            raise BadRequest("the request is a JSON object with the field inputs")
        asked_id = stated.get("id")
        if asked_id is not None and not isinstance(asked_id, str):
            raise BadRequest("id: it is a text")
        parameters = _parameters(stated, "the request")
        arrays = _inputs(stated.get("inputs"), rest, inputs, has_binary=header_length is not None)
        wanted = _outputs(stated.get("outputs"), parameters, outputs)
        return Inference(asked_id, arrays, wanted, timeout(parameters.get("timeout")))
    except BadTensor as error:
        raise BadRequest(str(error)) from error


def answer(model: str, version: str, inference: Inference, arrays: Sequence[Array]) -> Response:
    """The response with `arrays`, those of `inference.outputs` in their order."""
    told: list[dict[str, Any]] = []
    binary: list[bytes | memoryview] = []
    for wanted, array in zip(inference.outputs, arrays, strict=True):
        datatype = wanted.spec.datatype
        output: dict[str, Any] = {"name": wanted.spec.name, "datatype": datatype, "shape": array.shape}
        if wanted.binary:
            data = tensors.to_binary(datatype, array)
            output["parameters"] = {"binary_data_size": len(data)}
            binary.append(data)
        else:
            output["data"] = tensors.to_json(datatype, array)
        told.append(output)
    content: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": told}
    if inference.id is not None:
        content["id"] = inference.id
    head = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    if not binary:
        return Response(200, (head,))
    return Response(200, (head, *binary), (_BINARY, (HEADER_LENGTH, b"%d" % len(head))))


def _divided(body: bytes, header_length: bytes | None) -> tuple[Any, memoryview]:
    """The JSON, and the binary data behind it."""
    length = len(body)
    if header_length is not None:
        if not header_length.isdigit() or len(header_length) > 18:
            raise BadRequest(f"Inference-Header-Content-Length: {header_length[:40].decode('latin-1')!r} is no length")
        length = int(header_length)
        if length > len(body):
            raise BadRequest(f"Inference-Header-Content-Length says {length} bytes, and the body has {len(body)}")
        if length == 0:
            raise BadRequest("Inference-Header-Content-Length is 0: raw requests without JSON are not served")
    whole = memoryview(body)
    try:
        return orjson.loads(whole[:length]), whole[length:]
    except orjson.JSONDecodeError as error:
        if header_length is None and b"\x00" in body:
            raise BadRequest(
                "the body is no JSON; where binary data follows it, say the JSON's length in"
                " Inference-Header-Content-Length"
            ) from error
        raise BadRequest(f"the body is no JSON: {error}") from error


def _parameters(of: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    found = of.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise BadRequest(f"{what}: parameters is an object")
    return found


def _flag(parameters: Mapping[str, Any], name: str, what: str, default: bool) -> bool:
    found = parameters.get(name, default)
    if not isinstance(found, bool):
        raise BadRequest(f"{what}: {name} is true or false")
    return found


def _inputs(stated: object, rest: memoryview, specs: Mapping[str, Spec], *, has_binary: bool) -> dict[str, Array]:
    if not isinstance(stated, list):
        raise BadRequest("inputs: it is a list of tensors")
    arrays: dict[str, Array] = {}
    lengths: dict[str, tuple[int, str]] = {}
    for index, one in enumerate(stated):
        if not isinstance(one, dict):
            raise BadRequest(f"inputs[{index}]: it is an object")
        name = one.get("name")
        if not isinstance(name, str):
            raise BadRequest(f"inputs[{index}]: name is a text")
        spec = named("inputs", index, name, specs, arrays)
        shape = fitting(one.get("shape"), spec, lengths)
        check_datatype(one.get("datatype"), spec)
        size = _parameters(one, f"input {name!r}").get("binary_data_size")
        if size is None:
            if "data" not in one:
                raise BadRequest(f"input {name!r}: it has no data")
            arrays[name] = tensors.from_json(name, spec.datatype, shape, one["data"])
            continue
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise BadRequest(f"input {name!r}: binary_data_size is a number of bytes")
        if "data" in one:
            raise BadRequest(f"input {name!r}: it has both data and binary_data_size")
        if not has_binary:
            raise BadRequest(f"input {name!r}: binary data needs the header Inference-Header-Content-Length")
        if size > len(rest):
            raise BadRequest(f"input {name!r}: binary_data_size is {size}, and the body has {len(rest)} bytes left")
        arrays[name] = tensors.from_binary(name, spec.datatype, shape, rest[:size])
        rest = rest[size:]
    check_complete(arrays, specs)
    if len(rest):
        raise BadRequest(f"the body has {len(rest)} bytes more than its JSON and the binary_data_size of its inputs")
    return arrays


def named(where: str, index: int, name: str, specs: Mapping[str, Spec], already: Container[str]) -> Spec:
    """The input or output (`where` is "inputs" or "outputs") that a request names. Raises BadRequest."""
    if name not in specs:
        kind = where.removesuffix("s")
        raise BadRequest(
            f"{where}[{index}]: the model has no {kind} {name[:200]!r}; its {where} are {', '.join(specs)}"
        )
    if name in already:
        raise BadRequest(f"{where}[{index}]: {name!r} is {'given' if where == 'inputs' else 'asked for'} twice")
    return specs[name]


def check_complete(arrays: Container[str], specs: Mapping[str, Spec]) -> None:
    missing = [name for name in specs if name not in arrays]
    if missing:
        raise BadRequest(f"inputs: {', '.join(map(repr, missing))} is missing")


def check_datatype(datatype: object, spec: Spec) -> None:
    if datatype == spec.datatype:
        return
    if not tensors.is_datatype(datatype):
        raise BadRequest(
            f"input {spec.name!r}: datatype {str(datatype)[:40]!r} is none of the protocol; it is {spec.datatype}"
        )
    raise BadRequest(f"input {spec.name!r}: the datatype is {spec.datatype}, not {datatype}")


def fitting(shape: object, spec: Spec, lengths: dict[str, tuple[int, str]]) -> list[int]:
    """The shape that is given, where the graph takes it. `lengths` holds those that other inputs gave to named axes.
    Raises BadRequest."""
    if (
        not isinstance(shape, list)
        or len(shape) > _MOST_DIMENSIONS
        or not all(type(length) is int and 0 <= length < 2**40 for length in shape)
    ):
        raise BadRequest(f"input {spec.name!r}: shape is a list of lengths, here {spec.told} where -1 is any")
    fits = len(shape) == len(spec.shape) and all(
        not isinstance(wanted, int) or wanted == given for wanted, given in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise BadRequest(f"input {spec.name!r}: the shape is {spec.told} where -1 is any, and {shape} is given")
    for axis, given in zip(spec.shape, shape, strict=True):
        if isinstance(axis, str):
            other, of = lengths.setdefault(axis, (given, spec.name))
            if other != given:
                raise BadRequest(
                    f"inputs {of!r} and {spec.name!r} have different lengths, {other} and {given}, of {axis}"
                )
    return shape


def timeout(stated: object) -> float | None:
    """Seconds of the request's parameter timeout, which is microseconds as Triton has it; None where it is none, or 0.
    Raises BadRequest."""
    if stated is None:
        return None
    if isinstance(stated, bool) or not isinstance(stated, int) or stated < 0:
        raise BadRequest("the request: the parameter timeout is a number of microseconds")
    return stated / 1e6 or None


def check_served(what: str, parameters: Iterable[str]) -> None:
    """Raises BadRequest where `parameters` ask for what this server does not have."""
    unserved = {"classification", "shared_memory_region"}.intersection(parameters)
    if unserved:
        raise BadRequest(f"{what}: this server does not have {', '.join(sorted(unserved))}")


def _outputs(stated: object, parameters: Mapping[str, Any], specs: Mapping[str, Spec]) -> list[Wanted]:
    """Those that are asked for, in that order; all where none is named."""
    all_binary = _flag(parameters, "binary_data_output", "the request", False)
    if stated is None or stated == []:
        return [Wanted(spec, all_binary) for spec in specs.values()]
    if not isinstance(stated, list):
        raise BadRequest("outputs: it is a list of outputs")
    wanted: dict[str, Wanted] = {}
    for index, one in enumerate(stated):
        name = one.get("name") if isinstance(one, dict) else None
        if not isinstance(name, str):
            raise BadRequest(f"outputs[{index}]: it is an object with the text name")
        spec = named("outputs", index, name, specs, wanted)
        own = _parameters(one, f"output {name!r}")
        check_served(f"output {name!r}", own)
        wanted[name] = Wanted(spec, _flag(own, "binary_data", f"output {name!r}", all_binary))
    return list(wanted.values())
