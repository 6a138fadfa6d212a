"""What runs in a cluster: each component's command line. Pure.

The control plane runs beside the host's network, on the address of the cluster's bridge; a node runs in namespaces of
its own (see `node.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from devcluster.config import CLUSTER_DOMAIN, Cluster, Node


@dataclasses.dataclass(frozen=True)
class Component:
    """A process that a supervisor keeps running."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    autostart: bool = False
    stop_signal: str = "TERM"


@dataclasses.dataclass(frozen=True)
class Credentials:
    """The store's root credentials."""

    access_key: str
    secret_key: str


def _flags(**flags: object) -> tuple[str, ...]:
    return tuple(f"--{name.replace('_', '-')}={value}" for name, value in flags.items())


def etcd(cluster: Cluster, binaries: Path, pki: Path) -> Component:
    url = f"https://{cluster.address}:{cluster.ports.etcd}"
    peer = f"http://{cluster.address}:{cluster.ports.etcd_peer}"
    return Component(
        "etcd",
        (
            str(binaries / "etcd"),
            *_flags(
                name="devcluster",
                data_dir=cluster.state / "etcd",
                listen_client_urls=url,
                advertise_client_urls=url,
                listen_peer_urls=peer,
                initial_advertise_peer_urls=peer,
                initial_cluster=f"devcluster={peer}",
                trusted_ca_file=pki / "ca.crt",
                cert_file=pki / "etcd.crt",
                key_file=pki / "etcd.key",
                client_cert_auth="true",
                # What the processes wrote is in the page cache whatever becomes of them; only a power cut loses it.
                unsafe_no_fsync="true",
                log_level="warn",
            ),
        ),
    )


def apiserver(cluster: Cluster, binaries: Path, pki: Path) -> Component:
    return Component(
        "kube-apiserver",
        (
            str(binaries / "kube-apiserver"),
            *_flags(
                bind_address=cluster.address,
                advertise_address=cluster.address,
                secure_port=cluster.ports.api,
                etcd_servers=f"https://{cluster.address}:{cluster.ports.etcd}",
                etcd_cafile=pki / "ca.crt",
                etcd_certfile=pki / "etcd.crt",
                etcd_keyfile=pki / "etcd.key",
                service_cluster_ip_range=cluster.service_range,
                client_ca_file=pki / "ca.crt",
                tls_cert_file=pki / "apiserver.crt",
                tls_private_key_file=pki / "apiserver.key",
                kubelet_client_certificate=pki / "apiserver-kubelet.crt",
                kubelet_client_key=pki / "apiserver-kubelet.key",
                kubelet_certificate_authority=pki / "ca.crt",
                kubelet_preferred_address_types="InternalIP",
                service_account_issuer=f"https://kubernetes.default.svc.{CLUSTER_DOMAIN}",
                service_account_key_file=pki / "service-account.pub",
                service_account_signing_key_file=pki / "service-account.key",
                requestheader_client_ca_file=pki / "front-proxy-ca.crt",
                requestheader_allowed_names="front-proxy",
                requestheader_extra_headers_prefix="X-Remote-Extra-",
                requestheader_group_headers="X-Remote-Group",
                requestheader_username_headers="X-Remote-User",
                proxy_client_cert_file=pki / "front-proxy.crt",
                proxy_client_key_file=pki / "front-proxy.key",
                authorization_mode="Node,RBAC",
                enable_admission_plugins="NodeRestriction",
                allow_privileged="true",
                audit_policy_file=cluster.state / "audit-policy.json",
                audit_log_path=cluster.log / "audit.log",
                audit_log_maxsize=200,
                audit_log_maxbackup=3,
                # Node loss is tested here: its pods are evicted after 30 s instead of five minutes.
                default_not_ready_toleration_seconds=30,
                default_unreachable_toleration_seconds=30,
            ),
        ),
    )


