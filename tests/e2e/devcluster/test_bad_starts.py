"""Bad starts end at once, in a sentence that says what is wrong and what to do. Each is the real command."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devcluster import packages

PROJECT = Path(__file__).parents[3]
NAME = "e2e-bad"


@pytest.fixture
def state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = Path("/var/tmp") / f"mw-{os.getpid()}"  # noqa: S108 - short, and not readable by others until made
    folder.mkdir(mode=0o700)
    yield folder
    devcluster("down", folder)
    shutil.rmtree(folder, ignore_errors=True)


def devcluster(
    command: str, home: Path, *options: str, environment: dict[str, str] | None = None, user: str = ""
) -> subprocess.CompletedProcess[str]:
    """`python -m devcluster COMMAND`, as a person calls it."""
    words = [sys.executable, "-m", "devcluster", command, "--name", NAME, *options]
    if user:
        words = ["setpriv", f"--reuid={user}", "--clear-groups", *words]
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        cwd=PROJECT,
        env={**os.environ, "MODELWRIGHT_STATE": str(home), **(environment or {})},
        timeout=300,
        check=False,
    )


def refused(run: subprocess.CompletedProcess[str], *words: str) -> None:
    assert run.returncode == 1, run.stderr
    for word in words:
        assert word in run.stderr
    assert "Traceback" not in run.stderr


def nothing_started(home: Path) -> None:
    assert not (home / NAME / "init.json").exists()


def test_a_port_in_use_is_named_with_who_uses_it(state_home: Path) -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))  # noqa: S104 - as a careless program does
        other.listen()
        port = other.getsockname()[1]
        run = devcluster("up", state_home, "--slot", "29", "--api-port", str(port))
    refused(run, f"port {port} (api) on 10.88.29.1 is in use by", f"pid {os.getpid()}", "--api-port")
    nothing_started(state_home)


def test_too_little_disk_is_told_with_how_much_is_needed(state_home: Path) -> None:
    small = state_home / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64M", "tmpfs", small], check=True)
    try:
        run = devcluster("up", small, "--slot", "29")
    finally:
        subprocess.run(["umount", small], check=True)
    refused(run, "0.1 GiB free, and 2.0 GiB are needed", "MODELWRIGHT_STATE")


def test_one_who_is_not_root_is_told(state_home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    readable = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-c", "import devcluster"],
        cwd=PROJECT, check=False, capture_output=True,
    )  # fmt: skip
    if readable.returncode != 0:
        # The interpreter is in root's home, which nobody else can read: a user namespace without root's number does as
        # well, since what is asked is the number.
        words = ["unshare", "--user", "--map-user=1000", sys.executable, "-m", "devcluster", "up", "--name", NAME]
        run = subprocess.run(words, capture_output=True, text=True, cwd=PROJECT, timeout=60, check=False)
    else:
        run = devcluster("up", state_home, user="65534")
    refused(run, "only root may", "sudo", "CONTEXT=")


def test_containerd_missing_without_a_network_is_told(state_home: Path) -> None:
    """In a mount namespace of its own containerd is neither there nor known to dpkg, nothing that apt fetched before is
    there, and there is no network."""
    containerd = shutil.which("containerd") or "/usr/bin/containerd"
    hide = f"""
        set -e
        mount -t tmpfs tmpfs /mnt
        cp -a /var/lib/dpkg /mnt/dpkg
        sed -i '/^Package: containerd$/,/^$/d' /mnt/dpkg/status
        mount --bind /mnt/dpkg /var/lib/dpkg
        mount -t tmpfs tmpfs /var/cache/apt/archives
        mkdir /var/cache/apt/archives/partial
        : > /mnt/no-program
        [ ! -e {containerd} ] || mount --bind /mnt/no-program {containerd}
        exec {sys.executable} -m devcluster up --name {NAME} --slot 29
    """
    run = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "--net", "sh", "-c", hide],
        capture_output=True, text=True, cwd=PROJECT, timeout=300, check=False,
        env={**os.environ, "MODELWRIGHT_STATE": str(state_home)},
    )  # fmt: skip
    refused(run, "containerd: not installed, and cannot be: apt-get failed", "install containerd by hand", "log:")
    nothing_started(state_home)


def test_a_stale_state_folder_is_told_and_down_removes_it(state_home: Path) -> None:
    folder = state_home / NAME
    folder.mkdir()
    (folder / "cluster.json").write_text('{"name": "old"')
    refused(devcluster("up", state_home, "--slot", "29"), "cluster.json is damaged, or of another version", "make down")
    assert devcluster("down", state_home).returncode == 0
    assert not folder.exists()


def test_a_folder_that_is_no_cluster_s_is_left_alone(state_home: Path) -> None:
    folder = state_home / NAME
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    for command in ("up", "down"):
        refused(devcluster(command, state_home), "is not empty and no cluster's state folder")
    assert (folder / "thesis.tex").read_text() == "precious"


def test_a_range_that_the_machine_already_routes_is_named(state_home: Path) -> None:
    subprocess.run(["ip", "route", "add", "10.200.7.0/24", "dev", "lo"], check=True)
    try:
        run = devcluster("up", state_home, "--slot", "29", "--pod-range", "10.200.0.0/16")
    finally:
        subprocess.run(["ip", "route", "delete", "10.200.7.0/24", "dev", "lo"], check=True)
    refused(run, "pod range 10.200.0.0/16: this machine already has a route to 10.200.7.0/24 through lo", "--pod-range")
    nothing_started(state_home)


def test_no_apt_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "missing_packages", lambda _: ["containerd"])
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(packages.StepFailed, match="there is no apt-get here"):
        packages.ensure_packages(None, ["containerd"])  # type: ignore[arg-type]
