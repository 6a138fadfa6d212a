"""Where objects lie: the store that a user names, and the artifacts in it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from modelwright.api.base import ApiModel, LocalRef, StatusModel, StatusRef
from modelwright.api.types import Endpoint, Items, StoreUri

_REGION = Field(
    default=None,
    min_length=1,
    max_length=64,
    pattern="^[a-z0-9-]+$",
    description="The region of the S3 API. Left out: the operator's, else AWS_REGION of the Secret, else us-east-1.",
)


class StoreReach(ApiModel):
    """How to reach a store whose URI is known. What is left out comes from the operator's configuration."""

    endpoint: Endpoint | None = Field(
        default=None,
        description="The S3 API. Left out: the operator's, else AWS_ENDPOINT_URL of the Secret, or Amazon's.",
    )
    region: str | None = _REGION
    secret_ref: LocalRef | None = Field(
        default=None,
        description="A Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. The pods get it; the operator does not"
        " read it.",
    )


class Storage(StoreReach):
    """A store, and how to reach it. What is left out comes from the operator's configuration; what was used is in
    status.storage."""

    uri: StoreUri | None = Field(
        default=None,
        description="Where artifacts and checkpoints go: s3://bucket/path, or file:///path on a volume that"
        " workers.podTemplate mounts.",
    )


class StorageStatus(StatusModel):
    """The store that is used, with what came from the operator's configuration."""

    uri: str = Field(max_length=1024, description="Where artifacts and checkpoints go.")
    endpoint: str | None = Field(default=None, max_length=256, description="Address of the S3 API.")
    region: str | None = Field(default=None, max_length=64, description="The region of the S3 API.")
    secret_ref: StatusRef | None = Field(default=None, description="The Secret with the credentials.")


class ArtifactRef(StatusModel):
    """A published artifact."""

    uri: str = Field(max_length=1024, description="The artifact's manifest.")
    digest: str = Field(max_length=71, description="sha256 of the manifest, which names all files by theirs.")


class ArtifactStatus(ArtifactRef):
    """A published artifact, with what its manifest says."""

    bytes: int | None = Field(default=None, ge=0, description="Size of all files together.")
    formats: Items[Annotated[str, StringConstraints(max_length=32)]] | None = Field(
        default=None, max_length=8, description="What can run it: onnx, hf (a Hugging Face directory), native."
    )
