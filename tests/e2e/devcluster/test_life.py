"""Up, down, crash, up again: nothing is left behind, and what was killed comes back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Mapping, Sequence

import psutil
import pytest

from dev.demo import visit
from dev.target import Target
from devcluster import cluster as life
from devcluster import hoststate, processes
from devcluster.__main__ import wanted
from devcluster.config import Cluster, state_home
from devcluster.progress import Hopeless, StepFailed, Steps, wait_for
from tests.e2e.devcluster.conftest import target_of

NAME = "e2e-life"
CONTROL_PLANE = ("etcd", "registry", "store", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "coredns")
NODE = ("node-0/containerd", "node-0/kubelet", "node-0/kube-proxy", "node-0/gpu-plugin", "node-0")


@pytest.mark.parametrize("rounds", [pytest.param(1, id="once"), pytest.param(5, id="5 times", marks=pytest.mark.long)])
def test_down_leaves_nothing(rounds: int, steps: Steps) -> None:
    life.down(NAME, state_home() / NAME, steps)
    others = list(life.existing().values())
    before = hoststate.snapshot(without=others)
    for _ in range(rounds):
        cluster = life.up(wanted(NAME), steps)
        target_of(cluster).kubectl("create", "namespace", "something")
        assert hoststate.differences(before, hoststate.snapshot(without=others))
        life.down(NAME, cluster.state, steps)
        nothing_is_left(before, others)
        assert not cluster.state.exists()


@pytest.mark.parametrize("state", ["crashed", "lost its init.json", "damaged"])
def test_down_leaves_nothing_of_a_cluster_that_is_not_as_it_should_be(state: str, steps: Steps) -> None:
    life.down(NAME, state_home() / NAME, steps)
    others = list(life.existing().values())
    before = hoststate.snapshot(without=others)
    cluster = life.up(wanted(NAME), steps)
    init = processes.read_init(cluster.state)
    assert init is not None
    if state == "crashed":
        kill(init.pid)
        wait_for("the kernel ends every process", lambda: not processes.marked(NAME), seconds=20)
    elif state == "damaged":
        (cluster.state / "cluster.json").write_text("{")
    else:
        processes.init_path(cluster.state).unlink()
    life.down(NAME, cluster.state, steps)
    nothing_is_left(before, others)


def nothing_is_left(before: dict[str, set[str]], others: Sequence[Cluster]) -> None:
    """The machine is as it was; what somebody else's short-lived processes do meanwhile is waited out."""

    def same() -> bool:
        left = hoststate.differences(before, hoststate.snapshot(without=others))
        if left:
            raise AssertionError("\n".join(left))
        return True

    wait_for("nothing is left behind", same, seconds=15, every=1)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def works(cluster: Cluster, refs: Mapping[str, str], steps: Steps) -> None:
    """A new pod is scheduled, pulled, started, resolves a Service's name and reaches it through its address."""
    target = target_of(cluster)
    url = f"http://server.{NAMESPACE}.svc"
    try:
        answer = visit(target, refs, steps, from_node=False, url=url, namespace=NAMESPACE)
    except Hopeless as failed:  # for one visit it is; the server's pods may still be coming back
        raise StepFailed(failed.reason) from failed
    assert answer.startswith("hello from ")


NAMESPACE = "survivors"


@pytest.fixture(scope="module")
def served(breakable: Cluster, breakable_target: Target, breakable_refs: Mapping[str, str], steps: Steps) -> Cluster:
    """The cluster with a Deployment of two replicas behind a Service."""
    from dev.demo import deploy_server

    breakable_target.kubectl("create", "namespace", NAMESPACE)
    deploy_server(breakable_target, breakable_refs, steps, NAMESPACE)
    return breakable


def component_is_back(cluster: Cluster, component: str, old: int) -> bool:
    with contextlib.suppress(StepFailed):
        return processes.component_pid(cluster, component) != old and healthy(cluster)
    return False


def healthy(cluster: Cluster) -> bool:
    states = life.component_states(cluster)
    return "node-0/kubelet" in states and set(states.values()) == {"RUNNING"}


@pytest.mark.parametrize("component", [*CONTROL_PLANE, *NODE])
def test_a_killed_component_comes_back_by_itself(
    served: Cluster, breakable_refs: Mapping[str, str], steps: Steps, component: str
) -> None:
    old = processes.component_pid(served, component)
    kill(old)
    wait_for(f"{component} is back", lambda: component_is_back(served, component, old), seconds=90)
    wait_for("the cluster works", lambda: works(served, breakable_refs, steps) is None, seconds=120, every=1)


def test_up_waits_until_a_node_that_has_just_restarted_takes_pods_with_gpus(
    served: Cluster, breakable_refs: Mapping[str, str], steps: Steps
) -> None:
    """The API still says what the kubelet before the restart said; a pod that trusts it is refused for good."""
    target = target_of(served)
    old = processes.component_pid(served, "node-0")
    kill(old)
    wait_for("the node restarts", lambda: component_is_back(served, "node-0", old), seconds=60)
    life.up(wanted(served.name), steps)
    limits = {"spec": {"containers": [{"name": "gpu", "resources": {"limits": {"nvidia.com/gpu": 1}}}]}}
    target.kubectl(
        "run", "gpu", f"--image={breakable_refs['server']}", "--restart=Never", "--override-type=strategic",
        f"--overrides={json.dumps(limits)}", "--", "--version",
    )  # fmt: skip
    target.kubectl("wait", "pod/gpu", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s", timeout=70)
    target.kubectl("delete", "pod", "gpu", "--wait=false")


def test_up_mends_a_cluster_whose_supervisor_was_killed(
    served: Cluster, breakable_refs: Mapping[str, str], steps: Steps
) -> None:
    init = processes.read_init(served.state)
    assert init is not None
    family = psutil.Process(init.pid).children(recursive=True)
    kill(init.pid)
    psutil.wait_procs(family, timeout=20)
    assert not processes.marked(served.name), "the kernel ends all with the first"
    life.up(wanted(served.name), steps)
    wait_for("the cluster works", lambda: works(served, breakable_refs, steps) is None, seconds=120, every=1)


def test_up_mends_a_cluster_after_a_reboot(served: Cluster, breakable_refs: Mapping[str, str], steps: Steps) -> None:
    """After a reboot there are no processes, no links, no routes and no cgroups; the state folder is as it was."""
    from devcluster import host

    init = processes.read_init(served.state)
    assert init is not None
    kill(init.pid)
    wait_for("all has ended", lambda: not processes.marked(served.name), seconds=20)
    host.remove_links(served.slot)
    wait_for("the cgroups are empty", lambda: not host.remove_cgroups(served.cgroup), seconds=20)
    life.up(wanted(served.name), steps)
    wait_for("the cluster works", lambda: works(served, breakable_refs, steps) is None, seconds=120, every=1)


def test_up_changes_nothing_in_a_cluster_that_is_up(served: Cluster, steps: Steps) -> None:
    log = served.log / "audit.log"
    before = {name: processes.component_pid(served, name) for name in CONTROL_PLANE}
    size = log.stat().st_size
    life.up(wanted(served.name), steps)
    assert {name: processes.component_pid(served, name) for name in CONTROL_PLANE} == before
    with log.open() as events:
        events.seek(size)
        written = [line for line in events if '"username":"modelwright-admin"' in line and '"verb":"patch"' in line]
    assert written == []
