"""A cluster's life: up, down, its nodes, its state. Each function can be called again at any time and carries on."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from devcluster import binaries, host, packages, preflight, processes, provision, start, supervise
from devcluster.config import MAX_NODES, Cluster, Node, cgroup_of, state_home
from devcluster.progress import StepFailed, Steps, cache_home, run, telling_line


def existing() -> dict[str, Cluster]:
    """The clusters that have a state folder in the usual place, by name; unreadable ones are left out."""
    found = {}
    for path in sorted(state_home().glob("*/cluster.json")):
        with contextlib.suppress(ValueError, KeyError, TypeError, OSError, StepFailed):
            cluster = Cluster.from_json(path.read_text())
            found[cluster.name] = cluster
    return found


def read_state(state: Path) -> Cluster | None:
    """The cluster that a state folder belongs to, or None where there is none. Raises `StepFailed` for a folder that
    is something else, or was left by a version that wrote it differently."""
    path = state / "cluster.json"
    if not state.exists() or not any(state.iterdir()):
        return None
    if not path.exists():
        raise StepFailed(
            f"{state} is not empty and no cluster's state folder (it has no cluster.json)",
            remedy=f"choose another with --state, or remove it: rm -r {state}",
        )
    try:
        return Cluster.from_json(path.read_text())
    except (ValueError, KeyError, TypeError, StepFailed) as error:
        raise StepFailed(
            f"{path} is damaged, or of another version: {telling_line(str(error)) or type(error).__name__}",
            remedy=f"make down NAME={state.name}, which removes it; then make up",
        ) from error


# --- Up ---------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _alone(name: str, steps: Steps) -> Iterator[None]:
    """Of two commands that change a cluster the later waits for the earlier."""
    path = cache_home() / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            steps.say(f"  … another command is at work on cluster {name}; this one waits for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def up(wanted: Cluster, steps: Steps) -> Cluster:
    """Brings the cluster up, mends one that is half up, and does next to nothing for one that is up."""
    preflight.require_linux_root()
    with _alone(wanted.name, steps):
        return _up(wanted, steps)


def _up(wanted: Cluster, steps: Steps) -> Cluster:
    stored = read_state(wanted.state)
    if stored is not None and stored != wanted:
        differences = [
            f"{field.name} is {getattr(stored, field.name)}, asked for {getattr(wanted, field.name)}"
            for field in dataclasses.fields(Cluster)
            if getattr(stored, field.name) != getattr(wanted, field.name)
        ]
        raise StepFailed(
            f"cluster {stored.name} exists with other parameters: {'; '.join(differences)}",
            remedy=f"make down NAME={stored.name} first, or leave those options out",
        )
    cluster = wanted
    running = processes.is_running(cluster)
    preflight.require_kernel()
    preflight.require_disk(first=preflight.first_start(), folders=(cache_home(), cluster.state))
    packages.ensure_packages(steps, packages.CLUSTER_PACKAGES)
    if not running:
        _clear_leftovers(cluster)
        preflight.require_ranges(cluster)
        preflight.require_ports(cluster)
    programs = binaries.build(steps, "kubebox", "registry", "versitygw", "pause", "helm")
    with steps.step("write certificates and configuration", usual=0.5):
        provision.write_state(cluster, programs)
    if not running:
        start.start_init(cluster, steps)
    control = supervise.Supervisor(cluster.state)
    if not control.answers():
        raise StepFailed(
            "the cluster's supervisor does not answer",
            remedy=f"make down NAME={cluster.name} up",
            log=cluster.log / "init.log",
        )
    control.update()
    start.start_control_plane(cluster, control, steps)
    for index in provision.node_indexes(cluster):
        start.start_node(cluster, cluster.node(index), control, steps)
    return cluster


# --- Nodes ------------------------------------------------------------------------------------------------------------


def add_node(cluster: Cluster, steps: Steps) -> Node:
    """Adds a node in namespaces of its own and waits until it is Ready; a killed one comes back first."""
    require_running(cluster)
    killed = [index for index in provision.node_folders(cluster) if index not in provision.node_indexes(cluster)]
    free = [index for index in range(MAX_NODES) if index not in provision.node_folders(cluster)]
    candidates = [*killed, *free]
    if not candidates:
        raise StepFailed(
            f"cluster {cluster.name} has {MAX_NODES} nodes, and that is the most", remedy="remove one first"
        )
    node = cluster.node(candidates[0])
    (node.folder / "killed").unlink(missing_ok=True)
    provision.write_node(cluster, node)
    provision.write_supervisor(cluster)
    control = supervise.Supervisor(cluster.state)
    control.update()
    start.start_node(cluster, node, control, steps)
    return node


def kill_node(cluster: Cluster, index: int) -> None:
    """Ends a node as a power cut would: every process at once, its link gone, nobody told."""
    require_running(cluster)
    node = cluster.node(index)
    if not node.folder.exists():
        raise StepFailed(f"cluster {cluster.name} has no {node.name}", remedy="see: make status")
    (node.folder / "killed").touch()
    supervise.Supervisor(cluster.state).stop(node.name)
    provision.write_supervisor(cluster)
    supervise.Supervisor(cluster.state).update()
    if host.link_exists(node.host_link):
        host.ip("link", "delete", node.host_link)
    host.unroute_pods(cluster, node)


def remove_node(cluster: Cluster, index: int) -> None:
    """Kills the node and forgets it: its Node object and its folder go too."""
    kill_node(cluster, index)
    node = cluster.node(index)
    start.kubectl(cluster, "delete", "node", node.name, "--ignore-not-found")
    shutil.rmtree(node.folder, ignore_errors=True)
    host.remove_cgroups(f"{cluster.cgroup}/{node.name}")


def require_running(cluster: Cluster) -> None:
    if not processes.is_running(cluster):
        raise StepFailed(f"cluster {cluster.name} is not up", remedy=f"make up NAME={cluster.name}")


# --- Down -------------------------------------------------------------------------------------------------------------


def down(name: str, state: Path, steps: Steps) -> None:
    """Ends the cluster and removes all that it made but the caches. Works on a damaged state folder too."""
    preflight.require_linux_root()
    with _alone(name, steps):
        _down(name, state, steps)


def _down(name: str, state: Path, steps: Steps) -> None:
    try:
        cluster = read_state(state)
    except StepFailed:
        cluster = None
        if state.parent != state_home() or not (state / "cluster.json").exists():
            raise
    if cluster is None:
        # What is left of a cluster whose state is gone or damaged can still be told by the marker of its processes.
        with steps.step(f"remove what is left of cluster {name}", usual=1):
            processes.kill_marked(name)
            host.remove_cgroups(cgroup_of(name))
            init = processes.read_init(state)
            if init:
                host.remove_links(init.slot)
            _restore_host()
            shutil.rmtree(state, ignore_errors=True)
        return
    with steps.step(f"stop cluster {name}", key="stop a cluster", usual=3):
        if processes.is_running(cluster):
            _remove_containers(cluster)
        _clear_leftovers(cluster)
        _restore_host()
        shutil.rmtree(cluster.state)


def _restore_host() -> None:
    if not processes.any_cluster_runs():
        host.restore()


def _remove_containers(cluster: Cluster) -> None:
    """containerd's records of containers are beside its images, which stay: so the containers are removed by name."""
    script = (
        "ctr -n k8s.io tasks list -q | xargs -r ctr -n k8s.io tasks delete --force; "
        "ctr -n k8s.io containers list -q | xargs -r ctr -n k8s.io containers delete"
    )
    for index in provision.node_indexes(cluster):
        node = cluster.node(index)
        with contextlib.suppress(StepFailed, OSError):
            supervise.Supervisor(node.folder).stop("kubelet")
            run(processes.in_node(cluster, node, ["sh", "-c", script]), timeout=20, log=cluster.log / "down.log")


