"""An OCI image of one static program, as an archive that containerd imports: for the pods' sandbox, which must be there
before anything can be pulled."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def _tar(files: dict[str, tuple[bytes, int]]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, (data, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))
    return content.getvalue()


def write_archive(path: Path, reference: str, program: Path) -> None:
    """Writes the image `reference`, whose one file and entry point is `program`, to the archive `path`."""
    layer = _tar({program.name.split("-")[0]: (program.read_bytes(), 0o755)})
    blobs: dict[str, tuple[bytes, int]] = {}

    def add(data: bytes, media_type: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = (data, 0o644)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    layer_descriptor = add(layer, "application/vnd.oci.image.layer.v1.tar")
    configuration = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": [f"/{program.name.split('-')[0]}"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [layer_descriptor["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": add(json.dumps(configuration).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [layer_descriptor],
    }
    descriptor = add(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
    descriptor["annotations"] = {"io.containerd.image.name": reference}
    index = {"schemaVersion": 2, "manifests": [descriptor]}
    path.write_bytes(
        _tar(
            {
                "oci-layout": (b'{"imageLayoutVersion":"1.0.0"}', 0o644),
                "index.json": (json.dumps(index).encode(), 0o644),
                **blobs,
            }
        )
    )
