"""The OpenAPI 3.1 document of what a pod serves, with the model's own columns, tensors and classes. Pure.

https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modelwright_server.records import PROBABILITIES
from modelwright_server.tensors import BYTES, Spec

if TYPE_CHECKING:
    from modelwright_server.model import Model

Schema = dict[str, Any]
_JSON_TYPES = {"BOOL": "boolean", BYTES: "string"}


def document(model: Model, server_version: str) -> Schema:
    whole = f"/v2/models/{model.name}"
    infer = _post("infer", "Tensors in, tensors out", _infer_request(model), _infer_response(model))
    predict = _post("predict", "Named columns in, classes or values out", _records(model), _predictions(model))
    instances = _post("predictV1", "The V1 protocol: rows in, outputs by row", _instances(model), _object(
        {"predictions": {"type": "array"}}
    ))  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {"title": f"{model.name} {model.version}", "version": server_version},
        "paths": {
            "/v2": _get("server", "Name, version and extensions of the server"),
            "/v2/health/live": _get("live", "Whether the process runs"),
            "/v2/health/ready": _get("ready", "Whether the version may serve", 503),
            whole: _get("model", "Inputs and outputs of the model"),
            f"{whole}/ready": _get("modelReady", "Whether the version may serve", 503),
            f"{whole}/infer": infer,
            f"{whole}/predict": predict,
            f"/v1/models/{model.name}": _get("modelV1", "The V1 protocol: whether the version may serve"),
            f"/v1/models/{model.name}:predict": instances,
        },
        "components": {"schemas": {"Error": _object({"error": {"type": "string"}})}},
    }


def _object(properties: Mapping[str, Schema], *optional: str, closed: bool = False) -> Schema:
    required = [name for name in properties if name not in optional]
    return {
        "type": "object", "properties": dict(properties), "required": required,
        **({"additionalProperties": False} if closed else {}),
    }  # fmt: skip


def _get(name: str, summary: str, *codes: int) -> Schema:
    answers = {str(code): {"description": "Not so"} for code in codes}
    return {"get": {"operationId": name, "summary": summary, "responses": {**_answers({"type": "object"}), **answers}}}


def _post(name: str, summary: str, asked: Schema, answered: Schema) -> Schema:
    failed = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    words = {
        400: "The request: its message says what", 413: "Larger than this server takes", 415: "Compressed",
        429: "Too many wait: Retry-After says when to come again", 500: "The inference failed", 503: "Not ready yet",
        504: "The request's own timeout was over",
    }  # fmt: skip
    refusals = {str(code): {"description": text, **failed} for code, text in words.items()}
    return {"post": {
        "operationId": name, "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": asked}}},
        "responses": {**_answers(answered), **refusals},
    }}  # fmt: skip


def _answers(schema: Schema) -> Schema:
    return {"200": {"description": "Answered", "content": {"application/json": {"schema": schema}}}}


def _value(spec: Spec) -> Schema:
    kind = spec.numpy.kind
    if kind in "bO":
        return {"type": _JSON_TYPES[spec.datatype]}
    if kind == "f":
        most = float(np.finfo(spec.numpy).max)
        return {"type": "number", "minimum": -most, "maximum": most}
    bounds = np.iinfo(spec.numpy)
    return {"type": "integer", "minimum": int(bounds.min), "maximum": int(bounds.max)}


def _nested(value: Schema, lengths: Sequence[int | str | None]) -> Schema:
    for length in reversed(lengths):
        fixed = {"minItems": length, "maxItems": length} if isinstance(length, int) else {}
        value = {"type": "array", "items": value, **fixed}
    return value


def _tensor(spec: Spec) -> Schema:
    shape: Schema = {
        "type": "array", "items": {"type": "integer", "minimum": 0},
        "minItems": len(spec.shape), "maxItems": len(spec.shape), "examples": [spec.lengths],
    }  # fmt: skip
    return _object({
        "name": {"const": spec.name}, "datatype": {"const": spec.datatype}, "shape": shape, "data": {"type": "array"},
    })  # fmt: skip


def _infer_request(model: Model) -> Schema:
    tensors = [_tensor(spec) for spec in model.inputs.values()]
    names, count = {"type": "string", "enum": list(model.outputs)}, len(tensors)
    return _object(
        {
            "id": {"type": "string"},
            "inputs": {"type": "array", "items": {"anyOf": tensors}, "minItems": count, "maxItems": count},
            "outputs": {"type": "array", "items": _object({"name": names})},
            "parameters": {"type": "object"},
        },
        "id", "outputs", "parameters",
    )  # fmt: skip


def _infer_response(model: Model) -> Schema:
    tensors = [_tensor(spec) for spec in model.outputs.values()]
    return _object(
        {
            "model_name": {"const": model.name}, "model_version": {"const": model.version}, "id": {"type": "string"},
            "outputs": {"type": "array", "items": {"anyOf": tensors}},
        },
        "id",
    )  # fmt: skip


def _record(model: Model) -> Schema:
    properties: dict[str, Schema] = {}
    for spec in model.inputs.values():
        value = _value(spec)
        if spec.numpy.kind == "f":
            value |= {"type": [value["type"], "null"]}
        columns = model.records.columns.get(spec.name)
        properties |= dict.fromkeys(columns, value) if columns else {spec.name: _nested(value, spec.shape[1:])}
    return _object(properties, closed=True)


def _records(model: Model) -> Schema:
    return _object({"records": {"type": "array", "minItems": 1, "items": _record(model)}})


def _instances(model: Model) -> Schema:
    rows = [_record(model)]
    if len(model.inputs) == 1:
        (spec,) = model.inputs.values()
        rows.append(_nested(_value(spec), spec.shape[1:]))
    return _object({"instances": {"type": "array", "minItems": 1, "items": {"anyOf": rows}}})


def _predictions(model: Model) -> Schema:
    row: Schema = {"type": "object"}
    if model.records.classes and PROBABILITIES in model.outputs:
        share = {"type": ["number", "null"]}
        row = _object({
            "label": {"enum": [*model.records.classes, None]},
            PROBABILITIES: _object(dict.fromkeys(model.records.classes, share)),
        })  # fmt: skip
    return _object({
        "model_name": {"const": model.name}, "model_version": {"const": model.version},
        "predictions": {"type": "array", "items": row},
    })  # fmt: skip