def _clear_leftovers(cluster: Cluster) -> None:
    """Ends every process of the cluster and takes back what it changed on the host, whatever state it is in."""
    init = processes.read_init(cluster.state)
    if init and init.alive():
        family = psutil.Process(init.pid).children(recursive=True)
        os.kill(init.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(init.pid, 0)
        psutil.wait_procs(family, timeout=15)
    processes.kill_marked(cluster.name)
    for pid in host.cgroup_processes(cluster.cgroup):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    host.remove_links(cluster.slot)
    deadline = time.monotonic() + 10
    while (left := host.remove_cgroups(cluster.cgroup)) and time.monotonic() < deadline:
        time.sleep(0.1)
    if left:
        raise StepFailed(f"cgroup {left[0]} cannot be removed: it still holds processes")
    processes.init_path(cluster.state).unlink(missing_ok=True)


# --- State ------------------------------------------------------------------------------------------------------------


def component_states(cluster: Cluster) -> dict[str, str]:
    """The state of each component, those of nodes as `node-0/kubelet`."""
    if not processes.is_running(cluster):
        return {}
    states = supervise.Supervisor(cluster.state).states()
    for index in provision.node_indexes(cluster):
        node = cluster.node(index)
        with contextlib.suppress(OSError):
            states |= {
                f"{node.name}/{name}": state for name, state in supervise.Supervisor(node.folder).states().items()
            }
    return states
