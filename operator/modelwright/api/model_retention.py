"""Which versions of a model are kept, and what becomes of the others and of what they leave in the store."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from modelwright.api.base import ApiModel, StatusModel, StatusRef
from modelwright.api.rules import Rule
from modelwright.api.storage import StoreReach
from modelwright.api.types import Duration, Items, Time, Version, duration_between, each_once

RETIRING = 16
"""So many versions are deleted at a time."""


class Retention(ApiModel):
    """Which versions are kept. What a channel points at or names, or did, is kept whatever this says, and so is what is
    served, what another version that is kept was made of, and what is not Ready. Only versions that the operator made,
    for a TrainingJob, are deleted, never one that somebody wrote."""

    keep_last: int = Field(
        ge=1, le=1000, description="The newest so many, in the order of SemVer, of the originals and of each variant."
    )
    pinned: Annotated[Items[Version], Field(max_length=256), each_once("version", str)] | None = Field(
        default=None,
        description="Versions that are kept, with their variants.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    min_age: Duration = Field(
        default="24h",
        description="What was written to the store since is not removed, though nothing refers to it: it may be a part"
        " of a version that is being published.",
    )
    every: Duration = Field(
        default="24h", description="How often the store is looked through. After a deletion it is at once."
    )
    storage: StoreReach | None = Field(
        default=None, description="How the Job that removes artifacts reaches the store that they lie in."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        duration_between("minAge", "1h", "8760h", "min_age"),
        duration_between("every", "1h", "8760h", "every"),
    )


class RetiredVersion(StatusRef):
    """A version that is not kept: the name of its ModelVersion, and its artifact."""

    uid: str = Field(max_length=64, description="The ModelVersion's uid.")
    uri: str = Field(max_length=1024, description="The artifact's manifest.")
    digest: str = Field(max_length=71, description="sha256 of the manifest.")


class RetentionStatus(StatusModel):
    """What became of versions that are not kept."""

    retiring: Items[RetiredVersion] | None = Field(
        default=None,
        max_length=RETIRING,
        description="Versions that are being deleted, first in the cluster, then in the store.",
    )
    retired: int = Field(default=0, ge=0, description="How many versions were deleted, over all.")
    collected_at: Time | None = Field(default=None, description="When the store was looked through last.")
    collected_by: str | None = Field(default=None, max_length=64, description="The uid of the Job that did.")
    freed_bytes: int = Field(default=0, ge=0, description="What was removed from the store, over all.")
    last_freed_bytes: int | None = Field(default=None, ge=0, description="What was removed the last time.")
    blobs: int | None = Field(default=None, ge=0, description="Files that are left in the model's folder.")
    bytes: int | None = Field(default=None, ge=0, description="Their size.")
    message: str | None = Field(
        default=None, max_length=1024, description="Why the store could not be looked through; it is tried again."
    )
