"""The devcluster's command line: `python -m devcluster up`, `down`, `status`, …"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from devcluster import cluster as life
from devcluster import processes, provision, start
from devcluster.config import Cluster, Ports, default_cluster, state_home
from devcluster.progress import StepFailed, Steps, cache_home, human


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="devcluster", description="A real Kubernetes for machines that have none.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("--name", default="dev", help="name of the cluster (default: dev)")
        made.add_argument("--state", type=Path, help=f"state folder (default: {state_home()}/NAME)")
        return made

    up = command("up", "bring the cluster up, or mend it")
    up.add_argument("--slot", type=int, help="which default address ranges (0 to 31; default: the first free one)")
    for name in ("bridge", "pod", "service"):
        up.add_argument(f"--{name}-range", default="", help=f"{name} address range, instead of the slot's")
    up.add_argument("--gpus", type=int, default=8, help="nvidia.com/gpu capacity of each node (default: 8)")
    for field in dataclasses.fields(Ports):
        option = f"--{field.name.replace('_', '-')}-port"
        up.add_argument(option, type=int, dest=f"port_{field.name}", help=f"default: {field.default}")
    command("down", "end the cluster and remove all that it made, but the caches")
    command("status", "show the components and nodes")
    command("env", "print the shell lines that point kubectl and helm at the cluster")
    node = command("node", "add, kill or remove a node")
    node.add_argument("action", choices=("add", "kill", "remove"))
    node.add_argument("index", type=int, nargs="?", help="which node (kill, remove)")
    kubectl = command("kubectl", "run kubectl against the cluster")
    kubectl.add_argument("words", nargs=argparse.REMAINDER)
    shell = command("shell", "run a command on a node (default: a shell on node 0)")
    shell.add_argument("--node", type=int, default=0)
    shell.add_argument("words", nargs=argparse.REMAINDER)
    commands.add_parser("list", help="list the clusters of this machine")
    commands.add_parser("clean", help="take every cluster down and remove the caches")
    return parser


def wanted(
    name: str,
    *,
    state: Path | None = None,
    slot: int | None = None,
    ranges: Mapping[str, str] | None = None,
    ports: Ports | None = None,
    gpus: int = 8,
) -> Cluster:
    """The cluster that `up` asks for. What is not asked for is as it was, for one that exists, else the default."""
    others = life.existing()
    known = others.get(name) if state is None else life.read_state(state)
    ranges = ranges or {}
    if known is not None:
        slot = known.slot if slot is None else slot
        ports = ports or known.ports
    made = default_cluster(
        name,
        slot=slot,
        state=state,
        bridge_range=ranges.get("bridge", ""),
        pod_range=ranges.get("pod", ""),
        service_range=ranges.get("service", ""),
        ports=ports,
        gpus=gpus,
        taken=frozenset(other.slot for other in others.values() if other.name != name),
    )
    if known is not None and slot == known.slot:
        kept = {
            f"{kind}_range": getattr(known, f"{kind}_range")
            for kind in ("bridge", "pod", "service")
            if not ranges.get(kind)
        }
        made = dataclasses.replace(made, **kept)
    return made


def find(name: str, state: Path | None) -> Cluster:
    """The cluster `name`. Raises `StepFailed` where there is none."""
    found = life.read_state(state or state_home() / name)
    if found is None:
        raise StepFailed(f"there is no cluster {name}", remedy="make up")
    return found


def environment_lines(cluster: Cluster) -> list[str]:
    credentials = provision.store_credentials(cluster)
    return [
        f"export KUBECONFIG={cluster.kubeconfig}",
        f"export PATH={cluster.state / 'bin'}:$PATH",
        f"export REGISTRY={cluster.registry}",
        f"export AWS_ENDPOINT_URL={cluster.store_url}",
        "export AWS_REGION=us-east-1",
        f"export AWS_ACCESS_KEY_ID={credentials.access_key}",
        f"export AWS_SECRET_ACCESS_KEY={credentials.secret_key}",
    ]


def _status(cluster: Cluster) -> int:
    states = life.component_states(cluster)
    if not states:
        print(f"cluster {cluster.name} is not up")
        return 1
    for component, state in states.items():
        print(f"  {component:28} {state.lower()}")
    print(start.kubectl(cluster, "get", "nodes", "-o", "wide"), end="")
    return 0 if set(states.values()) == {"RUNNING"} else 1


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    steps = Steps()
    try:
        return _run(arguments, steps)
    except StepFailed as failed:
        print(f"devcluster: {failed}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("devcluster: interrupted; `make up` carries on, `make down` cleans up", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace, steps: Steps) -> int:
    if arguments.command == "list":
        for name, cluster in life.existing().items():
            print(
                f"{name:16} {'up' if processes.is_running(cluster) else 'down':5} {cluster.slot:<3} {cluster.api_url}"
            )
        return 0
    if arguments.command == "clean":
        for name, cluster in life.existing().items():
            life.down(name, cluster.state, steps)
        with steps.step(f"remove {cache_home()}", key="remove the caches", usual=10):
            shutil.rmtree(cache_home(), ignore_errors=True)
        return 0
    if arguments.command == "up":
        chosen = {field.name: getattr(arguments, f"port_{field.name}") for field in dataclasses.fields(Ports)}
        chosen = {name: port for name, port in chosen.items() if port is not None}
        asked = wanted(
            arguments.name,
            state=arguments.state,
            slot=arguments.slot,
            ranges={kind: getattr(arguments, f"{kind}_range") for kind in ("bridge", "pod", "service")},
            ports=Ports(**chosen) if chosen else None,
            gpus=arguments.gpus,
        )
        cluster = life.up(asked, steps)
        steps.say(f'cluster {cluster.name} is up after {human(steps.seconds)}; eval "$(make env)" points kubectl at it')
        return 0
    if arguments.command == "down":
        life.down(arguments.name, arguments.state or state_home() / arguments.name, steps)
        return 0
    cluster = find(arguments.name, arguments.state)
    if arguments.command == "status":
        return _status(cluster)
    if arguments.command == "env":
        print("\n".join(environment_lines(cluster)))
        return 0
    if arguments.command == "node":
        return _node(arguments, cluster, steps)
    words = [word for word in arguments.words if word != "--"]
    if arguments.command == "kubectl":
        kubectl = str(cluster.state / "bin" / "kubectl")
        os.execv(kubectl, [kubectl, "--kubeconfig", str(cluster.kubeconfig), *words])  # noqa: S606
    command = processes.in_node(cluster, cluster.node(arguments.node), words or ["bash"])
    os.execvp(command[0], command)  # noqa: S606
    return 0


def _node(arguments: argparse.Namespace, cluster: Cluster, steps: Steps) -> int:
    if arguments.action == "add":
        life.add_node(cluster, steps)
        return 0
    if arguments.index is None:
        raise StepFailed(f"node {arguments.action}: which one?", remedy="give its number, as in: node kill 1")
    {"kill": life.kill_node, "remove": life.remove_node}[arguments.action](cluster, arguments.index)
    return 0


if __name__ == "__main__":
    sys.exit(main())
