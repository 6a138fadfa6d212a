"""A node: namespaces of its own for network, mounts, processes and host name, with containerd, kubelet, kube-proxy.

As with a machine, killing its first process ends everything on it: containers, mounts, interfaces, packet rules.
`launch` runs in the cluster's supervisor, connects the node to the bridge and becomes `unshare`; `initialize` is the
node's first process and becomes its supervisor.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from devcluster import host
from devcluster.config import MAX_NODES, Cluster, Node
from devcluster.progress import run

LINK = "eth0"


def load(state: Path) -> Cluster:
    return Cluster.from_json((state / "cluster.json").read_text())


def launch(cluster: Cluster, node: Node) -> None:
    """Gives the node a network namespace that is on the bridge, then replaces this process by `unshare`."""
    namespace = node.folder / "netns"
    subprocess.run(["umount", "--quiet", str(namespace)], check=False, capture_output=True)
    if host.link_exists(node.host_link):
        host.ip("link", "delete", node.host_link)
    namespace.touch()
    run(["unshare", f"--net={namespace}", "true"])
    host.ip(
        "link",
        "add",
        "name",
        node.host_link,
        "type",
        "veth",
        "peer",
        "name",
        LINK,
        "address",
        node.mac,
        "netns",
        namespace,
    )
    host.ip("link", "set", node.host_link, "master", cluster.bridge, "up")
    host.route_pods(cluster, node)
    inside = ["nsenter", f"--net={namespace}"]
    os.execvp(  # noqa: S606 - no shell is wanted
        inside[0],
        [
            *inside,
            "unshare", "--mount", "--pid", "--ipc", "--uts", "--propagation", "private",
            "--fork", "--kill-child=SIGKILL",
            sys.executable, "-m", "devcluster.node", "initialize", str(cluster.state), str(node.index),
        ],
    )  # fmt: skip


def initialize(cluster: Cluster, node: Node) -> None:
    """The node's boot: mounts, host name, network; then its supervisor takes this process's place as PID 1."""
    # Mounts of the kubelet must reach containerd and the containers, but never the host.
    run(["mount", "--make-rshared", "/"])
    run(["mount", "-t", "proc", "proc", "/proc"])
    run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run"])
    for covered in host.COVERED:
        own = node.folder / "covered" / covered.name
        own.mkdir(parents=True, exist_ok=True)
        run(["mount", "--bind", own, covered])
    run(["hostname", node.name])
    _network(cluster, node)
    host.make_cgroups(f"{cluster.cgroup}/{node.name}")
    configuration = node.folder / "supervisord.conf"
    os.execv(  # noqa: S606 - no shell is wanted
        sys.executable, [sys.executable, "-m", "supervisor.supervisord", "-c", str(configuration)]
    )


def _network(cluster: Cluster, node: Node) -> None:
    host.ip("link", "set", "lo", "up")
    host.ip("address", "add", f"{node.address}/{cluster.bridge_range.prefixlen}", "dev", LINK)
    host.ip("link", "set", LINK, "up")
    sysctls = {
        "net/ipv4/ip_forward": "1",
        "net/ipv4/conf/all/rp_filter": "0",
        "net/ipv4/conf/default/rp_filter": "0",
        "net/ipv4/conf/all/send_redirects": "0",
        "net/ipv4/conf/default/send_redirects": "0",
    }
    for name, value in sysctls.items():
        Path("/proc/sys", name).write_text(value)
    # Each node knows where the others' pods are, and a Service's address needs some route before kube-proxy's rules
    # turn it into a pod's. There is no default route: nothing leaves the machine.
    for index in range(MAX_NODES):
        other = cluster.node(index)
        if other.index != node.index:
            host.ip("route", "add", other.pods, "via", other.address)
    host.ip("route", "add", cluster.service_range, "dev", LINK)


def main(arguments: list[str]) -> None:
    action, state, index = arguments
    cluster = load(Path(state))
    node = cluster.node(int(index))
    {"launch": launch, "initialize": initialize}[action](cluster, node)


if __name__ == "__main__":
    main(sys.argv[1:])
