"""The base image: Debian with Python, pulled where a container registry can be reached, else made by mmdebstrap.

Both ways read the same files in `base_image/`. The result is kept under the hash of those files, in buildah's storage
and as an archive in the cache, so that one cache has one base image and the images on it share its layer.
"""

from __future__ import annotations

import platform
import shlex
import tempfile
import time
from pathlib import Path

from dev import buildah, inputs
from dev.buildah import PREFIX, ROOT
from devcluster.packages import ensure_packages
from devcluster.progress import StepFailed, Steps, run

DEBIAN = "trixie"
PULLED = "debian:trixie-slim"
_PULL_SECONDS = 20
_NO_REGISTRY_SECONDS = 3600
# What the base image has that the Dockerfile does not say: raise it where a change here changes the image.
_FORMAT = "1"


def key(root: Path = ROOT) -> str:
    """The hash of what the base image is made from; images that are built on it have it among their inputs."""
    stages, files = inputs.stage_inputs(root, "base_image/Dockerfile")
    return inputs.tag(stages, files, {"format": _FORMAT, "machine": platform.machine()})


def packages(listed: str) -> list[str]:
    """The names in packages.txt."""
    return [line.strip() for line in listed.splitlines() if line.strip() and not line.startswith("#")]


def _archive() -> Path:
    return buildah.images_home() / f"base-{key()}.tar"


def ensure_base(steps: Steps) -> str:
    """The base image's reference in buildah's storage, after it was found, imported or made there."""
    buildah.ensure_buildah(steps)
    reference = f"{PREFIX}/base:{key()}"
    if buildah.has_image(reference):
        return reference
    archive = _archive()
    if archive.exists():
        try:
            with steps.step("import the base image", usual=4):
                pulled = buildah.buildah("pull", "--quiet", f"oci-archive:{archive}").strip().splitlines()[-1]
                buildah.buildah("tag", pulled, reference)
        except StepFailed as failed:
            steps.say(f"  ! the kept base image is of no use ({failed.reason}); making it again")
        else:
            return reference
    if not (_registry_answers(steps) and _build_from_registry(steps, reference)):
        _build_from_packages(steps, reference)
    with steps.step("keep the base image", usual=4):
        fresh = archive.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        buildah.buildah("push", "--quiet", "--format", "oci", *buildah.COMPRESSION, reference, f"oci-archive:{fresh}")
        fresh.replace(archive)
    return reference


def _no_registry() -> Path:
    return buildah.images_home() / "no-registry"


def _registry_answers(steps: Steps) -> bool:
    """Whether Debian's image could be pulled. A no is remembered for an hour: where there is no way out, each attempt
    costs as long as the network takes to say so."""
    marker = _no_registry()
    if marker.exists() and time.time() - marker.stat().st_mtime < _NO_REGISTRY_SECONDS:
        return False
    with steps.step(f"pull {PULLED}", usual=8) as step:
        try:
            buildah.buildah("pull", "--quiet", PULLED, timeout=_PULL_SECONDS)
        except StepFailed:
            step.note("no container registry in reach: the base image is made from Debian's packages instead")
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()
            return False
    return True


def _build_from_registry(steps: Steps, reference: str) -> bool:
    trusted = Path("/etc/ssl/certs")
    options = ("-v", f"{trusted}:{trusted}:ro") if trusted.is_dir() else ()
    try:
        with steps.step("build the base image", usual=40) as step:
            buildah.build("base_image/Dockerfile", reference, options=options, step=step)
    except StepFailed as failed:
        steps.say(f"    {failed.reason}: the base image is made from Debian's packages here")
        return False
    return True


def _build_from_packages(steps: Steps, reference: str) -> None:
    ensure_packages(steps, ("mmdebstrap",))
    recipe = ROOT / "base_image"
    buildah.images_home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=buildah.images_home(), prefix="base-") as folder:
        root = Path(folder) / "root.tar"
        with steps.step("make the base image from Debian's packages", usual=60) as step:
            run(
                [
                    "mmdebstrap", "--variant=minbase", f"--dpkgopt={recipe / 'dpkg.cfg'}", "--skip=output/dev",
                    f"--include={','.join(packages((recipe / 'packages.txt').read_text()))}",
                    f'--customize-hook=chroot "$1" sh -s < {shlex.quote(str(recipe / "finish.sh"))}', DEBIAN, root,
                ],
                log=buildah.log_path(),
                on_line=lambda line: step.note(line.removeprefix("I: ")[:70]) if line.startswith("I: ") else None,
                remedy="give this machine a reachable Debian mirror, or a container registry",
            )  # fmt: skip
        with steps.step("import the base image", usual=4):
            (Path(folder) / "Dockerfile").write_text(
                "FROM scratch\nADD root.tar /\nENV LANG=C.UTF-8 PATH=/usr/local/bin:/usr/bin:/bin\n"
            )
            buildah.buildah(
                "bud", "--isolation", "chroot", "--layers=false", "--format", "oci", "-t", reference, folder
            )
