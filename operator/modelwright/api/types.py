"""The scalars of the API: names, versions, URIs, digests, decimals, times, quantities. Each says in its messages how to
write it."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, AwareDatetime, Field, PlainSerializer, Strict, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError

from modelwright.api.rules import Rule, Rules, cel_matches
from modelwright.api.versions import NAMEABLE_PATTERN, SEMVER_PATTERN, VERSION_LENGTH, is_nameable, is_semver

T = TypeVar("T")
Items = Annotated[tuple[T, ...], Strict(False)]
"""A list: of the API a JSON array, here a tuple."""


def each_once(what: str, of: Any) -> AfterValidator:
    """No item twice, by `of`; in the CRD this is `x-kubernetes-list-type`."""

    def checked(items: tuple[Any, ...]) -> tuple[Any, ...]:
        keys = [of(item) for item in items]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise PydanticCustomError("twice", "{what}", {"what": f"{', '.join(twice)}: each {what} once"})
        return items

    return AfterValidator(checked)


NAME_LENGTH = 40
NAME_PATTERN = "[a-z]([a-z0-9-]*[a-z0-9])?"
_VARIANT_PATTERN = "[a-z0-9]+(-[a-z0-9]+)*"
# All but blanks, control characters, and what would begin a query or a fragment.
_URI_CHARACTER = r"[^\x00-\x20\x7f?#]"
_BUCKET = "s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
_STORE_URI_PATTERN = f"{_BUCKET}(/{_URI_CHARACTER}*)?|file:///{_URI_CHARACTER}+"
# A file as well, or a prefix with a slash at its end.
_DATA_URI_PATTERN = rf"({_BUCKET}|file://)/{_URI_CHARACTER}+"
_SOURCE_FILE = rf"{_URI_CHARACTER}*[^\x00-\x20\x7f?#/]([.]parquet|[.]csv|[.]jsonl|[.]ndjson)"
_SOURCE_URI_PATTERN = rf"({_BUCKET}|file://)/({_SOURCE_FILE}|{_URI_CHARACTER}+/)"
_MANIFEST_PATTERN = rf"({_BUCKET}|file://)/{_URI_CHARACTER}+/versions/[^\x00-\x20\x7f?#/]+/manifest[.]json"
_ENDPOINT_PATTERN = r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?/?|https?://\[[0-9A-Fa-f:]+\](:[0-9]{1,5})?/?"
DECIMAL_PATTERN = "-?[0-9]{1,9}([.][0-9]{1,9})?"
_FRACTION_PATTERN = "0([.][0-9]{1,6})?|1([.]0{1,6})?"
# Not negative. The API server's own isQuantity also takes "E", which is no number.
_QUANTITY_PATTERN = "[+]?([0-9]+|[0-9]+[.][0-9]*|[.][0-9]+)(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E|[eE][+-]?[0-9]{1,2})?"


# Go's durations (which CEL's `duration()` reads), of whole units: what people write, and no sign.
_DURATION_PATTERN = "([0-9]{1,6}(h|m|s|ms))+"
_DURATION_PART = re.compile("([0-9]+)(h|ms|m|s)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def is_name(text: str) -> bool:
    """A DNS-1035 label of at most `NAME_LENGTH` characters: what a Service, and so a training job's, can be named."""
    return len(text) <= NAME_LENGTH and re.fullmatch(NAME_PATTERN, text) is not None


def _formed(pattern: str, message: str) -> Rule:
    return Rule(cel_matches("self", pattern), message, lambda text: re.fullmatch(pattern, text) is not None)


Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=NAME_LENGTH),
    Rules(
        _formed(
            NAME_PATTERN,
            "'{self}' is not a name; write lower-case letters, digits and hyphens, beginning with a letter",
        )
    ),
]

Version = Annotated[
    str,
    StringConstraints(min_length=1, max_length=VERSION_LENGTH),
    Rules(
        Rule(
            cel_matches("self", SEMVER_PATTERN),
            "'{self}' is not a semantic version; write MAJOR.MINOR.PATCH, such as 1.0.0 or 1.0.0-rc.1",
            is_semver,
        ),
        Rule(
            "!self.contains('+')",
            "'{self}' has build metadata, which no label or name can hold; leave out the + and what follows it",
            lambda text: "+" not in text,
        ),
        Rule(
            f"!{cel_matches('self', SEMVER_PATTERN)} || self.contains('+') || {cel_matches('self', NAMEABLE_PATTERN)}",
            "'{self}' cannot be part of a name; write the pre-release in lower-case letters, digits and dots, such as"
            " 1.0.0-rc.1",
            lambda text: not is_semver(text) or "+" in text or is_nameable(text),
        ),
    ),
]

Variant = Annotated[
    str,
    StringConstraints(min_length=1, max_length=20),
    Rules(
        _formed(
            _VARIANT_PATTERN,
            "'{self}' is not a variant; write lower-case letters, digits and single hyphens, such as int8",
        )
    ),
]

StoreUri = Annotated[
    str,
    StringConstraints(min_length=1, max_length=1024),
    Rules(
        _formed(_STORE_URI_PATTERN, "'{self}' is not a store's URI; write s3://bucket/path or file:///path"),
    ),
]

