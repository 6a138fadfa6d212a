"""A cluster's state folder before anything runs: certificates, configuration, links to programs."""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path

from devcluster import components, configuration, pki, supervise
from devcluster.config import CLUSTER_DOMAIN, MAX_NODES, Cluster, Node
from devcluster.progress import cache_home

PAUSE_IMAGE = "modelwright.dev/devcluster/pause:1"
_KUBEBOX_NAMES = (
    "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl",
    "coredns", "gpu-plugin",
)  # fmt: skip


def write_state(cluster: Cluster, programs: dict[str, Path]) -> None:
    for folder in (cluster.state, cluster.log, cluster.state / "etcd", cluster.state / "store"):
        folder.mkdir(parents=True, exist_ok=True)
    cluster.state.chmod(0o700)
    (cluster.state / "etcd").chmod(0o700)
    path = cluster.state / "cluster.json"
    if not path.exists():
        path.write_text(cluster.to_json())
    _link_binaries(cluster, programs)
    _write_pki(cluster)
    folder = cluster.state / "pki"
    registry_storage = cache_home() / "registry"
    registry_storage.mkdir(parents=True, exist_ok=True)
    configuration.write_files(
        {
            cluster.state / "audit-policy.json": json.dumps(configuration.audit_policy()),
            cluster.state / "Corefile": configuration.corefile(cluster, folder),
            cluster.state / "registry.yml": configuration.registry_configuration(cluster, registry_storage),
        }
    )
    if not node_folders(cluster):
        write_node(cluster, cluster.node(0))
    for index in node_indexes(cluster):
        write_node(cluster, cluster.node(index))
    write_supervisor(cluster)


def _link_binaries(cluster: Cluster, programs: dict[str, Path]) -> None:
    folder = cluster.state / "bin"
    folder.mkdir(exist_ok=True)
    targets = dict.fromkeys(_KUBEBOX_NAMES, programs["kubebox"])
    targets |= {name: path for name, path in programs.items() if name not in {"kubebox"}}
    for name, target in targets.items():
        link = folder / name
        if not link.is_symlink() or link.readlink() != target:
            link.unlink(missing_ok=True)
            link.symlink_to(target)


def _write_pki(cluster: Cluster) -> None:
    folder = cluster.state / "pki"
    folder.mkdir(mode=0o700, exist_ok=True)
    authority = pki.Authority(folder)
    pki.signing_key(folder)
    address = str(cluster.address)
    authority.issue("etcd", "etcd", hosts=[address])
    service = f"kubernetes.default.svc.{CLUSTER_DOMAIN}"
    names = [service.removesuffix(f".{CLUSTER_DOMAIN}"), "kubernetes.default", "kubernetes", "localhost"]
    authority.issue(
        "apiserver", "kube-apiserver", hosts=[address, str(cluster.api_service_address), "127.0.0.1", service, *names]
    )
    authority.issue("apiserver-kubelet", "kube-apiserver-kubelet-client", organization="system:masters")
    pki.Authority(folder, "front-proxy-ca").issue("front-proxy", "front-proxy")
    users = {
        "admin": ("modelwright-admin", "system:masters"),
        "controller-manager": ("system:kube-controller-manager", ""),
        "scheduler": ("system:kube-scheduler", ""),
        "kube-proxy": ("system:kube-proxy", ""),
        "coredns": ("system:coredns", ""),
    }
    for file, (user, organization) in users.items():
        certificate, key = authority.issue(file, user, organization=organization)
        path = cluster.kubeconfig if file == "admin" else folder / f"{file}.kubeconfig"
        pki.write_kubeconfig(
            path, context=cluster.context, server=cluster.api_url, authority=authority,
            certificate=certificate, key=key, user=user if file != "admin" else cluster.context,
        )  # fmt: skip


def write_node(cluster: Cluster, node: Node) -> None:
    folder = cluster.state / "pki"
    authority = pki.Authority(folder)
    user = f"system:node:{node.name}"
    certificate, key = authority.issue(
        node.name, user, organization="system:nodes", hosts=[str(node.address), node.name]
    )
    pki.write_kubeconfig(
        folder / f"{node.name}.kubeconfig", context=cluster.context, server=cluster.api_url, authority=authority,
        certificate=certificate, key=key, user=user,
    )  # fmt: skip
    (node.folder / "log").mkdir(parents=True, exist_ok=True)
    node.images.mkdir(parents=True, exist_ok=True)
    configuration.write_files(
        {
            node.folder / "containerd.toml": configuration.containerd_configuration(node, PAUSE_IMAGE),
            node.folder / "registries" / cluster.registry / "hosts.toml": configuration.registry_hosts(cluster),
            node.folder / "cni" / "10-modelwright.conflist": configuration.cni_configuration(cluster, node),
            node.folder / "kubelet.json": configuration.kubelet_configuration(cluster, node, folder),
            node.folder / "kube-proxy.json": configuration.kube_proxy_configuration(cluster, node, folder),
            node.folder / "resolv.conf": f"nameserver {cluster.address}\n",
            node.folder / "supervisord.conf": supervise.configuration(
                node.folder,
                components.node_components(cluster, node, cluster.state / "bin", folder),
                log=node.folder / "log",
                marker=f"{cluster.name}/{node.name}",
            ),
        }
    )


def store_credentials(cluster: Cluster) -> components.Credentials:
    path = cluster.state / "store-credentials.json"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(
            json.dumps({"access_key": f"mw{secrets.token_hex(8)}", "secret_key": secrets.token_urlsafe(24)})
        )
    return components.Credentials(**json.loads(path.read_text()))


def write_supervisor(cluster: Cluster) -> None:
    parts = [
        *components.control_plane(cluster, cluster.state / "bin", cluster.state / "pki", store_credentials(cluster)),
        *(components.node_launcher(cluster, cluster.node(index), sys.executable) for index in node_indexes(cluster)),
    ]
    text = supervise.configuration(cluster.state, parts, log=cluster.log, marker=cluster.name)
    path = cluster.state / "supervisord.conf"
    if not path.exists() or path.read_text() != text:
        path.touch(mode=0o600)
        path.write_text(text)


def node_folders(cluster: Cluster) -> list[int]:
    return [index for index in range(MAX_NODES) if cluster.node(index).folder.exists()]


def node_indexes(cluster: Cluster) -> list[int]:
    """The nodes that belong to the cluster and were not killed."""
    return [index for index in node_folders(cluster) if not (cluster.node(index).folder / "killed").exists()]
