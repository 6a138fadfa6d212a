"""What a cluster changes on the host, and how all of it is taken back: a bridge, routes, cgroups, a few sysctls.

Everything else that a cluster makes lives in namespaces that end with its processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from devcluster.config import MAX_NODES, Cluster, Node, bridge_of, node_link
from devcluster.progress import run

CGROUPS = Path("/sys/fs/cgroup")
# The kubelet sets these for the whole machine when it starts.
KUBELET_SYSCTLS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
BEFORE = Path("/run/modelwright-devcluster.json")
# Mount points that a node covers with folders of its own.
COVERED = tuple(Path(path) for path in ("/var/lib/kubelet", "/var/lib/cni", "/var/log/containers"))


def ip(*words: object) -> str:
    return run(["ip", *(str(word) for word in words)])


def link_exists(name: str) -> bool:
    return Path("/sys/class/net", name).exists()


def make_bridge(cluster: Cluster) -> None:
    """The cluster's bridge with the control plane's address, and a route to the Services through the first node."""
    if not link_exists(cluster.bridge):
        ip("link", "add", "name", cluster.bridge, "type", "bridge", "forward_delay", 0)
    ip("address", "replace", f"{cluster.address}/{cluster.bridge_range.prefixlen}", "dev", cluster.bridge)
    ip("link", "set", cluster.bridge, "up")
    first = cluster.node(0)
    ip("route", "replace", cluster.service_range, "via", first.address, "dev", cluster.bridge)


def route_pods(cluster: Cluster, node: Node) -> None:
    ip("route", "replace", node.pods, "via", node.address, "dev", cluster.bridge)


def unroute_pods(cluster: Cluster, node: Node) -> None:
    subprocess.run(["ip", "route", "delete", str(node.pods), "dev", cluster.bridge], check=False, capture_output=True)


def remove_links(slot: int) -> None:
    """Removes the bridge and the nodes' links of a slot. Routes go with their links."""
    for name in [*(node_link(slot, index) for index in range(MAX_NODES)), bridge_of(slot)]:
        if link_exists(name):
            subprocess.run(["ip", "link", "delete", name], check=False, capture_output=True)


def routes() -> list[tuple[str, str]]:
    """Destination and device of each IPv4 route."""
    listed = json.loads(
        subprocess.run(["ip", "-json", "-4", "route"], capture_output=True, text=True, check=True).stdout
    )
    return [(route["dst"], route.get("dev", "")) for route in listed]


def _hierarchies() -> Iterator[Path]:
    """The root of each cgroup hierarchy: one of version 2, or one for each controller of version 1."""
    if (CGROUPS / "cgroup.controllers").exists():
        yield CGROUPS
        return
    for path in sorted(CGROUPS.iterdir()):
        if path.is_dir() and not path.is_symlink() and (path / "cgroup.procs").exists():
            yield path


def _delegate(group: Path) -> None:
    """Gives the children of a version 2 group its controllers: by itself they have none."""
    controllers = group / "cgroup.controllers"
    if controllers.exists():
        with contextlib.suppress(OSError):
            (group / "cgroup.subtree_control").write_text(
                " ".join(f"+{name}" for name in controllers.read_text().split())
            )


def _inherit_cpuset(group: Path) -> None:
    """A cpuset group of version 1 starts with no processors and no memory, and takes no process until it has some."""
    for setting in ("cpuset.cpus", "cpuset.mems"):
        file = group / setting
        if (group / "cpuset.sched_load_balance").exists() and not file.read_text().strip():
            file.write_text((group.parent / setting).read_text())


def make_cgroups(path: str) -> None:
    """The cgroup `path` in each hierarchy, as the kubelet expects to find its root."""
    for hierarchy in _hierarchies():
        group = hierarchy
        for part in Path(path).parts:
            _delegate(group)
            group = group / part
            group.mkdir(exist_ok=True)
            _inherit_cpuset(group)
        _delegate(group)


def remove_cgroups(path: str) -> list[Path]:
    """Removes the cgroup `path` and all below it, and its parents where they are empty; returns what could not be
    removed (a group that still holds a process)."""
    left = []
    for hierarchy in _hierarchies():
        top = hierarchy / path
        if top.exists():
            for folder, _, _ in os.walk(top, topdown=False):
                try:
                    Path(folder).rmdir()
                except FileNotFoundError:
                    continue
                except OSError:
                    left.append(Path(folder))
        parent = top.parent
        while parent != hierarchy:
            with contextlib.suppress(OSError):
                parent.rmdir()
            parent = parent.parent
    return left


def cgroup_processes(path: str) -> set[int]:
    """The processes in the cgroup `path` and below it, in any hierarchy."""
    found: set[int] = set()
    for hierarchy in _hierarchies():
        for folder, _, files in os.walk(hierarchy / path):
            if "cgroup.procs" in files:
                with contextlib.suppress(OSError):
                    found.update(int(pid) for pid in Path(folder, "cgroup.procs").read_text().split())
    return found


def read_sysctls() -> dict[str, str]:
    paths = {name: Path("/proc/sys") / name for name in KUBELET_SYSCTLS}
    return {name: path.read_text().strip() for name, path in paths.items() if path.exists()}


def remember() -> None:
    """Writes down what the first cluster finds, for the last to put back: the sysctls, and which of the mount points
    that nodes cover were not there. It lies where a reboot, which resets the sysctls, removes it."""
    made = [str(path) for path in COVERED if not path.exists()]
    for path in COVERED:
        path.mkdir(parents=True, exist_ok=True)
    if not BEFORE.exists():
        BEFORE.write_text(json.dumps({"sysctls": read_sysctls(), "made": made}))


def restore() -> None:
    """Puts back what `remember` wrote down. To be called when no cluster runs."""
    try:
        before = json.loads(BEFORE.read_text())
    except (OSError, ValueError):
        return
    for name, value in before["sysctls"].items():
        path = Path("/proc/sys") / name
        with contextlib.suppress(OSError):
            if path.read_text().strip() != value:
                path.write_text(value)
    for path in before["made"]:
        with contextlib.suppress(OSError):
            Path(path).rmdir()
    BEFORE.unlink()
