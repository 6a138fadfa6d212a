"""The field reference: one page for each kind and one for the recipes, from the same models as the CRDs."""

from __future__ import annotations

import json
from collections.abc import Iterator

from modelwright.api.base import API_VERSION, ApiObject
from modelwright.api.recipes import RECIPES, Hyperparameters, limits
from modelwright.api.rules import VALIDATIONS
from modelwright.crdgen.crd import root_schema
from modelwright.crdgen.structural import INT_OR_STRING, PRESERVE, Schema

HEADER = "<!-- Written by `python -m modelwright.crdgen` from operator/modelwright/api; change it there. -->\n"
_LIMITS = {
    "minimum": "at least {}", "maximum": "at most {}", "minLength": "at least {} characters",
    "maxLength": "at most {} characters", "minItems": "at least {} entries", "maxItems": "at most {} entries",
    "maxProperties": "at most {} entries",
}  # fmt: skip


def _type(schema: Schema) -> str:
    if schema.get(INT_OR_STRING):
        return "integer or string"
    if "additionalProperties" in schema:
        return f"map of {_type(schema['additionalProperties'])}"
    if schema["type"] == "array":
        return f"list of {_type(schema['items'])}"
    if "enum" in schema:
        return " \\| ".join(f"`{json.dumps(one) if isinstance(one, bool) else one}`" for one in schema["enum"])
    if schema.get("format") == "date-time":
        return "time"
    return "any object" if schema.get(PRESERVE) else str(schema["type"])


def _limits(schema: Schema) -> str:
    said = [
        text.format(schema[key])
        for key, text in _LIMITS.items()
        if key in schema and (key, schema[key]) not in (("minLength", 1), ("minimum", 0))
    ]
    return "; ".join(said)


def _default(schema: Schema) -> str:
    value = schema.get("default")
    if isinstance(value, dict):  # said at its members
        return ""
    return "" if value is None else f"`{json.dumps(value)}`"


def _rows(schema: Schema, path: str) -> Iterator[tuple[str, Schema, bool]]:
    """Every field below `schema`: its path, its schema, and whether its parent requires it."""
    while "items" in schema or "additionalProperties" in schema:
        path += "[]" if "items" in schema else ".*"
        schema = schema.get("items") or schema["additionalProperties"]
    for name, member in schema.get("properties", {}).items():
        own = f"{path}.{name}"
        yield own, member, name in schema.get("required", ())
        yield from _rows(member, own)


def _rules(schema: Schema, path: str) -> Iterator[tuple[str, str]]:
    for rule in schema.get(VALIDATIONS, ()):
        # "'…' is not a name" of the message is, in a list of what is refused, "is not a name".
        yield f"{path}{rule.get('fieldPath', '')}".lstrip("."), str(rule["message"]).removeprefix("'…' ")
    for name, member in schema.get("properties", {}).items():
        yield from _rules(member, f"{path}.{name}" if path else name)
    for key, suffix in (("items", "[]"), ("additionalProperties", ".*")):
        if key in schema:
            yield from _rules(schema[key], path + suffix)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _table(schema: Schema, path: str) -> list[str]:
    lines = ["| field | type | default | |", "|---|---|---|---|"]
    for own, member, required in _rows(schema, path):
        limit = _limits(member) if path == "spec" else ""
        said = _cell(member.get("description", "")) + (f" ({limit})" if limit else "")
        default = "**required**" if required and path == "spec" else _default(member)
        lines.append(f"| `{own}` | {_type(member)} | {default} | {said} |")
    return lines


def page(kind: type[ApiObject]) -> str:
    """The page of one kind, as Markdown."""
    schema, names = root_schema(kind), kind.names
    called = ", ".join(f"`{name}`" for name in (names.plural, names.singular, *names.short))
    lines = [
        HEADER,
        f"# {kind.kind_name()}",
        "",
        schema["description"],
        "",
        f"`apiVersion: {API_VERSION}`, `kind: {kind.kind_name()}`; to kubectl: {called}.",
        f"`kubectl wait --for=condition={names.main_condition}` waits for it.",
        "",
        "## spec",
        "",
        schema["properties"]["spec"]["description"],
        "",
        *_table(schema["properties"]["spec"], "spec"),
        "",
        "### What the API server refuses",
        "",
        *(f"- `{path}`: {_cell(said)}" for path, said in dict.fromkeys(_rules(schema, ""))),
        "",
        "## status",
        "",
        schema["properties"]["status"]["description"],
        "",
        *_table(schema["properties"]["status"], "status"),
        "",
    ]
    return "\n".join(lines)


def _recipe(name: str, model: type[Hyperparameters]) -> list[str]:
    defaults = model.model_construct().to_strings()
    tasks = ", ".join(f"`{task}`" for task in model.tasks)
    lines = [f"## {name}", "", " ".join((model.__doc__ or "").split()), "", f"Tasks: {tasks}.", ""]
    lines += ["| name | default | range | |", "|---|---|---|---|"]
    for field, info in model.model_fields.items():
        own = info.alias or field
        default = "**required**" if info.is_required() else f"`{json.dumps(defaults[own])}`"
        lines.append(f"| `{own}` | {default} | {limits(info)} | {info.description} |")
    return [*lines, ""]


def recipes_page() -> str:
    """The page of the built-in recipes, as Markdown."""
    lines = [
        HEADER,
        "# Recipes",
        "",
        "What `spec.trainer.recipe` of a TrainingJob can name, and the hyperparameters of each. They are written as"
        " strings.",
        "",
    ]
    for name, model in RECIPES.items():
        lines += _recipe(name, model)
    return "\n".join(lines)
