"""A cluster's life: up, down, its nodes, its state. Each function can be called again at any time and carries on."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil

from devcluster import binaries, configuration, host, ociimage, packages, preflight, processes, provision, supervise
from devcluster.config import MAX_NODES, Cluster, Node, state_home
from devcluster.progress import Hopeless, StepFailed, Steps, cache_home, run, telling_line, wait_for

# A PID namespace ends with its first process: nothing that the supervisor starts outlives it, at any depth.
_CONTAINED = (
    "unshare", "--pid", "--mount", "--mount-proc", "--propagation", "private", "--fork", "--kill-child=SIGKILL",
)  # fmt: skip
_PROJECT = Path(__file__).parent.parent


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


def up(wanted: Cluster, steps: Steps) -> Cluster:
    """Brings the cluster up, mends one that is half up, and does next to nothing for one that is up."""
    preflight.require_linux_root()
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
        _start_init(cluster, steps)
    control = supervise.Supervisor(cluster.state)
    if not control.answers():
        raise StepFailed(
            "the cluster's supervisor does not answer",
            remedy=f"make down NAME={cluster.name} up",
            log=cluster.log / "init.log",
        )
    control.update()
    _start_control_plane(cluster, control, steps)
    for index in provision.node_indexes(cluster):
        _start_node(cluster, cluster.node(index), control, steps)
    return cluster


def _start_init(cluster: Cluster, steps: Steps) -> None:
    with steps.step("make bridge and routes, start the supervisor", usual=1.5):
        before = cluster.state / "host-before.json"
        if not before.exists():
            before.write_text(json.dumps({"sysctls": host.read_sysctls(), "covered": host.make_covered()}))
        else:
            host.make_covered()
        host.make_bridge(cluster)
        log = (cluster.log / "init.log").open("w")
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # inherited by every component
        with log:
            process = subprocess.Popen(
                [*_CONTAINED, sys.executable, "-m", "supervisor.supervisord", "-c", cluster.state / "supervisord.conf"],
                cwd=cluster.state,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**_clean_environment(), "PYTHONPATH": str(_PROJECT)},
            )
        init = processes.Init(process.pid, psutil.Process(process.pid).create_time())
        processes.init_path(cluster).write_text(json.dumps(dataclasses.asdict(init)))
        control = supervise.Supervisor(cluster.state)

        def answers() -> bool:
            if process.poll() is not None:
                raise Hopeless(
                    f"the supervisor ended: {telling_line((cluster.log / 'init.log').read_text())}",
                    log=cluster.log / "init.log",
                )
            return control.answers()

        wait_for("the supervisor answers", answers, seconds=20, every=0.05, log=cluster.log / "init.log")


def _clean_environment() -> dict[str, str]:
    """What the components get: no proxy settings (they would carry cluster traffic outside) and a whole PATH."""
    kept = {
        name: os.environ[name]
        for name in ("HOME", "LANG", "TZ", "MODELWRIGHT_CACHE", "XDG_CACHE_HOME")
        if name in os.environ
    }
    return {
        **kept,
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": os.environ.get("HOME", "/root"),
    }


def kubectl(cluster: Cluster, *words: str, stdin: str | None = None, timeout: float = 60) -> str:
    return run(
        [cluster.state / "bin" / "kubectl", "--kubeconfig", cluster.kubeconfig, *words], stdin=stdin, timeout=timeout
    )


def _http_ok(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own addresses
        return bool(answer.status == 200)


def _start_control_plane(cluster: Cluster, control: supervise.Supervisor, steps: Steps) -> None:
    with steps.step("start etcd, registry, store", usual=2):
        for name in ("etcd", "registry", "store"):
            control.start(name)
        # Whether etcd answers is a part of the API server's own readiness.
        _wait_http(cluster, "registry", f"http://{cluster.registry}/v2/")
        _wait_http(cluster, "store", f"{cluster.store_url}/health")
    with steps.step("start the API server", usual=6):
        control.start("kube-apiserver")
        wait_for(
            "the API server is ready",
            lambda: kubectl(cluster, "get", "--raw", "/readyz", timeout=5) == "ok",
            seconds=90,
            log=cluster.log / "kube-apiserver.log",
        )
        # What is there already is not written again: a start of a cluster that is up changes nothing.
        if "devcluster:coredns" not in kubectl(cluster, "get", "clusterrolebindings", "-o", "name"):
            kubectl(cluster, "apply", "-f", "-", stdin=configuration.coredns_role())
    with steps.step("start controller-manager, scheduler, DNS", usual=2):
        for name in ("kube-controller-manager", "kube-scheduler", "coredns"):
            control.start(name)


def _wait_http(cluster: Cluster, name: str, url: str) -> None:
    try:
        wait_for(f"{name} answers at {url}", lambda: _http_ok(url), seconds=30, log=cluster.log / f"{name}.log")
    except StepFailed as failed:
        log = cluster.log / f"{name}.log"
        raise StepFailed(
            f"{failed.reason}: {telling_line(log.read_text() if log.exists() else '')}", log=log
        ) from failed


def _start_node(cluster: Cluster, node: Node, control: supervise.Supervisor, steps: Steps) -> None:
    with steps.step(f"start {node.name}", key="start a node", usual=12) as step:
        control.start(node.name)
        inner = supervise.Supervisor(node.folder)
        wait_for(f"{node.name} boots", inner.answers, seconds=30, every=0.1, log=cluster.log / f"{node.name}.log")
        step.note("containerd")
        _import_pause(cluster, node)
        for name in inner.states():
            inner.start(name)
        step.note("kubelet")
        wait_for(
            f"{node.name} is Ready",
            lambda: _node_ready(cluster, node),
            seconds=120,
            every=0.3,
            log=node.folder / "log" / "kubelet.log",
        )
        step.note("")


def _import_pause(cluster: Cluster, node: Node) -> None:
    ctr = ["ctr", "--namespace", "k8s.io"]
    wait_for(
        "containerd answers",
        lambda: run(processes.in_node(cluster, node, ["ctr", "version"]), timeout=5),
        seconds=60,
        log=node.folder / "log" / "containerd.log",
    )
    if provision.PAUSE_IMAGE in run(processes.in_node(cluster, node, [*ctr, "images", "list", "--quiet"])).split():
        return
    archive = cluster.state / "pause.tar"
    ociimage.write_archive(archive, provision.PAUSE_IMAGE, (cluster.state / "bin" / "pause").resolve())
    run(
        processes.in_node(cluster, node, [*ctr, "images", "import", str(archive)]),
        log=node.folder / "log" / "import.log",
    )


def _node_ready(cluster: Cluster, node: Node) -> bool:
    found = json.loads(kubectl(cluster, "get", "nodes", "-o", "json", timeout=10))
    for item in found["items"]:
        if item["metadata"]["name"] != node.name:
            continue
        status = item["status"]
        ready = any(
            condition["type"] == "Ready" and condition["status"] == "True" for condition in status.get("conditions", [])
        )
        gpus = int(status.get("allocatable", {}).get("nvidia.com/gpu", "0"))
        tainted = [taint["key"] for taint in item["spec"].get("taints", [])]
        # After a start of a node that was down, Ready is of before until the kubelet has spoken again.
        fresh = "node.kubernetes.io/unreachable" not in tainted and "node.kubernetes.io/not-ready" not in tainted
        return ready and fresh and gpus == cluster.gpus
    return False


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
    _start_node(cluster, node, control, steps)
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
    kubectl(cluster, "delete", "node", node.name, "--ignore-not-found")
    shutil.rmtree(node.folder, ignore_errors=True)
    host.remove_cgroups(f"{cluster.cgroup}/{node.name}")


def require_running(cluster: Cluster) -> None:
    if not processes.is_running(cluster):
        raise StepFailed(f"cluster {cluster.name} is not up", remedy=f"make up NAME={cluster.name}")


# --- Down -------------------------------------------------------------------------------------------------------------


def down(name: str, state: Path, steps: Steps) -> None:
    """Ends the cluster and removes all that it made but the caches. Works on a damaged state folder too."""
    preflight.require_linux_root()
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
            _remove_folder(state)
        return
    with steps.step(f"stop cluster {name}", key="stop a cluster", usual=3):
        if processes.is_running(cluster):
            _remove_containers(cluster)
        _clear_leftovers(cluster)
        before = cluster.state / "host-before.json"
        with contextlib.suppress(OSError, ValueError):
            saved = json.loads(before.read_text())
            others = [
                other for other in existing().values() if other.name != cluster.name and processes.is_running(other)
            ]
            if not others:
                host.restore_sysctls(saved["sysctls"])
                host.remove_covered(saved["covered"])
        _remove_folder(cluster.state)


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
    init = processes.read_init(cluster)
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
    host.remove_links(cluster)
    deadline = time.monotonic() + 10
    while (left := host.remove_cgroups(cluster.cgroup)) and time.monotonic() < deadline:
        time.sleep(0.1)
    if left:
        raise StepFailed(f"cgroup {left[0]} cannot be removed: it still holds processes")
    processes.init_path(cluster).unlink(missing_ok=True)


def _remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        shutil.rmtree(folder)


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
