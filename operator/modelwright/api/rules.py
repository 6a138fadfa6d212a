"""A rule of the API, said once: in CEL for the API server, in Python for the operator, with one message for both.

The messages are written for who wrote the YAML: what was wrong and what to write. A placeholder such as
`{self.version}` puts the refused value in; CEL says it as a `messageExpression`, Python from the object.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.alias_generators import to_snake
from pydantic_core import PydanticCustomError, core_schema

VALIDATIONS = "x-kubernetes-validations"
_PLACEHOLDER = re.compile(r"\{([A-Za-z_.]+)\}")

Term = tuple[str, Callable[[Any], str]]
"""What a placeholder stands for: a CEL expression, and the same in Python."""


def cel_string(text: str) -> str:
    """`text` as a raw CEL string, in which no backslash is read. Raises ValueError for text with a single quote."""
    if "'" in text or "\n" in text:
        raise ValueError(f"{text!r} does not fit a raw CEL string")
    return f"r'{text}'"


def cel_matches(expression: str, pattern: str) -> str:
    """CEL: all of the string `expression` is of the form `pattern`, as `re.fullmatch` has it."""
    return f"{expression}.matches({cel_string(f'^({pattern})$')})"


def _attribute(value: Any, path: str) -> str:
    for name in path.split(".")[1:]:
        value = getattr(value, to_snake(name))
    return str(value)


@dataclasses.dataclass(frozen=True)
class Rule:
    """`cel` is true where the rule holds, and `holds` is the same in Python. A transition rule (one with `oldSelf`) has
    no `holds`: only the API server sees the object as it was. `field` is the member that the error is about, where it
    is not the value itself. `terms` are placeholders of the message beside paths from `self`."""

    cel: str
    message: str
    holds: Callable[[Any], bool] | None = None
    field: str = ""
    terms: Mapping[str, Term] = dataclasses.field(default_factory=dict)

    def to_validation(self) -> dict[str, str]:
        """The entry of `x-kubernetes-validations`."""
        # Used where the expression fails or grows too large; the API server wants one then.
        said = {"rule": self.cel, "message": _PLACEHOLDER.sub("…", self.message)}
        if _PLACEHOLDER.search(self.message):
            said["messageExpression"] = self._message_expression()
        if self.field:
            said["fieldPath"] = f".{self.field}"
        return said

    def _message_expression(self) -> str:
        parts = []
        for index, part in enumerate(_PLACEHOLDER.split(self.message)):
            if index % 2:
                parts.append(self.terms[part][0] if part in self.terms else part)
            elif part:
                parts.append('"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"')
        return " + ".join(parts)

    def told(self, value: Any) -> str:
        """The message about `value`, which does not hold."""

        def fill(found: re.Match[str]) -> str:
            name = found.group(1)
            return self.terms[name][1](value) if name in self.terms else _attribute(value, name)

        return _PLACEHOLDER.sub(fill, self.message)


RULE_BROKEN = "rule"
"""The type of the error where rules do not hold; its context has `broken`, a list of each rule's field and message."""


def check(rules: tuple[Rule, ...], value: Any) -> None:
    """Raises PydanticCustomError that names every rule that `value` breaks."""
    broken = [(rule.field, rule.told(value)) for rule in rules if rule.holds is not None and not rule.holds(value)]
    if broken:
        said = "; ".join(f"{field}: {text}" if field else text for field, text in broken)
        # By the context, since a message may hold braces of the user's.
        raise PydanticCustomError(RULE_BROKEN, "{said}", {"said": said, "broken": broken})


class Rules:
    """Annotates a type (a string, a list, a map) with rules; models name theirs in `rules`."""

    def __init__(self, *rules: Rule) -> None:
        self.rules = rules

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def checked(value: Any) -> Any:
            check(self.rules, value)
            return value

        return core_schema.no_info_after_validator_function(checked, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        made = handler(schema)
        return {**made, VALIDATIONS: [*made.get(VALIDATIONS, ()), *(rule.to_validation() for rule in self.rules)]}
