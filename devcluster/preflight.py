"""What is looked at before anything is started, so that a bad start ends in one clear sentence."""

from __future__ import annotations

import errno
import ipaddress
import os
import shutil
import socket
import sys
from pathlib import Path

import psutil

from devcluster import host
from devcluster.config import Cluster
from devcluster.progress import StepFailed, cache_home

# A first start builds the binaries (3 GB of modules and build cache); later ones write little. Images come on top and
# are checked where they are built.
FIRST_START_BYTES = 8 << 30
START_BYTES = 2 << 30
_IP_FREEBIND = 15  # <linux/in.h>; Python's socket module has no name for it


def require_linux_root() -> None:
    if sys.platform != "linux":
        raise StepFailed(
            f"the devcluster runs on Linux, and this is {sys.platform}",
            remedy="use a cluster of your own: CONTEXT=<kube-context> REGISTRY=<host:port> make …",
        )
    if os.geteuid() != 0:
        raise StepFailed(
            "the devcluster makes network namespaces, mounts and cgroups: only root may",
            remedy="run it with sudo, or use a cluster of your own: CONTEXT=<kube-context> REGISTRY=<host:port> make …",
        )


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def require_disk(*, first: bool, folders: tuple[Path, ...]) -> None:
    """`MODELWRIGHT_NEED_BYTES` overrides what is asked for, in bytes."""
    need = int(os.environ.get("MODELWRIGHT_NEED_BYTES") or (FIRST_START_BYTES if first else START_BYTES))
    for folder in folders:
        free = shutil.disk_usage(_existing(folder)).free
        if free < need:
            raise StepFailed(
                f"{folder}: {free / 2**30:.1f} GiB free, and {need / 2**30:.1f} GiB are needed",
                remedy="free some space, or move the caches (MODELWRIGHT_CACHE) or the state (MODELWRIGHT_STATE)",
            )


def require_kernel() -> None:
    for path, what in (
        ("/proc/self/ns/net", "network namespaces"),
        ("/proc/self/ns/pid", "PID namespaces"),
        ("/sys/fs/cgroup", "cgroups"),
    ):
        if not Path(path).exists():
            raise StepFailed(f"this kernel has no {what}", remedy="use a cluster of your own: CONTEXT=<kube-context>")
    overlay = any(line.split()[-1] == "overlay" for line in Path("/proc/filesystems").read_text().splitlines())
    if not overlay and os.system("modprobe -q overlay") != 0:  # noqa: S605
        raise StepFailed("this kernel has no overlay file system", remedy="modprobe overlay")


def _listener(port: int) -> str:
    """Who listens on the port, in words; empty where that cannot be told."""
    for connection in psutil.net_connections(kind="inet"):
        if connection.status not in {psutil.CONN_LISTEN, psutil.CONN_NONE} or not connection.laddr:
            continue
        if connection.laddr.port == port and connection.pid:
            try:
                return f"{psutil.Process(connection.pid).name()}, pid {connection.pid}"
            except psutil.NoSuchProcess:
                continue
    return ""


def _can_bind(address: str, port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)  # the bridge's address may not be there yet
        try:
            probe.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def require_ports(cluster: Cluster) -> None:
    """Each port on the bridge's address must be free: a process that listens on 0.0.0.0 holds it there too."""
    for name, port in vars(cluster.ports).items():
        kinds = [socket.SOCK_STREAM, *([socket.SOCK_DGRAM] if name == "dns" else [])]
        for kind in kinds:
            if not _can_bind(str(cluster.address), port, kind):
                who = _listener(port)
                option = f"--{name.replace('_', '-')}-port"
                raise StepFailed(
                    f"port {port} ({name}) on {cluster.address} is in use{f' by {who}' if who else ''}",
                    remedy=f"stop that process, or choose another port with {option}",
                )


def require_ranges(cluster: Cluster) -> None:
    """No route of the machine may overlap the cluster's ranges: packets would go the wrong way, in one of the two."""
    ranges = {"bridge": cluster.bridge_range, "pod": cluster.pod_range, "service": cluster.service_range}
    for destination, device in host.routes():
        if destination == "default" or device == cluster.bridge:
            continue
        network = ipaddress.IPv4Network(destination if "/" in destination else f"{destination}/32")
        for name, taken in ranges.items():
            if network.overlaps(taken):
                raise StepFailed(
                    f"{name} range {taken}: this machine already has a route to {destination} through {device}",
                    remedy=f"choose another with --{name}-range, or another --slot",
                )


def first_start() -> bool:
    return not any((cache_home() / "bin").glob("kubebox-*"))
