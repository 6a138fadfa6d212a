"""Starting what a cluster consists of, in order, each part waited for until it answers."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import resource
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil

from devcluster import configuration, host, ociimage, processes, provision, supervise
from devcluster.config import Cluster, Node
from devcluster.progress import Hopeless, StepFailed, Steps, run, telling_line, wait_for

# A PID namespace ends with its first process: nothing that the supervisor starts outlives it, at any depth.
_CONTAINED = (
    "unshare", "--pid", "--mount", "--mount-proc", "--propagation", "private", "--fork", "--kill-child=SIGKILL",
)  # fmt: skip
_PROJECT = Path(__file__).parent.parent


def start_init(cluster: Cluster, steps: Steps) -> None:
    with steps.step("make bridge and routes, start the supervisor", usual=1.5):
        host.remember()
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
                # The mark is how the supervisor is found where init.json was lost: killed first, it restarts nothing.
                env={**_clean_environment(), "PYTHONPATH": str(_PROJECT), "MODELWRIGHT_DEVCLUSTER": cluster.name},
            )
        init = processes.Init(process.pid, psutil.Process(process.pid).create_time(), cluster.slot)
        processes.init_path(cluster.state).write_text(json.dumps(dataclasses.asdict(init)))
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
    return {"HOME": "/root", **kept, "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


def kubectl(cluster: Cluster, *words: str, stdin: str | None = None, timeout: float = 60) -> str:
    command: list[str | Path] = [cluster.state / "bin" / "kubectl", "--kubeconfig", cluster.kubeconfig, *words]
    return run(command, stdin=stdin, timeout=timeout, env={"NO_PROXY": "*", "no_proxy": "*"})


def _http_ok(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(url, timeout=2) as answer:
        return bool(answer.status == 200)


def _await(what: str, check: Callable[[], object], *, log: Path, seconds: float, every: float = 0.2) -> None:
    """As `wait_for`; the failure has the line of the component's log that tells most."""
    try:
        wait_for(what, check, seconds=seconds, every=every)
    except StepFailed as failed:
        told = telling_line(log.read_text(errors="replace")[-20_000:]) if log.exists() else ""
        raise StepFailed(f"{failed.reason}{f': {told}' if told else ''}", log=log) from failed


def start_control_plane(cluster: Cluster, control: supervise.Supervisor, steps: Steps) -> None:
    with steps.step("start etcd, registry, store", usual=2):
        for name in ("etcd", "registry", "store"):
            control.start(name)
        # Whether etcd answers is a part of the API server's own readiness.
        for name, url in (("registry", f"http://{cluster.registry}/v2/"), ("store", f"{cluster.store_url}/health")):
            _await(f"{name} answers at {url}", partial(_http_ok, url), log=cluster.log / f"{name}.log", seconds=30)
    with steps.step("start the API server", usual=6):
        control.start("kube-apiserver")
        _await(
            "the API server is ready",
            lambda: kubectl(cluster, "get", "--raw", "/readyz", timeout=5) == "ok",
            log=cluster.log / "kube-apiserver.log",
            seconds=90,
        )
        # What is there already is not written again: a start of a cluster that is up changes nothing.
        if "devcluster:coredns" not in kubectl(cluster, "get", "clusterrolebindings", "-o", "name"):
            kubectl(cluster, "apply", "-f", "-", stdin=configuration.coredns_role())
    with steps.step("start controller-manager, scheduler, DNS", usual=2):
        for name in ("kube-controller-manager", "kube-scheduler", "coredns"):
            control.start(name)


def start_node(cluster: Cluster, node: Node, control: supervise.Supervisor, steps: Steps) -> None:
    with steps.step(f"start {node.name}", key="start a node", usual=12) as step:
        control.start(node.name)
        inner = supervise.Supervisor(node.folder)
        _await(f"{node.name} boots", inner.answers, log=cluster.log / f"{node.name}.log", seconds=30, every=0.1)
        step.note("containerd")
        _import_pause(cluster, node)
        for name in inner.states():
            inner.start(name)
        step.note("kubelet")
        _await(
            f"{node.name} is Ready",
            lambda: _node_ready(cluster, node),
            log=node.folder / "log" / "kubelet.log",
            seconds=120,
            every=0.3,
        )
        step.note("")


def _import_pause(cluster: Cluster, node: Node) -> None:
    ctr = ["ctr", "--namespace", "k8s.io"]
    _await(
        "containerd answers",
        lambda: run(processes.in_node(cluster, node, ["ctr", "version"]), timeout=5),
        log=node.folder / "log" / "containerd.log",
        seconds=60,
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
    """Whether the kubelet that runs now has said that the node is Ready with its GPUs. What a kubelet before it said
    still stands in the API after a restart, while the new one refuses pods that ask for a GPU."""
    since = _registered_since(cluster, node)
    if since is None:
        return False
    found = json.loads(kubectl(cluster, "get", "nodes", "-o", "json", timeout=10))
    for item in found["items"]:
        if item["metadata"]["name"] != node.name:
            continue
        status = item["status"]
        conditions = {condition["type"]: condition for condition in status.get("conditions", [])}
        ready = conditions.get("Ready", {})
        told = datetime.datetime.fromisoformat(ready["lastHeartbeatTime"]).timestamp() if ready else 0.0
        tainted = [taint["key"] for taint in item["spec"].get("taints", [])]
        reachable = "node.kubernetes.io/unreachable" not in tainted and "node.kubernetes.io/not-ready" not in tainted
        gpus = int(status.get("allocatable", {}).get("nvidia.com/gpu", "0"))
        # Heartbeats are told in whole seconds.
        return ready.get("status") == "True" and told >= int(since) and reachable and gpus == cluster.gpus
    return False


def _registered_since(cluster: Cluster, node: Node) -> float | None:
    """When the running kubelet was started; None while there is none, or its device plugin has not met it yet."""
    try:
        started = psutil.Process(processes.component_pid(cluster, f"{node.name}/kubelet")).create_time()
    except (StepFailed, psutil.NoSuchProcess):
        return None
    socket = node.folder / "covered" / "kubelet" / "device-plugins" / "nvidia.com-gpu.sock"
    if cluster.gpus and not (socket.exists() and socket.stat().st_mtime >= started):
        return None
    return started
