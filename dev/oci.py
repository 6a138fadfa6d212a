"""OCI images as data: an image made of another one and one more layer, and a layer of one binary. Pure.

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
LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
EPOCH = "1970-01-01T00:00:00Z"
Json = dict[str, Any]


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def encode(document: Json) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


@dataclasses.dataclass(frozen=True)
class Descriptor:
    """A layer in a registry: `digest` and `size` in bytes are those of the compressed tar, `diff_id` the digest of the
    plain one."""

    media_type: str
    digest: str
    size: int
    diff_id: str

    def to_json(self) -> Json:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


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


def layers_of(image: Image) -> tuple[Descriptor, ...]:
    """The layers of an image, the lowest first. Raises ValueError where its two documents disagree on their number."""
    pairs = zip(image.manifest["layers"], image.config["rootfs"]["diff_ids"], strict=True)
    return tuple(Descriptor(layer["mediaType"], layer["digest"], layer["size"], diff_id) for layer, diff_id in pairs)


def layer_of_file(name: str, content: bytes) -> tuple[Descriptor, bytes]:
    """A layer with one executable file, and its bytes: the same for the same content, on any machine."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(content), 0o755
        archive.addfile(entry, io.BytesIO(content))
    plain = packed.getvalue()
    blob = gzip.compress(plain, compresslevel=1, mtime=0)
    return Descriptor(LAYER_GZIP, digest_of(blob), len(blob), digest_of(plain)), blob


def image_from_scratch(layer: Descriptor, *, architecture: str, settings: Json) -> Image:
    """An image of one layer; `settings` are the config's: Entrypoint, User, and so on."""
    config = {
        "created": EPOCH,
        "architecture": architecture,
        "os": "linux",
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        "history": [{"created": EPOCH, "created_by": "modelwright dev.images"}],
    }
    return Image.of(config, [layer.to_json()])


def with_layer(image: Image, layer: Descriptor, *, created_by: str) -> Image:
    """`image` with one more layer on top. Entrypoint, user and environment stay those of `image`."""
    config = copy.deepcopy(image.config)
    config["rootfs"]["diff_ids"].append(layer.diff_id)
    config.setdefault("history", []).append({"created": config.get("created", EPOCH), "created_by": created_by})
    return Image.of(config, [*image.manifest["layers"], layer.to_json()])
