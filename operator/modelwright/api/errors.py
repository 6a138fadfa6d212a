"""What is wrong with an object that the models refuse, in lines for its reader."""

from __future__ import annotations

from pydantic import ValidationError

from modelwright.api.rules import RULE_BROKEN


def problems(error: ValidationError) -> tuple[str, ...]:
    """One line for each thing that is wrong: `spec.publish.version: '1.0' is not a semantic version; …`."""
    lines = []
    for one in error.errors(include_url=False, include_input=False):
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in one["loc"])
        told = [("", one["msg"])]
        if one["type"] == RULE_BROKEN:
            told = one["ctx"]["broken"]
        elif one["type"] == "extra_forbidden":
            told = [("", "unknown field; the CRD may be newer than this operator")]
        elif one["type"] == "missing":
            told = [("", "required")]
        for field, said in told:
            whole = (f"{path}.{field}" if field else path).lstrip(".")
            lines.append(f"{whole}: {said}" if whole else said)
    return tuple(lines)
