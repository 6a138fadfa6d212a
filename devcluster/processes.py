"""The processes of a cluster, as this machine sees them: how they are found, entered and ended."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path

import psutil

from devcluster.config import Cluster, Node
from devcluster.progress import StepFailed


@dataclasses.dataclass(frozen=True)
class Init:
    """The cluster's outermost process, as this machine sees it: killing it ends all of the cluster's processes."""

    pid: int
    started: float
    slot: int

    def alive(self) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.started) < 0.05 and process.status() != psutil.STATUS_ZOMBIE
        return False


def init_path(state: Path) -> Path:
    return state / "init.json"


def read_init(state: Path) -> Init | None:
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Init(**json.loads(init_path(state).read_text()))
    return None


def is_running(cluster: Cluster) -> bool:
    init = read_init(cluster.state)
    return init is not None and init.alive()


def node_init(cluster: Cluster, node: Node) -> psutil.Process | None:
    """The node's first process: the supervisord whose configuration is the node's."""
    init = read_init(cluster.state)
    if init is None or not init.alive():
        return None
    configuration = str(node.folder / "supervisord.conf")
    for process in psutil.Process(init.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[-1:] == [configuration]:
                return process
    return None


def in_node(cluster: Cluster, node: Node, command: list[str]) -> list[str]:
    """The command line that runs `command` on the node."""
    init = node_init(cluster, node)
    if init is None:
        raise StepFailed(f"{node.name} of cluster {cluster.name} is not running", remedy=f"make up NAME={cluster.name}")
    return ["nsenter", "--target", str(init.pid), "--mount", "--net", "--pid", "--ipc", "--uts", "--", *command]


def marked(name: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            marker = process.environ().get("MODELWRIGHT_DEVCLUSTER", "")
            if marker == name or marker.startswith(f"{name}/"):
                found.append(process)
    return found


def any_cluster_runs() -> bool:
    """Whether any process of any cluster of this machine lives."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if "MODELWRIGHT_COMPONENT" in process.environ() and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def kill_marked(name: str) -> None:
    found = marked(name)
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(found, timeout=10)


def component_pid(cluster: Cluster, component: str) -> int:
    """The process of a component, as this machine sees it; `node-0/kubelet` for a node's. Raises `StepFailed`."""
    node, _, name = component.rpartition("/")
    marker = f"{cluster.name}/{node}" if node else cluster.name
    for process in marked(cluster.name):
        with contextlib.suppress(psutil.Error):
            environment = process.environ()
            same = (
                environment.get("MODELWRIGHT_DEVCLUSTER") == marker and environment.get("MODELWRIGHT_COMPONENT") == name
            )
            # A component's children inherit the mark: the component is the one whose parent does not have it.
            if same and process.ppid() and not _has_mark(process.ppid(), name):
                return process.pid
    raise StepFailed(f"{component} of cluster {cluster.name} is not running")


def _has_mark(pid: int, name: str) -> bool:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).environ().get("MODELWRIGHT_COMPONENT") == name
    return False
