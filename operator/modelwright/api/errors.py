"""What is wrong with an object that the models refuse, in lines for its reader."""

from __future__ import annotations

from pydantic import ValidationError


def problems(error: ValidationError) -> tuple[str, ...]:
    """One line for each thing that is wrong: `spec.publish.version: '1.0' is not a semantic version; …`."""
    lines = []
    for one in error.errors(include_url=False, include_input=False):
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in one["loc"]).lstrip(".")
        said = one["msg"]
        if one["type"] == "extra_forbidden":
            said = "unknown field; the CRD may be newer than this operator"
        elif one["type"] == "missing":
            said = "required"
        lines.append(f"{path}: {said}" if path else said)
    return tuple(lines)
