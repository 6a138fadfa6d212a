"""Versions of a model: semantic versions, how they are ordered, and how a ModelVersion is named after its version."""

from __future__ import annotations

import re

_NUMBER = "(0|[1-9][0-9]*)"
_IDENTIFIER = "(0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_BUILD = "[0-9A-Za-z-]+([.][0-9A-Za-z-]+)*"
SEMVER_PATTERN = rf"{_NUMBER}[.]{_NUMBER}[.]{_NUMBER}(-{_IDENTIFIER}([.]{_IDENTIFIER})*)?([+]{_BUILD})?"
"""SemVer 2.0 (https://semver.org), with build metadata; for RE2 as for Python."""
NAMEABLE_PATTERN = "[0-9.]+(-[0-9a-z.]+)?"
"""Of the semantic versions, those that an object can be named after. In a name "." becomes "-", so that with hyphens
1.0.0-rc-1 and 1.0.0-rc.1 would be one name."""
VERSION_LENGTH = 32


def is_semver(version: str) -> bool:
    return re.fullmatch(SEMVER_PATTERN, version) is not None


def is_nameable(version: str) -> bool:
    return re.fullmatch(NAMEABLE_PATTERN, version) is not None


def model_version_name(model: str, version: str, variant: str | None = None) -> str:
    """The name of the ModelVersion: `digits-v1-0-0--int8`."""
    return f"{model}-v{version.replace('.', '-')}" + (f"--{variant}" if variant else "")


Precedence = tuple[tuple[int, int, int], bool, tuple[tuple[bool, int, str], ...]]


def precedence(version: str) -> Precedence:
    """A key that orders versions as SemVer 2.0, section 11, does. Raises ValueError for another string."""
    if not is_semver(version):
        raise ValueError(f"{version!r} is not a semantic version")
    core, _, pre_release = version.partition("+")[0].partition("-")
    major, minor, patch = (int(part) for part in core.split("."))
    identifiers = tuple(
        (False, int(one), "") if one.isdigit() else (True, 0, one) for one in pre_release.split(".") if one
    )
    # A version without pre-release comes after all of its pre-releases.
    return (major, minor, patch), not identifiers, identifiers
