"""What a cluster is: its name, addresses, ports and folders. Pure: nothing here touches the machine.

Clusters stand side by side because each has a slot, and each slot its own address ranges. The control plane listens on
the address of the cluster's own bridge, so two clusters never contend for a port.

    bridge   10.88.SLOT.0/24    .1 is the control plane, the registry and the store; .2, .3, … are the nodes
    pods     10.(100+SLOT).0.0/16    one /24 for each node
    services 10.(140+SLOT).0.0/16
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import os
import re
from pathlib import Path

from devcluster.progress import StepFailed, cache_home

SLOTS = 32
MAX_NODES = 8
CLUSTER_DOMAIN = "cluster.local"
_NAME = re.compile(r"^[a-z]([a-z0-9-]{0,13}[a-z0-9])?$")
# A unix socket's path holds 107 bytes; the longest that we put below the state folder takes 40 of them.
_LONGEST_STATE_FOLDER = 64


def state_home() -> Path:
    """The folder of all clusters' states."""
    return Path(os.environ.get("MODELWRIGHT_STATE") or "/var/lib/modelwright-devcluster")


def bridge_of(slot: int) -> str:
    return f"mw{slot}"


def node_link(slot: int, index: int) -> str:
    """The host's end of a node's link."""
    return f"mw{slot}n{index}"


def cgroup_of(name: str) -> str:
    return f"modelwright-devcluster/{name}"


@dataclasses.dataclass(frozen=True)
class Ports:
    """The ports of the control plane, all on the bridge's address."""

    api: int = 6443
    etcd: int = 2379
    etcd_peer: int = 2380
    controller_manager: int = 10257
    scheduler: int = 10259
    dns: int = 53
    registry: int = 5000
    store: int = 7070

    def __post_init__(self) -> None:
        used: dict[int, str] = {}
        for field in dataclasses.fields(self):
            port = getattr(self, field.name)
            if not 1 <= port <= 65535:
                raise StepFailed(f"port {field.name}: {port} is not between 1 and 65535")
            if port in used:
                raise StepFailed(
                    f"ports {used[port]} and {field.name} are both {port}", remedy="give each a port of its own"
                )
            used[port] = field.name


