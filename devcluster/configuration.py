"""The components' configuration files. Pure but for `write_files`."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path

from devcluster.config import CLUSTER_DOMAIN, Cluster, Node


def _json(content: object) -> str:
    return json.dumps(content, indent=1, default=str) + "\n"


def _text(content: str) -> str:
    return textwrap.dedent(content).lstrip("\n")


def audit_policy() -> dict[str, object]:
    """Who wrote what, with its content: tests count an operator's writes. Reads are kept for people and operators but
    not for the cluster's own components, whose polling would fill the log."""
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "None", "nonResourceURLs": ["/livez*", "/readyz*", "/healthz*", "/metrics", "/openapi/*"]},
            {"level": "Metadata", "resources": [{"group": "", "resources": ["secrets", "serviceaccounts/token"]}]},
            {"level": "Request", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
            {
                "level": "None",
                "userGroups": ["system:nodes", "system:serviceaccounts:kube-system"],
                "verbs": ["get", "list", "watch"],
            },
            {
                "level": "None",
                "users": [
                    "system:apiserver", "system:kube-controller-manager", "system:kube-scheduler",
                    "system:kube-proxy", "system:coredns",
                ],
            },
            {"level": "Metadata"},
        ],
    }  # fmt: skip


def corefile(cluster: Cluster, pki: Path) -> str:
    # No `forward`: a pod resolves what is in the cluster, and nothing leaves the machine. The template has a server
    # block of its own because CoreDNS orders plugins as they were compiled in: it would answer before `kubernetes`.
    return _text(f"""
        {CLUSTER_DOMAIN}:{cluster.ports.dns} in-addr.arpa:{cluster.ports.dns} ip6.arpa:{cluster.ports.dns} {{
            bind {cluster.address}
            errors
            kubernetes {CLUSTER_DOMAIN} in-addr.arpa ip6.arpa {{
                kubeconfig {pki / "coredns.kubeconfig"}
                pods insecure
                ttl 5
            }}
            loadbalance
        }}
        .:{cluster.ports.dns} {{
            bind {cluster.address}
            template ANY ANY {{
                rcode NXDOMAIN
            }}
        }}
    """)


def registry_configuration(cluster: Cluster, storage: Path) -> str:
    return _json(
        {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": storage}, "delete": {"enabled": True}},
            "http": {"addr": f"{cluster.address}:{cluster.ports.registry}"},
        }
    )


def containerd_configuration(node: Node, pause_image: str) -> str:
    return _text(f"""
        version = 2
        root = "{node.images}"
        state = "/run/containerd"
        # Of no use here; some of them log an error at each start, or make folders outside of ours.
        disabled_plugins = [
          "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing", "io.containerd.snapshotter.v1.aufs",
          "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
          "io.containerd.snapshotter.v1.zfs",
        ]

        [grpc]
          address = "/run/containerd/containerd.sock"

        [plugins."io.containerd.grpc.v1.cri"]
          sandbox_image = "{pause_image}"
          enable_unprivileged_ports = true
          enable_unprivileged_icmp = true
          max_concurrent_downloads = 4
          # A root without CAP_SYS_RESOURCE, as in many virtual machines, may not lower a process's oom_score_adj.
          restrict_oom_score_adj = true

          [plugins."io.containerd.grpc.v1.cri".containerd]
            default_runtime_name = "runc"
            discard_unpacked_layers = true

            [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
              runtime_type = "io.containerd.runc.v2"

              [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
                SystemdCgroup = false

          [plugins."io.containerd.grpc.v1.cri".cni]
            bin_dir = "/usr/lib/cni"
            conf_dir = "{node.folder / "cni"}"

          [plugins."io.containerd.grpc.v1.cri".registry]
            config_path = "{node.folder / "registries"}"
    """)


def registry_hosts(cluster: Cluster) -> str:
    return f'[host."http://{cluster.registry}"]\n  capabilities = ["pull", "resolve"]\n'


def cni_configuration(cluster: Cluster, node: Node) -> str:
    # ptp, not bridge: each packet between pods passes the node's own stack, so a Service that leads back to a pod of
    # the same node needs no bridge netfilter, which not every kernel has.
    return _json(
        {
            "cniVersion": "0.4.0",
            "name": f"modelwright-{cluster.name}",
            "plugins": [
                {
                    "type": "ptp",
                    "ipMasq": False,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": "/run/cni",
                        "ranges": [[{"subnet": node.pods}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                }
            ],
        }
    )


def kubelet_configuration(cluster: Cluster, node: Node, pki: Path) -> str:
    return _json(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": node.address,
            "healthzBindAddress": "127.0.0.1",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": pki / "ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": pki / f"{node.name}.crt",
            "tlsPrivateKeyFile": pki / f"{node.name}.key",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{cluster.cgroup}/{node.name}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "localStorageCapacityIsolation": False,
            "clusterDNS": [cluster.address],
            "clusterDomain": CLUSTER_DOMAIN,
            "resolvConf": node.folder / "resolv.conf",
            "podLogsDir": node.folder / "pods",
            "serializeImagePulls": False,
            # The disk is the developer's own: a full one is theirs to see, not a reason to evict or to drop images.
            "evictionHard": {"memory.available": "200Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "nodeStatusReportFrequency": "1m",
            "syncFrequency": "10s",
            "shutdownGracePeriod": "0s",
            "maxPods": 220,
        }
    )


def kube_proxy_configuration(cluster: Cluster, node: Node, pki: Path) -> str:
    return _json(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "hostnameOverride": node.name,
            "clusterCIDR": cluster.pod_range,
            "clientConnection": {"kubeconfig": pki / "kube-proxy.kubeconfig"},
            "bindAddress": "0.0.0.0",  # noqa: S104 - the node's own network namespace
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            # A network namespace may not set the machine's conntrack limits.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            "nftables": {"minSyncPeriod": "200ms"},
        }
    )


def coredns_role() -> str:
    """What CoreDNS reads, and who may: its user is a certificate of this cluster's authority."""
    rules = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    rbac = "rbac.authorization.k8s.io"
    role = {
        "apiVersion": f"{rbac}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "devcluster:coredns"},
        "rules": rules,
    }
    binding = {
        "apiVersion": f"{rbac}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "devcluster:coredns"},
        "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "devcluster:coredns"},
        "subjects": [{"apiGroup": rbac, "kind": "User", "name": "system:coredns"}],
    }
    return _json({"apiVersion": "v1", "kind": "List", "items": [role, binding]})


def write_files(files: Mapping[Path, str]) -> None:
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != content:
            path.write_text(content)