DataUri = Annotated[
    str,
    StringConstraints(min_length=1, max_length=1024),
    Rules(
        _formed(
            _DATA_URI_PATTERN,
            "'{self}' is not a file's URI; write s3://bucket/path/rows.parquet or file:///path/rows.parquet",
        ),
    ),
]

SourceUri = Annotated[
    str,
    StringConstraints(min_length=1, max_length=1024),
    Rules(
        _formed(
            _SOURCE_URI_PATTERN,
            "'{self}' is not a source; write s3://bucket/path/rows.parquet (or .csv, .jsonl, .ndjson), or a prefix that"
            " ends with a slash, s3://bucket/path/; or file:///path of either form",
        ),
    ),
]

ImportUri = Annotated[
    str,
    StringConstraints(min_length=1, max_length=1024),
    Rules(
        _formed(_DATA_URI_PATTERN, "'{self}' is not a file's URI; write s3://bucket/path/model.onnx or file:///path")
    ),
]

ManifestUri = Annotated[
    str,
    StringConstraints(min_length=1, max_length=1024),
    Rules(
        _formed(
            _MANIFEST_PATTERN,
            "'{self}' is not a manifest's URI; write s3://bucket/models/team/digits/versions/1.0.0/manifest.json",
        ),
    ),
]

Endpoint = Annotated[
    str,
    StringConstraints(min_length=1, max_length=256),
    Rules(_formed(_ENDPOINT_PATTERN, "'{self}' is not an endpoint; write https://host or https://host:port")),
]

Digest = Annotated[
    str,
    StringConstraints(min_length=1, max_length=71),
    Rules(
        _formed(
            "sha256:[0-9a-f]{64}", "'{self}' is not a digest; write sha256: and 64 hexadecimal digits in lower case"
        )
    ),
]

DecimalText = Annotated[
    str,
    StringConstraints(min_length=1, max_length=20),
    Rules(_formed(DECIMAL_PATTERN, "'{self}' is not a decimal; write it in quotes with a point, such as \"0.93\"")),
]

# Six places, so that a sum of fractions as floating-point numbers (all that CEL has) is 1 exactly when it is 1.
Fraction = Annotated[
    str,
    StringConstraints(min_length=1, max_length=8),
    Rules(
        _formed(
            _FRACTION_PATTERN,
            "'{self}' is not a fraction; write a decimal from 0 to 1 with at most 6 places, such as \"0.8\"",
        )
    ),
]

# In status: what comes in is written, so that a loss that is NaN is told and not refused.
Figure = Annotated[str, StringConstraints(max_length=32)]


Duration = Annotated[
    str,
    StringConstraints(min_length=1, max_length=20),
    Rules(
        _formed(_DURATION_PATTERN, "'{self}' is not a duration; write numbers with units, such as 200ms, 30s or 1m30s")
    ),
]


def seconds(duration: str) -> float:
    """Of a `Duration`."""
    return sum(int(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(duration))


def duration_between(path: str, least: str, most: str, attribute: str) -> Rule:
    """A rule of a model: its duration at `path`, where there is one, lies between the two, both included. `attribute`
    is the field's name in Python."""

    def holds(model: Any) -> bool:
        given = getattr(model, attribute)
        return given is None or seconds(least) <= seconds(given) <= seconds(most)

    return Rule(
        f"!has(self.{path}) || !{cel_matches(f'self.{path}', _DURATION_PATTERN)}"
        f" || (duration(self.{path}) >= duration('{least}') && duration(self.{path}) <= duration('{most}'))",
        f"{path} is '{{self.{path}}}'; write {least} to {most}",
        holds,
        field=path,
    )


def cel_is_fraction(expression: str) -> str:
    return cel_matches(expression, _FRACTION_PATTERN)


def cel_is_decimal(expression: str) -> str:
    return cel_matches(expression, DECIMAL_PATTERN)


def figure(value: float) -> str:
    """A measured number as status shows it: six significant digits."""
    return f"{value:.6g}"


def to_the_second(at: datetime.datetime) -> str:
    """RFC 3339 in UTC, as Kubernetes writes times."""
    return at.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Time = Annotated[AwareDatetime, Strict(False), PlainSerializer(to_the_second)]
"""RFC 3339, to the second, as Kubernetes writes it."""


def is_quantity(value: int | str) -> bool:
    """A resource quantity that is not negative."""
    return value >= 0 if isinstance(value, int) else re.fullmatch(_QUANTITY_PATTERN, value) is not None


# On each value, so that the API server's error has the resource's name in its path.
Quantity = Annotated[
    int | Annotated[str, StringConstraints(max_length=32)],
    WithJsonSchema({"x-kubernetes-int-or-string": True, "maxLength": 32}),
    Rules(
        Rule(
            f"type(self) == int ? self >= 0 : {cel_matches('string(self)', _QUANTITY_PATTERN)}",
            "'{value}' is not a quantity; write a number with or without a unit, such as 2, 500m or 4Gi",
            is_quantity,
            terms={"value": ("string(self)", str)},
        )
    ),
]
Quantities = Annotated[Mapping[str, Quantity], Field(max_length=16)]
