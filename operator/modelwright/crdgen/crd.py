"""A kind's CustomResourceDefinition."""

from __future__ import annotations

from typing import Any

import yaml

from modelwright.api.base import CATEGORY, GROUP, VERSION, ApiObject
from modelwright.api.rules import VALIDATIONS
from modelwright.crdgen.structural import Schema, plain, structural

HEADER = "# Written by `python -m modelwright.crdgen` from operator/modelwright/api; change it there.\n"
_KIND = "The kind of the object."
_API_VERSION = "The version of the API that the object is written in."


def root_schema(kind: type[ApiObject]) -> Schema:
    """The schema of whole objects; of the metadata the API server itself says what it is."""
    made = structural(_without_metadata(kind))
    properties = made.pop("properties")
    rules = [rule.to_validation() for rule in kind.rules]
    return {
        "description": " ".join((kind.__doc__ or "").split()),
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"description": _API_VERSION, "type": "string"},
            "kind": {"description": _KIND, "type": "string"},
            # The name is declared for the error's path alone; the API server has its own schema of metadata.
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "spec": properties["spec"],
            "status": properties["status"],
        },
        **({VALIDATIONS: rules} if rules else {}),
    }


def _without_metadata(kind: type[ApiObject]) -> type[ApiObject]:
    """The kind's spec and status alone, as a model: a CRD says nothing of metadata."""
    from pydantic import create_model

    fields = {name: (kind.model_fields[name].annotation, kind.model_fields[name]) for name in ("spec", "status")}
    return create_model(f"{kind.__name__}Body", **fields)  # type: ignore[call-overload,no-any-return]


def definition(kind: type[ApiObject]) -> dict[str, Any]:
    names = kind.names
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}, **({"scale": names.scale.to_object()} if names.scale else {})},
        "additionalPrinterColumns": [column.to_object() for column in names.columns],
        "schema": {"openAPIV3Schema": root_schema(kind)},
    }
    if names.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in names.selectable]
    made: dict[str, Any] = plain(
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{names.plural}.{GROUP}"},
            "spec": {
                "group": GROUP,
                "scope": "Namespaced",
                "names": {
                    "kind": kind.kind_name(),
                    "listKind": f"{kind.kind_name()}List",
                    "plural": names.plural,
                    "singular": names.singular,
                    "shortNames": list(names.short),
                    "categories": [CATEGORY],
                },
                "versions": [version],
            },
        }
    )
    return made


def to_yaml(kind: type[ApiObject]) -> str:
    return HEADER + yaml.safe_dump(definition(kind), sort_keys=False, width=120, allow_unicode=True)
