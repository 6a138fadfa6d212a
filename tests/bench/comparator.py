"""The controller in Go that the operator is measured against, built from `go/controller` once and kept by content."""

from __future__ import annotations

import hashlib
from pathlib import Path

from devcluster import binaries
from devcluster.progress import Steps, cache_home, run

MODULE = Path(__file__).parent / "go" / "controller"


def build(steps: Steps) -> Path:
    """The path of the binary. Its name holds a hash of the module's files and of the Go version."""
    go, version = binaries.find_go(steps)
    digest = hashlib.sha256(version.encode())
    for path in sorted(MODULE.iterdir()):
        digest.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    binary = cache_home() / "bin" / f"bench-controller-{digest.hexdigest()[:16]}"
    if not binary.exists():
        with steps.step("build the bench's controller in Go", usual=90):
            fresh = binary.with_suffix(".new")
            run(
                [go, "build", "-ldflags", "-s -w", "-o", fresh, "."],
                cwd=MODULE,
                env={"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false", "GOWORK": "off"},
                log=cache_home() / "logs" / "build-bench-controller.log",
                remedy="the Go module proxy must be reachable for the first build (see `go env GOPROXY`)",
            )
            fresh.replace(binary)
    return binary