def controller_manager(cluster: Cluster, binaries: Path, pki: Path) -> Component:
    kubeconfig = pki / "controller-manager.kubeconfig"
    return Component(
        "kube-controller-manager",
        (
            str(binaries / "kube-controller-manager"),
            *_flags(
                bind_address=cluster.address,
                secure_port=cluster.ports.controller_manager,
                kubeconfig=kubeconfig,
                authentication_kubeconfig=kubeconfig,
                authorization_kubeconfig=kubeconfig,
                service_account_private_key_file=pki / "service-account.key",
                root_ca_file=pki / "ca.crt",
                cluster_signing_cert_file=pki / "ca.crt",
                cluster_signing_key_file=pki / "ca.key",
                use_service_account_credentials="true",
                allocate_node_cidrs="false",
                leader_elect="false",
                # A node is lost after 20 s of silence (50 by default): node loss is tested here.
                node_monitor_grace_period="20s",
                node_monitor_period="2s",
            ),
        ),
    )


def scheduler(cluster: Cluster, binaries: Path, pki: Path) -> Component:
    kubeconfig = pki / "scheduler.kubeconfig"
    return Component(
        "kube-scheduler",
        (
            str(binaries / "kube-scheduler"),
            *_flags(
                bind_address=cluster.address,
                secure_port=cluster.ports.scheduler,
                kubeconfig=kubeconfig,
                authentication_kubeconfig=kubeconfig,
                authorization_kubeconfig=kubeconfig,
                leader_elect="false",
            ),
        ),
    )


def coredns(cluster: Cluster, binaries: Path) -> Component:
    return Component("coredns", (str(binaries / "coredns"), "-conf", str(cluster.state / "Corefile")))


def registry(cluster: Cluster, binaries: Path) -> Component:
    return Component(
        "registry",
        (str(binaries / "registry"), "serve", str(cluster.state / "registry.yml")),
        {"OTEL_TRACES_EXPORTER": "none"},
    )


def store(cluster: Cluster, binaries: Path, credentials: Credentials) -> Component:
    return Component(
        "store",
        (
            str(binaries / "versitygw"), "--port", f"{cluster.address}:{cluster.ports.store}", "--region", "us-east-1",
            "--health", "/health", "--quiet", "--keep-alive", "posix", str(cluster.state / "store"),
        ),
        {"ROOT_ACCESS_KEY": credentials.access_key, "ROOT_SECRET_KEY": credentials.secret_key},
    )  # fmt: skip


def node_launcher(cluster: Cluster, node: Node, python: str) -> Component:
    """The node's outer process. `unshare`, which it becomes, does not pass SIGTERM on: the kill is what ends a node."""
    return Component(
        node.name, (python, "-m", "devcluster.node", "launch", str(cluster.state), str(node.index)), stop_signal="KILL"
    )


def containerd(node: Node) -> Component:
    return Component("containerd", ("containerd", "--config", str(node.folder / "containerd.toml")), autostart=True)


def kubelet(node: Node, binaries: Path, pki: Path) -> Component:
    return Component(
        "kubelet",
        (
            str(binaries / "kubelet"),
            *_flags(
                config=node.folder / "kubelet.json",
                kubeconfig=pki / f"{node.name}.kubeconfig",
                root_dir=node.folder / "kubelet",
                cert_dir=node.folder / "kubelet-pki",
                hostname_override=node.name,
                node_ip=node.address,
            ),
        ),
        autostart=True,
    )


def kube_proxy(node: Node, binaries: Path) -> Component:
    return Component(
        "kube-proxy", (str(binaries / "kube-proxy"), f"--config={node.folder / 'kube-proxy.json'}"), autostart=True
    )


def gpu_plugin(cluster: Cluster, binaries: Path) -> Component:
    return Component("gpu-plugin", (str(binaries / "gpu-plugin"), f"--count={cluster.gpus}"), autostart=True)


def control_plane(cluster: Cluster, binaries: Path, pki: Path, credentials: Credentials) -> tuple[Component, ...]:
    """In the order of their start."""
    return (
        etcd(cluster, binaries, pki),
        registry(cluster, binaries),
        store(cluster, binaries, credentials),
        apiserver(cluster, binaries, pki),
        controller_manager(cluster, binaries, pki),
        scheduler(cluster, binaries, pki),
        coredns(cluster, binaries),
    )


def node_components(cluster: Cluster, node: Node, binaries: Path, pki: Path) -> tuple[Component, ...]:
    plugin = (gpu_plugin(cluster, binaries),) if cluster.gpus else ()
    return (containerd(node), kubelet(node, binaries, pki), kube_proxy(node, binaries), *plugin)
