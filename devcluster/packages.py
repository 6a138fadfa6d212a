"""Debian packages that the devcluster and the image builds need, installed where they are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from devcluster.progress import StepFailed, Steps, cache_home, run

# What each package is looked up by: a command on PATH, or a file.
_PROVES = {
    "buildah": "buildah",
    "containerd": "containerd",
    "containernetworking-plugins": "/usr/lib/cni/ptp",
    "iproute2": "ip",
    "mmdebstrap": "mmdebstrap",
    "nftables": "nft",
    "runc": "runc",
    "util-linux": "unshare",
}
CLUSTER_PACKAGES = ("containerd", "runc", "containernetworking-plugins", "nftables", "iproute2", "util-linux")
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


def _is_there(package: str) -> bool:
    proof = _PROVES.get(package, package)
    if proof.startswith("/"):
        return os.path.exists(proof)  # noqa: PTH110 - a plain question about a plain path
    return shutil.which(proof, path=f"{os.environ.get('PATH', '')}:{_SBIN}") is not None


def missing_packages(packages: Sequence[str]) -> list[str]:
    return [package for package in packages if not _is_there(package)]


def ensure_packages(steps: Steps, packages: Sequence[str]) -> None:
    """Installs those of `packages` that are not there. Raises `StepFailed`, which names them, where it cannot."""
    missing = missing_packages(packages)
    if not missing:
        return
    names = " ".join(missing)
    remedy = f"install {names} by hand, or give this machine a reachable Debian mirror (apt-get update)"
    if shutil.which("apt-get") is None:
        raise StepFailed(f"{names}: not installed, and there is no apt-get here to install them with", remedy=remedy)
    if os.geteuid() != 0:
        raise StepFailed(
            f"{names}: not installed, and only root may install them", remedy=f"sudo apt-get install {names}"
        )
    log = cache_home() / "logs" / "apt.log"
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    # A package's own start-up (Debian's containerd starts a service) has no place here: the devcluster runs its own.
    with steps.step(f"install {names}", key="install packages", usual=25):
        # One mirror of several that does not answer need not matter; if it does, it is why the install fails.
        reason = ""
        try:
            run(["apt-get", "-o", "Acquire::Retries=2", "update", "-qq", "--error-on=any"], log=log, env=environment)
        except StepFailed as failed:
            reason = failed.reason
        try:
            run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], log=log, env=environment)
        except StepFailed as failed:
            why = reason or failed.reason
            raise StepFailed(f"{names}: not installed, and cannot be: {why}", remedy=remedy, log=log) from failed
        _stop_services(missing)
    still_missing = missing_packages(packages)
    if still_missing:
        raise StepFailed(f"{' '.join(still_missing)}: installed, but not found afterwards", remedy=remedy, log=log)


def _stop_services(packages: Sequence[str]) -> None:
    if "containerd" in packages and os.path.isdir("/run/systemd/system"):  # noqa: PTH112
        subprocess.run(["systemctl", "disable", "--now", "containerd"], check=False, capture_output=True)