@dataclasses.dataclass(frozen=True)
class Node:
    """One node: `index` 0 is the first; `address` is in the bridge's range, its pods in `pods`."""

    index: int
    name: str
    address: ipaddress.IPv4Address
    pods: ipaddress.IPv4Network
    folder: Path
    images: Path
    """containerd's root: it outlives the cluster, so that an image is pulled once."""
    host_link: str
    mac: str

    @property
    def pod_gateway(self) -> ipaddress.IPv4Address:
        return self.pods.network_address + 1


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A cluster's parameters. Raises `StepFailed` for those that contradict each other."""

    name: str
    slot: int
    state: Path
    bridge_range: ipaddress.IPv4Network
    pod_range: ipaddress.IPv4Network
    service_range: ipaddress.IPv4Network
    ports: Ports = dataclasses.field(default_factory=Ports)
    gpus: int = 8

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise StepFailed(
                f"cluster name {self.name!r}: up to 15 lower-case letters, digits and hyphens, a letter first",
                remedy="choose another with --name",
            )
        if len(str(self.state)) > _LONGEST_STATE_FOLDER:
            raise StepFailed(
                f"state folder {self.state}: its path has {len(str(self.state))} characters, of at most"
                f" {_LONGEST_STATE_FOLDER} (a unix socket below it would pass 107)",
                remedy="choose a shorter one with --state",
            )
        if self.bridge_range.num_addresses < MAX_NODES + 3:
            raise StepFailed(f"bridge range {self.bridge_range} has no room for {MAX_NODES} nodes", remedy="use a /24")
        if self.pod_range.prefixlen > 20:
            raise StepFailed(f"pod range {self.pod_range} has no /24 for each of {MAX_NODES} nodes", remedy="use a /16")
        if not 12 <= self.service_range.prefixlen <= 24:
            raise StepFailed(f"service range {self.service_range} is not between /12 and /24", remedy="use a /16")
        ranges = {"bridge": self.bridge_range, "pod": self.pod_range, "service": self.service_range}
        names = list(ranges)
        for position, one in enumerate(names):
            for other in names[position + 1 :]:
                if ranges[one].overlaps(ranges[other]):
                    raise StepFailed(f"{one} range {ranges[one]} and {other} range {ranges[other]} overlap")

    @property
    def address(self) -> ipaddress.IPv4Address:
        """Where the control plane, the registry and the store listen."""
        return self.bridge_range.network_address + 1

    @property
    def bridge(self) -> str:
        return bridge_of(self.slot)

    @property
    def api_url(self) -> str:
        return f"https://{self.address}:{self.ports.api}"

    @property
    def registry(self) -> str:
        return f"{self.address}:{self.ports.registry}"

    @property
    def store_url(self) -> str:
        return f"http://{self.address}:{self.ports.store}"

    @property
    def context(self) -> str:
        return f"modelwright-{self.name}"

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def api_service_address(self) -> ipaddress.IPv4Address:
        return self.service_range.network_address + 1

    @property
    def cgroup(self) -> str:
        """Below each cgroup hierarchy; every container of the cluster is under it."""
        return cgroup_of(self.name)

    @property
    def log(self) -> Path:
        return self.state / "log"

    def node(self, index: int) -> Node:
        if not 0 <= index < MAX_NODES:
            raise StepFailed(f"node {index}: a cluster has the nodes 0 to {MAX_NODES - 1}")
        return Node(
            index=index,
            name=f"node-{index}",
            address=self.address + 1 + index,
            pods=list(self.pod_range.subnets(new_prefix=24))[index],
            folder=self.state / "nodes" / f"node-{index}",
            images=cache_home() / "containerd" / f"{self.name}-node-{index}",
            host_link=node_link(self.slot, index),
            mac=f"02:58:00:00:{self.slot:02x}:{index + 2:02x}",
        )

    def to_json(self) -> str:
        plain = dataclasses.asdict(self)
        return json.dumps(plain, indent=1, default=str) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Cluster:
        plain = json.loads(text)
        return cls(
            name=plain["name"],
            slot=plain["slot"],
            state=Path(plain["state"]),
            bridge_range=ipaddress.IPv4Network(plain["bridge_range"]),
            pod_range=ipaddress.IPv4Network(plain["pod_range"]),
            service_range=ipaddress.IPv4Network(plain["service_range"]),
            ports=Ports(**plain["ports"]),
            gpus=plain["gpus"],
        )


def default_cluster(
    name: str = "dev",
    *,
    slot: int | None = None,
    state: Path | None = None,
    bridge_range: str = "",
    pod_range: str = "",
    service_range: str = "",
    ports: Ports | None = None,
    gpus: int = 8,
    taken: frozenset[int] = frozenset(),
) -> Cluster:
    """A cluster by its name, with whatever else was chosen. `taken` are the slots of the clusters that exist; the
    cluster called `dev` has slot 0, others the first that is free."""
    if slot is None:
        slot = 0 if name == "dev" else next((free for free in range(1, SLOTS) if free not in taken), SLOTS)
    if not 0 <= slot <= SLOTS:
        raise StepFailed(f"slot {slot} is not between 0 and {SLOTS - 1}")
    if slot == SLOTS:
        raise StepFailed(f"all {SLOTS} slots are taken by other clusters", remedy="take one down")
    try:
        return Cluster(
            name=name,
            slot=slot,
            state=state or state_home() / name,
            bridge_range=ipaddress.IPv4Network(bridge_range or f"10.88.{slot}.0/24"),
            pod_range=ipaddress.IPv4Network(pod_range or f"10.{100 + slot}.0.0/16"),
            service_range=ipaddress.IPv4Network(service_range or f"10.{140 + slot}.0.0/16"),
            ports=ports or Ports(),
            gpus=gpus,
        )
    except ValueError as error:
        raise StepFailed(f"address range: {error}", remedy="write it like 10.88.0.0/24") from error
