"""buildah, as this project uses it: builds in a chroot (so without a daemon, and inside a container), with uv and its
cache mounted instead of installed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import ssl
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from devcluster.packages import ensure_packages
from devcluster.progress import Step, StepFailed, Steps, cache_home, run

ROOT = Path(__file__).parent.parent
PREFIX = "localhost/modelwright"
# As dev/layers.py compresses: the fastest level.
COMPRESSION = ("--compression-format", "zstd", "--compression-level", "1")
_MOUNTED = "/mnt/build"
_MOUNTED_CACHE = "/mnt/uv-cache"
# Where this machine's uv gets packages from; what is set here holds inside the builds too.
_PASSED_ON = (
    "UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_INDEX_STRATEGY", "UV_INSECURE_HOST",
    "UV_HTTP_TIMEOUT", "UV_CONCURRENT_DOWNLOADS",
)  # fmt: skip


def images_home() -> Path:
    return cache_home() / "images"


def log_path() -> Path:
    return cache_home() / "logs" / "images.log"


def buildah(*words: str | Path, on_line: Callable[[str], None] | None = None, timeout: float | None = None) -> str:
    return run(["buildah", *words], log=log_path(), on_line=on_line, timeout=timeout)


def ensure_buildah(steps: Steps) -> None:
    ensure_packages(steps, ("buildah",))


def has_image(reference: str) -> bool:
    try:
        buildah("inspect", "--type", "image", "--format", "{{.FromImageID}}", reference)
    except StepFailed:
        return False
    return True


def follow(step: Step) -> Callable[[str], None]:
    """Notes the build's current instruction on `step`."""

    def note(line: str) -> None:
        if line.startswith("STEP ") or "STEP " in line[:12]:
            step.note(re.sub(r"\s+", " ", line)[:70])

    return note


def machine_certificates() -> Path | None:
    """The certificates that this machine trusts, as one file; None where there is no such file."""
    for named in (
        os.environ.get("SSL_CERT_FILE"),
        ssl.get_default_verify_paths().cafile,
        "/etc/ssl/certs/ca-certificates.crt",
    ):
        if named and Path(named).is_file():
            return Path(named)
    return None


def uv_binary() -> Path:
    """uv's own binary, of this environment: what PATH finds may be a script of a version manager, which means nothing
    inside a build."""
    binary = Path(sys.prefix) / "bin" / "uv"
    if not binary.is_file():
        raise StepFailed(f"{binary}: not installed", remedy="make .venv/.ready")
    return binary


def settings(environment: Mapping[str, str], *, certificates: bool, configuration: bool) -> str:
    """The shell lines that a build reads before it calls uv. They are mounted, not written in the image: an index's
    address may hold a password."""
    values = {
        "PATH": f"{_MOUNTED}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "VIRTUAL_ENV": "/opt/venv",
        "UV_CACHE_DIR": _MOUNTED_CACHE,
        "UV_LINK_MODE": "copy",
        "UV_PYTHON_DOWNLOADS": "never",
        "PYC_INVALIDATION_MODE": "UNCHECKED_HASH",
    }
    if certificates:
        values["SSL_CERT_FILE"] = f"{_MOUNTED}/certificates.pem"
    if configuration:
        values["UV_CONFIG_FILE"] = f"{_MOUNTED}/uv.toml"
    values |= {name: environment[name] for name in _PASSED_ON if environment.get(name)}
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())


def _prepare_mounts(into: Path) -> list[str]:
    """Fills the folder that is mounted into builds; returns buildah's options for it and uv's cache."""
    shutil.copy2(uv_binary(), into / "uv")
    certificates = machine_certificates()
    if certificates:
        shutil.copy(certificates, into / "certificates.pem")
    configured = Path(os.environ.get("UV_CONFIG_FILE") or Path.home() / ".config" / "uv" / "uv.toml")
    if configured.is_file():
        shutil.copy(configured, into / "uv.toml")
    text = settings(os.environ, certificates=bool(certificates), configuration=configured.is_file())
    (into / "env").touch(0o600)
    (into / "env").write_text(text)
    uv_cache = Path(run([into / "uv", "cache", "dir"]).strip())
    uv_cache.mkdir(parents=True, exist_ok=True)
    return ["-v", f"{into}:{_MOUNTED}:ro", "-v", f"{uv_cache}:{_MOUNTED_CACHE}:rw"]


def build(
    dockerfile: str,
    reference: str,
    *,
    target: str = "",
    arguments: Mapping[str, str] | None = None,
    uv: bool = False,
    options: tuple[str, ...] = (),
    step: Step,
) -> None:
    """Builds stage `target` ("" for the last) of the Dockerfile at `ROOT/dockerfile` as `reference`; with `uv`, uv
    and its cache are there. Nothing is kept for the next build: what was built is known by its tag in the registry."""
    images_home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=images_home(), prefix="build-") as folder:
        mounted = _prepare_mounts(Path(folder)) if uv else []
        buildah(
            "bud", "--isolation", "chroot", "--layers=false", "--format", "oci", "--pull-never",
            *(("--target", target) if target else ()),
            *(word for name, value in (arguments or {}).items() for word in ("--build-arg", f"{name}={value}")),
            *mounted, *options, "-t", reference, "-f", ROOT / dockerfile, ROOT,
            on_line=follow(step),
        )  # fmt: skip


def push(source: str, repository: str, tag: str, address: str, *, insecure: bool) -> None:
    """Pushes an image; layers that buildah knows to be in that registry are asked for, and not compressed again."""
    verify = f"--tls-verify={str(not insecure).lower()}"
    buildah(
        "push", "--quiet", "--format", "oci", *COMPRESSION, verify, source, f"docker://{address}/{repository}:{tag}"
    )


def remove(reference: str) -> None:
    """Removes an image; one that is in use or gone already is no failure, since nothing depends on its absence."""
    try:
        buildah("rmi", reference)
    except StepFailed:
        return
