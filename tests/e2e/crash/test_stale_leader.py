"""A leader sleeps past its Lease while a write of its is under way: another replica leads by then, and what arrives
late is refused, or changes nothing. Told by the API server's audit log.

Each replica has a service account of its own with the rights that the chart gives, and so its own name in that log.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from modelwright.kube.resources import JOBS, MODELVERSIONS, TRAININGJOBS

from dev.install import CHART, helm
from devcluster.progress import wait_for
from tests.e2e.crash import operator, stories
from tests.e2e.crash.conftest import World
from tests.faults.proxy import Fault, Proxy, Request
from tests.faults.scenario import Run, Scenario


@dataclasses.dataclass
class Replica:
    """`user` is its name in the audit log."""

    user: str
    proxy: Proxy
    process: subprocess.Popen[bytes]

    def wrote(self, label: str) -> bool:
        """Whether a write of that label was taken by the server."""
        return any(one.label == label and one.code is not None and one.code < 300 for one in self.proxy.writes)

    @property
    def leads(self) -> bool:
        return self.wrote("the Lease is made") or self.wrote("the Lease is renewed")


@contextlib.contextmanager
def replica(world: World, namespace: str, name: str, folder: Path) -> Iterator[Replica]:
    settings = f"watchNamespace={namespace},image=none,trainerImage=none"
    command = [
        *helm(world.target), "template", name, CHART, "--show-only", "templates/rbac.yaml",
        "--namespace", namespace, "--set", settings,
    ]  # fmt: skip
    roles = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    world.target.kubectl("apply", "--filename", "-", stdin=roles)
    user = f"system:serviceaccount:{namespace}:{name}"
    folder.mkdir()
    with (
        Proxy(world.kubeconfig, folder, label=operator.label, impersonate=user) as proxy,
        (folder / "log").open("wb") as log,
    ):
        words = [str(word) for word in operator.command(world, proxy.kubeconfig, namespace)]
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            yield Replica(user, proxy, process)
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def two_replicas(world: World, scenario: Scenario, folder: Path) -> Iterator[tuple[Run, Replica, Replica]]:
    """In a namespace of their own; the first leads, the second waits. The run is for looking at objects."""
    with Proxy(world.kubeconfig, folder) as direct:
        made = direct.ask("POST", "/api/v1/namespaces", {"metadata": {"generateName": "stale-"}})
        namespace = str(made["metadata"]["name"])
        run = Run(scenario, direct, namespace, folder / "unused.log")
        try:
            with replica(world, namespace, "replica-one", folder / "one") as one:
                wait_for("the first leads", lambda: one.leads, seconds=60, every=0.1)
                with replica(world, namespace, "replica-two", folder / "two") as two:
                    yield run, one, two
        finally:
            direct.ask("DELETE", f"/api/v1/namespaces/{namespace}")


def audited(world: World, namespace: str, user: str) -> list[dict[str, Any]]:
    """The requests of a user in the namespace that are no reads, in order of their arrival."""
    found = []
    for line in world.audit_log.read_text().splitlines():
        if namespace in line and user in line:
            event = json.loads(line)
            who = (event.get("impersonatedUser") or {}).get("username")
            if who == user and event["verb"] not in {"get", "list", "watch"}:
                found.append(event)
    return sorted(found, key=lambda event: str(event["requestReceivedTimestamp"]))


def is_lease(event: dict[str, Any]) -> bool:
    return bool(event["objectRef"]["resource"] == "leases")


def test_what_a_leader_writes_after_its_lease_is_refused(world: World, tmp_path: Path) -> None:
    # Long enough that the training goes on when the second leads: what has ended has no progress to tell.
    stale_leader(world, tmp_path, "told along: trainingjob digits progress", epochs=600)


@pytest.mark.long
@pytest.mark.parametrize(
    "held",
    [
        "POST configmaps digits-<uid>-1",
        "POST jobs digits-<uid>-1",
        "status of trainingjob digits: Running",
        "status of trainingjob digits: artifact, metrics, modelVersionRef",
        "POST modelversions digits-v1-0-0",
    ],
)
def test_so_is_each_write_that_moves_a_training_on(world: World, tmp_path: Path, held: str) -> None:
    stale_leader(world, tmp_path, held)


def stale_leader(world: World, folder: Path, held: str, *, epochs: int = 60) -> None:
    """The write `held` is under way when its sender is stopped, and arrives once the other replica has made it too."""
    with two_replicas(world, stories.train(world), folder) as (run, one, two):
        arrives = threading.Event()
        held_up = one.proxy.add(Fault(lambda request: operator.label(request) == held, until=arrives.is_set))
        stories.begin(world, run, stories.training_job(epochs=epochs, workers=1))
        wait_for(f"under way: {held}", lambda: held_up.met, seconds=120, every=0.02)
        one.process.send_signal(signal.SIGSTOP)
        wait_for("the second leads", lambda: two.leads, seconds=60, every=0.1)
        wait_for(f"the second's own: {held}", lambda: two.wrote(held), seconds=120, every=0.05)
        arrives.set()
        late = next(write for write in one.proxy.writes if write.label == held)
        wait_for("the late write is answered", lambda: late.code is not None, seconds=20, every=0.02)
        one.process.send_signal(signal.SIGCONT)
        assert one.process.wait(60) == 1, "a replica that has lost its Lease ends"
        run.wait("it succeeds", lambda: stories.succeeded(run))
        expected_once(run)
        assert late.code == 409
        check_audit(world, run.namespace, one, two)


def expected_once(run: Run) -> None:
    """All of one training, made once."""
    assert len(run.objects(JOBS)) == len(run.objects(MODELVERSIONS)) == len(run.objects(TRAININGJOBS)) == 1
    assert stories.status(run)["attempt"]["number"] == 1


def check_audit(world: World, namespace: str, one: Replica, two: Replica) -> None:
    """From when the second has the Lease, the server has refused whatever the first one sent."""
    of_one, of_two = (audited(world, namespace, replica.user) for replica in (one, two))
    leads_from = next(e["stageTimestamp"] for e in of_two if is_lease(e) and e["responseStatus"]["code"] < 300)
    stale = [event for event in of_one if event["requestReceivedTimestamp"] > leads_from]
    print(f"\n{len(of_one)} writes by the first, {len(of_two)} by the second; by the first after its Lease:")
    for event in stale:
        reference = event["objectRef"]
        what = "/".join(filter(None, (reference["resource"], reference.get("subresource"), reference.get("name"))))
        print(
            f"  {event['verb']} {what}: {event['responseStatus']['code']} {event['responseStatus'].get('reason', '')}"
        )
    assert stale, "the held write is among them"
    assert all(event["responseStatus"]["code"] == 409 for event in stale)
    early = [e for e in of_two if not is_lease(e) and e["requestReceivedTimestamp"] < leads_from]
    assert not early, "the second wrote nothing before it led"


@pytest.mark.long
def test_a_late_suspension_changes_nothing(world: World, tmp_path: Path) -> None:
    """The one write without a version: it says the same of the same Job, whoever says it and when."""
    with two_replicas(world, stories.suspend_and_resume(world), tmp_path) as (run, one, _two):
        arrives = threading.Event()

        def suspends(request: Request) -> bool:
            return request.method == "PATCH" and request.resource == "jobs"

        held_up = one.proxy.add(Fault(suspends, until=arrives.is_set))
        stories.begin(world, run, stories.training_job(epochs=200, workers=1))
        run.wait("it trains", lambda: stories.progress(run).step > 0)
        run.patch(TRAININGJOBS, stories.NAME, {"spec": {"suspend": True}})
        wait_for("the suspension is under way", lambda: held_up.met, seconds=60, every=0.02)
        one.process.send_signal(signal.SIGSTOP)
        run.wait("it is suspended by the second", lambda: stories.status(run).get("phase") == "Suspended")
        run.patch(TRAININGJOBS, stories.NAME, {"spec": {"suspend": False}})
        run.wait("the second attempt", lambda: len(run.objects(JOBS)) == 2)
        first = min(run.objects(JOBS), key=lambda job: str(job["metadata"]["name"]))
        arrives.set()
        late = next(write for write in one.proxy.writes if write.label.startswith("PATCH jobs"))
        wait_for("the late write is answered", lambda: late.code is not None, seconds=20, every=0.02)
        one.process.send_signal(signal.SIGCONT)
        assert one.process.wait(60) == 1
        assert late.code == 200
        again = run.get(JOBS, first["metadata"]["name"])
        assert again is not None
        assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"], "identical"
        run.wait("it succeeds", lambda: stories.succeeded(run))
