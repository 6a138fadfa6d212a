"""What all models of the API share: how fields are named, what is refused, and the frame of a Kubernetes object."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema

from modelwright.api.rules import VALIDATIONS, Rule, cel_matches, check
from modelwright.api.types import NAME_LENGTH, NAME_PATTERN, Time, is_name

GROUP = "modelwright.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
CATEGORY = "modelwright"


class ApiModel(BaseModel):
    """A structure of the API, frozen; camelCase on the wire. Types are those of the CRD: "3" is no integer here either.

    An unknown field is refused: a real object can only have one when its CRD is newer than this operator, and then
    doing as if the user had not written it would be wrong.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        frozen=True,
        strict=True,
        extra="forbid",
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        check(self.rules, self)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        made = handler(schema)
        if cls.rules:
            handler.resolve_ref_schema(made)[VALIDATIONS] = [rule.to_validation() for rule in cls.rules]
        return made

    def to_object(self) -> dict[str, Any]:
        """As it goes over the wire: camelCase, without what is not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class StatusModel(ApiModel):
    """A structure of status. Fields that another version of the operator wrote are passed over, not refused: they are
    nothing that a user asked for. There are bounds and no rules, since a status that is refused tells nobody anything.
    """

    model_config = ConfigDict(extra="ignore")


class Metadata(BaseModel):
    """What the operator reads of an object's metadata."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, frozen=True)

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: datetime.datetime | None = None
    deletion_timestamp: datetime.datetime | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Column:
    """A printer column. Those of priority 1 are printed by `kubectl get --output wide` only."""

    name: str
    path: str
    description: str
    type: Literal["string", "integer", "date"] = "string"
    priority: int = 0

    def to_object(self) -> dict[str, Any]:
        made = {"name": self.name, "type": self.type, "jsonPath": self.path, "description": self.description}
        return {**made, "priority": self.priority} if self.priority else made


AGE = Column("Age", ".metadata.creationTimestamp", "When it was created.", "date")

# Rules on the name stand on the root, where alone metadata.name can be seen. They must never be tightened: status
# writes of objects that they no longer allow would be refused.
NAME_RULE = Rule(
    cel=f"self.metadata.name.size() <= {NAME_LENGTH} && {cel_matches('self.metadata.name', NAME_PATTERN)}",
    message=(
        f"'{{self.metadata.name}}' must have at most {NAME_LENGTH} characters, lower-case letters,"
        " digits and hyphens, and begin with a letter: pods, Services and labels are named after it"
    ),
    holds=lambda obj: is_name(obj.metadata.name),
    field="metadata.name",
)


@dataclasses.dataclass(frozen=True)
class Scale:
    """Where `kubectl scale` and autoscalers find the replicas asked for, those that there are, and the pods' labels."""

    asked: str
    there: str
    selector: str

    def to_object(self) -> dict[str, str]:
        return {
            "specReplicasPath": self.asked,
            "statusReplicasPath": self.there,
            "labelSelectorPath": self.selector,
        }


@dataclasses.dataclass(frozen=True)
class Names:
    """How a kind is called in URLs and by kubectl, and what kubectl prints of it. `main_condition` tells whether it is
    as asked for; `selectable` are the paths that `--field-selector` knows."""

    plural: str
    singular: str
    short: tuple[str, ...]
    main_condition: Literal["Ready", "Succeeded"]
    columns: tuple[Column, ...]
    selectable: tuple[str, ...] = ()
    scale: Scale | None = None


class ApiObject(ApiModel):
    """The frame of each kind; `model_validate(object_from_the_api)` reads one. Of apiVersion and kind, which say which
    model to take, nothing is kept."""

    model_config = ConfigDict(extra="ignore")

    names: ClassVar[Names]
    metadata: Metadata

    @classmethod
    def kind_name(cls) -> str:
        return cls.__name__


class LocalRef(ApiModel):
    """An object of the same namespace, by its name."""

    name: str = Field(min_length=1, max_length=253, description="Name of the object, in the same namespace.")


class StatusRef(StatusModel):
    """An object of the same namespace, as status names it."""

    name: str = Field(max_length=253, description="Name of the object, in the same namespace.")


class UidRef(StatusRef):
    """An object of the same namespace that may be gone since, and replaced by another of its name."""

    uid: str = Field(max_length=64, description="The object's uid, which no later object of this name has.")


__all__ = [
    "AGE", "API_VERSION", "CATEGORY", "GROUP", "NAME_RULE", "VERSION", "ApiModel", "ApiObject", "Column", "LocalRef",
    "Metadata", "Names", "Scale", "StatusModel", "StatusRef", "Time", "UidRef",
]  # fmt: skip
