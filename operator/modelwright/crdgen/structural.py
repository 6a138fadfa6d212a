"""From a pydantic model to the structural OpenAPI v3 schema that a CustomResourceDefinition takes.

The API server knows less than JSON Schema has: no `$ref`, no null type, no unions, no `const` (which it drops without a
word), and forbids more. What cannot be said there is an error here, with the path of the field, and not a schema that
checks less than the model.
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from modelwright.api.rules import VALIDATIONS

PRESERVE = "x-kubernetes-preserve-unknown-fields"
INT_OR_STRING = "x-kubernetes-int-or-string"
_KEPT = (
    "description", "type", "format", "default", "enum", "pattern", "minLength", "maxLength", "minimum", "maximum",
    "minItems", "maxItems", "minProperties", "maxProperties",
)  # fmt: skip
_UNSAYABLE = (
    "allOf", "oneOf", "discriminator", "exclusiveMinimum", "exclusiveMaximum", "uniqueItems", "prefixItems",
    "multipleOf", "patternProperties",
)  # fmt: skip
# Those that the API server's validation knows; another one is accepted with a warning, and checks nothing.
_FORMATS = frozenset({"date-time", "int32", "int64"})
_BOUNDS = {"string": ("maxLength", "enum", "format"), "array": ("maxItems",), "integer": ("maximum",)}

Schema = dict[str, Any]


class NotStructural(ValueError):  # noqa: N818 - it reads as what is wrong
    """A model says something that a CRD cannot."""


def structural(model: type[BaseModel]) -> Schema:
    """The schema of `model`, all in one piece. Raises NotStructural, naming the field."""
    found = model.model_json_schema(by_alias=True, mode="validation")
    return _schema(found, found.get("$defs", {}), "")


def _schema(found: Mapping[str, Any], definitions: Mapping[str, Any], path: str) -> Schema:
    found = _without_null(_resolved(found, definitions, path), definitions, path)
    for key in _UNSAYABLE:
        if key in found:
            raise NotStructural(f"{path}: {key} cannot be said in a CRD; write a rule")
    made: Schema = {key: found[key] for key in _KEPT if key in found}
    if "const" in found:
        made["enum"] = [found["const"]]
    if "default" in made:
        made["default"] = _without_nulls(made["default"])
    if made.get("default") is None:
        made.pop("default", None)
    if "description" in made:
        made["description"] = " ".join(made["description"].split())
    made.update(_members(found, definitions, path))
    made.update({key: value for key, value in found.items() if key.startswith("x-kubernetes-")})
    _check(made, path)
    return _ordered(made)


def _resolved(found: Mapping[str, Any], definitions: Mapping[str, Any], path: str) -> Schema:
    """Without `$ref`; what stands beside it goes over what it names, and their rules add up."""
    if "$ref" not in found:
        return dict(found)
    name = str(found["$ref"]).removeprefix("#/$defs/")
    if name not in definitions:
        raise NotStructural(f"{path}: $ref {found['$ref']} leads nowhere")
    named = _resolved(definitions[name], definitions, path)
    beside = {key: value for key, value in found.items() if key != "$ref"}
    rules = [*named.get(VALIDATIONS, ()), *beside.get(VALIDATIONS, ())]
    return {**named, **beside, **({VALIDATIONS: rules} if rules else {})}


def _without_null(found: Schema, definitions: Mapping[str, Any], path: str) -> Schema:
    """`X | None` is X: in the API an optional field is absent, not null."""
    if "anyOf" not in found or INT_OR_STRING in found:
        return found
    members = [member for member in found["anyOf"] if member.get("type") != "null"]
    if len(members) != 1:
        raise NotStructural(f"{path}: a union of {len(members)} types; a field has one type")
    member = _without_null(_resolved(members[0], definitions, path), definitions, path)
    return {**member, **{key: value for key, value in found.items() if key != "anyOf"}}


def _without_nulls(value: Any) -> Any:
    """A default without fields that are not set."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(one) for one in value]
    return value


def _members(found: Schema, definitions: Mapping[str, Any], path: str) -> Schema:
    made: Schema = {}
    if "properties" in found:
        made["properties"] = {
            name: _schema(value, definitions, f"{path}.{name}") for name, value in found["properties"].items()
        }
        if found.get("required"):
            made["required"] = list(found["required"])
        if found.get("additionalProperties") is True:
            made[PRESERVE] = True
    elif isinstance(found.get("additionalProperties"), Mapping):
        made["additionalProperties"] = _schema(found["additionalProperties"], definitions, f"{path}.*")
    if "items" in found:
        made["items"] = _schema(found["items"], definitions, f"{path}[]")
    return made


def _check(made: Schema, path: str) -> None:
    if INT_OR_STRING in made:
        return
    kind = made.get("type")
    if kind is None:
        raise NotStructural(f"{path}: no type")
    if kind == "number":
        raise NotStructural(f"{path}: a number; write decimals as strings")
    if "format" in made and made["format"] not in _FORMATS:
        raise NotStructural(f"{path}: format {made['format']} is none that the API server checks")
    if kind == "object" and "properties" not in made and "additionalProperties" not in made and PRESERVE not in made:
        raise NotStructural(f"{path}: an object of nothing; name its fields")
    # Without bounds the API server cannot tell what a rule will cost, and refuses the CRD.
    bounds = ("maxProperties",) if "additionalProperties" in made else _BOUNDS.get(kind, ())
    if kind == "integer" and "minimum" in made:
        bounds = ()  # a counter has no greatest value, and costs nothing
    if bounds and not any(bound in made for bound in bounds):
        raise NotStructural(f"{path}: no {bounds[0]}; every string, list and map has a bound")


def _ordered(made: Schema) -> Schema:
    """In the order in which one reads: what it is, how it is limited, what is in it."""
    last = ("required", "properties", "additionalProperties", "items", PRESERVE, VALIDATIONS)
    return {
        **{key: value for key, value in made.items() if key not in last},
        **{key: made[key] for key in last if key in made},
    }


def plain(value: Any) -> Any:
    """The same as JSON has it: no tuples, no shared parts (which YAML would write as anchors)."""
    return json.loads(json.dumps(value))
