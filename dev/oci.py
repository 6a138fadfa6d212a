"""OCI images as data: a layer of one binary, and an image made of another one and one more layer. Pure.

https://github.com/opencontainers/image-spec
"""

from __future__ import annotations

import copy
import dataclasses
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
EPOCH = "1970-01-01T00:00:00Z"
Json = dict[str, Any]


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def encode(document: Json) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer as it is sent: `content` compressed as `media_type` says; `diff_id` is the digest of the plain tar."""

    content: bytes
    media_type: str
    diff_id: str

    @property
    def digest(self) -> str:
        return digest_of(self.content)

    def descriptor(self) -> Json:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.content)}


@dataclasses.dataclass(frozen=True)
class Image:
    """An image's two documents; its layers stand in them by digest."""

    manifest: Json
    config: Json

    @classmethod
    def of(cls, config: Json, layers: Sequence[Json]) -> Image:
        """The image of a config and its layers' descriptors."""
        content = encode(config)
        described = {"mediaType": CONFIG, "digest": digest_of(content), "size": len(content)}
        return cls({"schemaVersion": 2, "mediaType": MANIFEST, "config": described, "layers": list(layers)}, config)


def layer_of_file(name: str, content: bytes) -> Layer:
    """A layer with one executable file in the root folder. The same bytes for the same content, on any machine."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(content), 0o755
        archive.addfile(entry, io.BytesIO(content))
    plain = packed.getvalue()
    return Layer(gzip.compress(plain, compresslevel=1, mtime=0), LAYER_GZIP, digest_of(plain))


def image_from_scratch(layer: Layer, *, entrypoint: Sequence[str], architecture: str, user: str) -> Image:
    config = {
        "created": EPOCH,
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": list(entrypoint), "User": user, "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        "history": [{"created": EPOCH, "created_by": "modelwright dev.images"}],
    }
    return Image.of(config, [layer.descriptor()])


def with_layer(image: Image, layer: Layer, *, created_by: str) -> Image:
    """`image` with one more layer on top. Entrypoint, user and environment stay those of `image`."""
    config = copy.deepcopy(image.config)
    config["rootfs"]["diff_ids"].append(layer.diff_id)
    config.setdefault("history", []).append({"created": config.get("created", EPOCH), "created_by": created_by})
    return Image.of(config, [*image.manifest["layers"], layer.descriptor()])
