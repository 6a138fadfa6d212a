"""What users do with an InferenceService that clients ask all along, told so that it can be told again with a kill at
any write of the operator.

Each run has a service that serves 1.0.0 at rest, and clients that ask it, before its first write counts. The clients
are processes of this machine and ask the Service's own address, through the node's proxy rules as anybody does: one
keeps its connections, one makes a new one for each request. They never send a request twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from modelwright import artifact, versions
from modelwright.api.inference_service import InferenceService
from modelwright.api.versions import model_version_name
from modelwright.controllers.inferenceservice.children import revision_name
from modelwright.controllers.modelversion.use import FINALIZER
from modelwright.kube.resources import (
    DEPLOYMENTS,
    ENDPOINTSLICES,
    INFERENCESERVICES,
    JOBS,
    MODELS,
    MODELVERSIONS,
    PODS,
    SECRETS,
    SERVICES,
    Resource,
)

from dev import load
from dev.demo import BUCKET
from dev.releases import artifact_store
from tests.e2e.crash import operator
from tests.e2e.crash.conftest import World
from tests.faults.proxy import Request
from tests.faults.scenario import Run, Scenario, phase
from tests.server import artifacts

NAME = "iris"
CHANNEL = "stable"
FIRST, NEXT, ERRING = "1.0.0", "1.1.0", "1.2.0"
REPLICASETS = Resource("apps", "v1", "replicasets", "ReplicaSet")
CHILDREN = (DEPLOYMENTS, REPLICASETS, PODS, SERVICES, JOBS)
ALL = (INFERENCESERVICES, MODELS, MODELVERSIONS, *CHILDREN)
# Of the client's rows every fourth makes the erring version fail, and no other.
_EVERY_FOURTH = 4
_MODES: tuple[load.Mode, ...] = ("keepalive", "new")
_SETTLING = {"active", "previous", "failed", "acted"}


@dataclasses.dataclass(frozen=True)
class Versions:
    """Versions in the store of the world, and what clients ask them."""

    world: World
    artifacts: dict[str, tuple[str, str]]
    """URI and digest, by number."""
    bodies: Path

    @classmethod
    def publish(cls, world: World, folder: Path) -> Versions:
        made = {}
        for seed, version in enumerate((FIRST, NEXT, ERRING)):
            nodes = artifacts.fails_on_large_values() if version == ERRING else None
            here = artifacts.publish(folder, version=version, seed=seed, nodes=nodes)
            uri = artifact.manifest_uri(f"s3://{BUCKET}/crash-serving", "team-a", NAME, version)
            store = artifact_store(world.store, uri)
            made[version] = uri, versions.publish(store, uri, here.manifest, here.folder)
        rows = np.random.default_rng(2).normal(size=(40, artifacts.FEATURES))
        rows[::_EVERY_FOURTH, 0] = 150.0
        bodies = folder / "bodies.json"
        bodies.write_text(json.dumps([_body(row) for row in rows]))
        return cls(world, made, bodies)


def _body(row: np.ndarray[Any, Any]) -> dict[str, Any]:
    shape = [1, artifacts.FEATURES]
    return {"inputs": [{"name": "features", "shape": shape, "datatype": "FP32", "data": row.tolist()}]}


@dataclasses.dataclass(frozen=True)
class Client:
    """A process that asks all along. `output` is where it tells of it."""

    mode: str
    process: subprocess.Popen[bytes]
    output: Path

    def told(self) -> dict[str, Any]:
        """The last whole line that it said."""
        lines = self.output.read_text().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        return dict(json.loads(whole[-1])) if whole else {"sent": 0, "failed": 0}

    def end(self) -> dict[str, Any]:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        return {"mode": self.mode, **self.told()}


@dataclasses.dataclass
class Traffic:
    """The clients of one run. `ended` holds what each of them told at last."""

    clients: list[Client] = dataclasses.field(default_factory=list)
    ended: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    service_seen: float = 0.0
    """When the Service was there for the last time, as far as was looked (Unix time)."""

    def begin(self, run: Run, bodies: Path, folder: Path) -> None:
        service = run.get(SERVICES, NAME)
        assert service is not None
        for mode in _MODES:
            output = folder / f"{mode}.log"
            words = [
                # The kernel ends a client with the thread that tells the run, however that ends.
                "setpriv", "--pdeathsig", "KILL", sys.executable, load.__file__,
                "--url", f"http://{service['spec']['clusterIP']}", "--model", NAME,
                "--bodies", bodies, "--mode", mode, "--workers", "2", "--pause", "0.08",
            ]  # fmt: skip
            with output.open("wb") as file:
                process = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=file)
            self.clients.append(Client(mode, process, output))
        run.wait("the clients ask", lambda: all(client.told()["sent"] >= 10 for client in self.clients))

    def end(self) -> None:
        if not self.ended:
            for client in self.clients:
                client.process.send_signal(signal.SIGTERM)
            self.ended += [client.end() for client in self.clients]

    def kill(self) -> None:
        for client in self.clients:
            client.process.kill()
            client.process.wait()


@dataclasses.dataclass(frozen=True)
class Claim:
    """What clients may see: answers of these versions, of the last one at the end; and errors of the version `errs`
    itself, where one does. `deleted`: of a Service that is not there any more nothing is claimed but that no request
    is broken off."""

    versions: frozenset[str]
    last: str
    errs: str = ""
    deleted: bool = False

    def violations(self, traffic: Traffic) -> Iterator[str]:
        for told in traffic.ended:
            who = f"client {told['mode']}"
            if "spans" not in told:
                yield f"{who} told no result"
                continue
            forgiven = self._forgiven(told, traffic.service_seen)
            lost = {why: count - forgiven[why] for why, count in told["why"].items() if count > forgiven[why]}
            if lost:
                yield f"{who}: of {told['sent']} requests {sum(lost.values())} failed: {lost}; {told['failures'][:3]}"
            # An outage of seconds loses nothing to a client that waits for ten: connections that nobody took when they
            # were first asked for tell of it.
            if told["triedAgain"] and not self.deleted:
                yield (
                    f"{who}: {told['triedAgain']} of {told['connections']} connections had to be tried again:"
                    f" {told['triedAgainAt'][:3]}"
                )
            answers = [span for row in told["spans"] for span in row if span["version"]]
            if strange := {span["version"] for span in answers} - self.versions:
                yield f"{who} was answered by {sorted(strange)}"
            last = {row[-1]["version"] for row in told["spans"] if row}
            if not self.deleted and last != {self.last}:
                yield f"{who} was last answered by {sorted(last)}, not {self.last}"

    def _forgiven(self, told: dict[str, Any], service_seen: float) -> Counter[str]:
        """How many failures of each kind are no violations."""
        forgiven: Counter[str] = Counter()
        if self.errs:
            own = f"{self.errs}: status 500"
            forgiven[own] = told["why"].get(own, 0)
        if self.deleted:
            # A connection that nobody takes any more: the request was never sent. One that began while the Service was
            # there is a lost one; the margin is what a busy machine may keep a client from connecting.
            for failure in told["failures"]:
                if failure["why"].startswith(load.NO_CONNECTION) and failure["at"] > service_seen - 0.2:
                    forgiven[f"no answer: {failure['why']}"] += 1
        return forgiven


@dataclasses.dataclass
class Story:
    """A scenario in the making. `sent` and `forgiven` add up over all its runs."""

    versions: Versions
    name: str
    claim: Claim
    act: Callable[[Story, Run], None]
    settled: Callable[[Run], bool]
    begun: Callable[[Story, Run], None] = lambda *_: None
    """What the user did before the deed from which on writes count."""
    recurring: bool = False
    """Whether what is written as often as there is time for counts, once of each kind. It is the same in all stories,
    and so a point of one of them."""
    rollout: dict[str, Any] = dataclasses.field(default_factory=dict)
    replicas: int = 1
    revisions: dict[str, str] = dataclasses.field(default_factory=dict)
    """The revisions of all runs, which are named after a hash of their service's uid: what to read in their place."""
    traffic: dict[str, Traffic] = dataclasses.field(default_factory=dict)
    """By namespace."""

    def scenario(self) -> Scenario:
        return Scenario(
            name=self.name,
            command=lambda run: operator.command(self.versions.world, run.kubeconfig, run.namespace),
            act=lambda run: self.act(self, run),
            settled=self.settled,
            resources=ALL,
            ignore=_uninteresting,
            state=_state,
            aliases=self._aliases,
            setting=self._served,
            label=self._label,
            recurring=operator.recurring,
            patience=300,
            # A look costs the API server what a pod's start costs more urgently.
            every=0.2,
        )

    def requests(self) -> str:
        """Over all runs, for the table."""
        ended = [told for traffic in self.traffic.values() for told in traffic.ended]
        why: Counter[str] = sum((Counter(told.get("why", {})) for told in ended), Counter())
        failed = f": {dict(why)}" if why else ""
        return (
            f"{self.name}: {sum(told['sent'] for told in ended)} requests in {len(self.traffic)} runs,"
            f" {sum(why.values())} failed{failed};"
            f" {sum(told.get('connections', 0) for told in ended)} connections,"
            f" {sum(told.get('triedAgain', 0) for told in ended)} tried again;"
            f" the slowest answer after {max((told.get('maxMs') or 0 for told in ended), default=0):.0f} ms"
        )

    def revision(self, run: Run, version: str) -> str:
        """Its name in the run."""
        service = run.get(INFERENCESERVICES, NAME)
        assert service is not None
        uri, digest = self.versions.artifacts[version]
        return revision_name(InferenceService.model_validate(service), digest, uri)

    # What is there before the first write counts

    @contextlib.contextmanager
    def _served(self, run: Run) -> Iterator[list[str]]:
        traffic = self.traffic[run.namespace] = Traffic()
        violations: list[str] = []
        try:
            self._serve(run)
            traffic.begin(run, self.versions.bodies, run.kubeconfig.parent)
            self.begun(self, run)
            run.wait("at rest", lambda: run.proxy.quiet_for() >= run.scenario.quiet)
            yield violations
            traffic.end()
            violations += self.claim.violations(traffic)
        finally:
            traffic.kill()

    def _serve(self, run: Run) -> None:
        run.create(
            SECRETS, {"metadata": {"name": operator.SECRET}, "stringData": self.versions.world.store.environment()}
        )
        for version, (uri, digest) in self.versions.artifacts.items():
            # As of a training that has published it and is deleted: Ready, by nothing but its status.
            name = model_version_name(NAME, version, None)
            source = {"trainingJobRef": {"name": "elsewhere"}}
            run.create(
                MODELVERSIONS,
                {"metadata": {"name": name}, "spec": {"model": NAME, "version": version, "source": source}},
            )
            status = {"status": {"artifact": {"uri": uri, "digest": digest}}}
            run.proxy.ask("PATCH", f"{MODELVERSIONS.path(namespace=run.namespace, name=name)}/status", status)
        run.create(MODELS, {"metadata": {"name": NAME}, "spec": {"channels": {CHANNEL: {"version": FIRST}}}})
        rollout = {
            "minReadySeconds": 0,
            "analysis": {"before": {"requests": 5}, "after": {"duration": "3s", "minRequests": 5}},
            "scaleDownDelay": "1s",
            "drainTimeout": "3s",
        } | self.rollout
        spec = {
            "model": {"name": NAME, "channel": CHANNEL},
            "replicas": self.replicas,
            "resources": {"requests": {"cpu": "20m", "memory": "96Mi"}},
            # The first version is no part of the story, and nobody's golden samples are asked for.
            "rollout": {**rollout, "analysis": {"before": {"requests": 0}}},
        }
        run.create(INFERENCESERVICES, {"metadata": {"name": NAME}, "spec": spec})
        for version in self.versions.artifacts:
            self.revisions[self.revision(run, version)] = f"{NAME}-<{version}>"
        run.wait(f"it serves {FIRST}", lambda: at_rest(run, FIRST, deployments=1))
        run.patch(INFERENCESERVICES, NAME, {"spec": {"rollout": rollout}})

    # How runs are compared

    def _plain(self, text: str) -> str:
        for name, alias in list(self.revisions.items()):
            text = text.replace(name, alias)
        return text

    def _aliases(self, obj: dict[str, Any]) -> dict[str, str]:
        template = obj["metadata"].get("labels", {}).get("pod-template-hash")
        return {**self.revisions, **({template: "<template>"} if template else {})}

    def _label(self, request: Request) -> str | None:
        """As of any write of the operator; of a status of ours the step of the change, and of a Service where it leads.
        What only tells along how many pods are ready, or what was measured, is written as often as there is time."""
        name = operator.label(request)
        if name is None or not request.is_write:
            return name
        if request.resource == "inferenceservices" and request.subresource == "status":
            settled = _settles(json.loads(request.body)["status"])
            name = f"status: {settled}" if settled else "told along: status"
        if request.resource == "services" and request.method == "PATCH":
            selector = json.loads(request.body)["spec"]["selector"]
            name = f"{name} to {selector['modelwright.dev/revision']}"
        return self._plain(name) if self.recurring or not operator.recurring(name) else None


def _settles(status: dict[str, Any]) -> str:
    rollout = status.get("rollout", {})
    if rollout is None:
        return ", ".join(["the change is over", *sorted(set(status) & _SETTLING)])
    settled = [str(rollout["step"])] if rollout.get("step") else []
    settled += ["switchedAt"] if rollout.get("switchedAt") else []
    settled += sorted(set(status) & _SETTLING)
    return ", ".join(settled)


def _uninteresting(obj: dict[str, Any]) -> bool:
    """Beside what Kubernetes puts into each namespace: pods that have ended, or are asked to."""
    if obj["metadata"]["name"] == "kube-root-ca.crt":
        return True
    return "containers" in obj.get("spec", {}) and (
        obj["status"].get("phase") in ("Succeeded", "Failed") or "deletionTimestamp" in obj["metadata"]
    )


def _state(obj: dict[str, Any]) -> str:
    """Of a service all that its status says but times, figures that were measured, and words."""
    status = obj.get("status") or {}
    if "selector" not in status or "observedGeneration" not in status:
        return operator.state(obj) if "channels" in status or "artifact" in status else phase(obj)
    conditions = sorted(
        f"{one['type']}={one['status']}:{one.get('reason', '')}" for one in status.get("conditions") or ()
    )
    failed = status.get("failed") or {}
    active, previous = ((status.get(which) or {}).get("name") for which in ("active", "previous"))
    said = [
        status["phase"], *conditions, f"version: {status.get('version')}", f"pods: {status.get('ready')}",
        f"active: {active}", f"previous: {previous}",
        f"rollout: {status.get('rollout')}", f"failed: {failed.get('version')} {failed.get('reason')}",
        f"acted: {status.get('acted')}",
    ]  # fmt: skip
    return "; ".join(said)


# What is waited for


def status(run: Run) -> dict[str, Any]:
    return dict((run.get(INFERENCESERVICES, NAME) or {}).get("status") or {})


def step(run: Run) -> str:
    return str((status(run).get("rollout") or {}).get("step", ""))


def pods(run: Run) -> list[dict[str, Any]]:
    """All, also those that end."""
    return list(run.proxy.ask("GET", PODS.path(namespace=run.namespace))["items"])


def at_rest(run: Run, version: str, *, deployments: int, failed: str = "") -> bool:
    """It serves the version, with all its pods and no others, both Services lead there, and nothing is under way. The
    conditions are the last that the operator has to say."""
    said = status(run)
    true = {one["type"] for one in said.get("conditions") or () if one["status"] == "True"}
    return (
        said.get("version") == version
        and true == ({"Ready", "Stalled"} if failed else {"Ready"})
        and not said.get("rollout")
        and (said.get("failed") or {}).get("reason", "") == failed
        and {leads(one) for one in run.objects(SERVICES)} == {said["active"]["name"]}
        and len(run.objects(DEPLOYMENTS)) == len(run.objects(REPLICASETS)) == deployments
        and not run.objects(JOBS)
        and len(pods(run)) == said.get("readyReplicas")
        and held(run) == {version, pointed_at(run)}
    )


def held(run: Run) -> set[str]:
    """The versions whose deletion would be held, since somebody serves them or is about to."""
    found = run.objects(MODELVERSIONS)
    return {str(one["spec"]["version"]) for one in found if FINALIZER in one["metadata"].get("finalizers", ())}


def pointed_at(run: Run) -> str:
    """The version that the channel points at."""
    model = run.get(MODELS, NAME) or {}
    return str(((model.get("status") or {}).get("channels") or {}).get(CHANNEL, {}).get("version"))


def leads(service: dict[str, Any]) -> str:
    """The revision that a Service sends requests to."""
    return str(service["spec"]["selector"]["modelwright.dev/revision"])


def gone(run: Run) -> bool:
    """With all that was made of it; a pod that ends is still there. Nothing holds a version any more."""
    resources = (INFERENCESERVICES, ENDPOINTSLICES, *CHILDREN)
    return (
        not held(run)
        and not any(run.objects(one) for one in resources)
        and not run.proxy.ask("GET", PODS.path(namespace=run.namespace))["items"]
    )


def point(run: Run, version: str) -> None:
    """The user's deed: one line of the Model."""
    run.patch(MODELS, NAME, {"spec": {"channels": {CHANNEL: {"version": version}}}})


def until(run: Run, version: str, reached: str) -> None:
    """An upgrade as far as this step."""
    point(run, version)
    run.wait(f"{version} is {reached}", lambda: step(run) == reached)


def say(story: Story, run: Run, what: str, version: str) -> None:
    """As `modelwright promote` and the like do."""
    word = {f"modelwright.dev/{what}": story.revision(run, version)}
    run.patch(INFERENCESERVICES, NAME, {"metadata": {"annotations": word}})


def delete(story: Story, run: Run) -> None:
    """The service. Clients ask on until the Service that they ask is gone."""
    traffic = story.traffic[run.namespace]
    run.delete(INFERENCESERVICES, NAME)

    def ended() -> bool:
        looked = time.time()
        if run.get(SERVICES, NAME) is None:
            return True
        traffic.service_seen = looked
        return False

    run.wait("the Service is gone", ended)
    traffic.end()


def retract(run: Run, version: str) -> None:
    run.patch(MODELVERSIONS, model_version_name(NAME, version, None), {"spec": {"retracted": {"reason": "wrong"}}})


# The stories


def upgrade(versions: Versions) -> Story:
    return Story(
        versions,
        "upgrade",
        Claim(frozenset({FIRST, NEXT}), last=NEXT),
        act=lambda _, run: point(run, NEXT),
        settled=lambda run: at_rest(run, NEXT, deployments=2),
        recurring=True,
    )


def abort(versions: Versions) -> Story:
    """While it waits for a person, who then does not want it."""
    return Story(
        versions,
        "abort",
        Claim(frozenset({FIRST}), last=FIRST),
        begun=lambda _, run: until(run, NEXT, "AwaitingPromotion"),
        act=lambda story, run: say(story, run, "abort", NEXT),
        settled=lambda run: at_rest(run, FIRST, deployments=1, failed="Aborted"),
        rollout={"promotion": "Manual"},
    )


def automatic_rollback(versions: Versions) -> Story:
    """A person promotes it, since its golden samples agree; and every fourth real request fails."""
    return Story(
        versions,
        "rollback",
        Claim(frozenset({FIRST, ERRING}), last=FIRST, errs=ERRING),
        begun=lambda _, run: until(run, ERRING, "AwaitingPromotion"),
        act=lambda story, run: say(story, run, "promote", ERRING),
        settled=lambda run: at_rest(run, FIRST, deployments=1, failed="AnalysisFailed"),
        rollout={"promotion": "Manual"},
    )


def revert(versions: Versions) -> Story:
    """The channel goes back while the new version is watched: so long that no restart of the operator outlasts it."""
    return Story(
        versions,
        "revert",
        Claim(frozenset({FIRST, NEXT}), last=FIRST),
        begun=lambda _, run: until(run, NEXT, "Observing"),
        act=lambda _, run: point(run, FIRST),
        settled=lambda run: at_rest(run, FIRST, deployments=2),
        rollout={"analysis": {"before": {"requests": 5}, "after": {"duration": "60s", "minRequests": 5}}},
    )


def deletion_at_once(versions: Versions) -> Story:
    """As soon as the new version's Deployment is there, so that the operator is about to go on, or dead."""

    def act(story: Story, run: Run) -> None:
        point(run, NEXT)
        target = story.revision(run, NEXT)
        run.wait("the new version's Deployment", lambda: run.get(DEPLOYMENTS, target))
        delete(story, run)

    return Story(
        versions,
        "delete-early",
        Claim(frozenset({FIRST}), last="", deleted=True),
        act=act,
        settled=gone,
    )


def deletion_in_mid_switch(versions: Versions) -> Story:
    """As soon as the Service leads to the new version."""

    def act(story: Story, run: Run) -> None:
        say(story, run, "promote", NEXT)
        target = story.revision(run, NEXT)

        def switched() -> bool:
            service = run.get(SERVICES, NAME)
            return service is not None and leads(service) == target

        run.wait("the Service leads to the new version", switched)
        delete(story, run)

    return Story(
        versions,
        "delete",
        Claim(frozenset({FIRST, NEXT}), last="", deleted=True),
        begun=lambda _, run: until(run, NEXT, "AwaitingPromotion"),
        act=act,
        settled=gone,
        rollout={"promotion": "Manual"},
    )


def retraction(versions: Versions) -> Story:
    """The version that answers is taken back: the channel goes back, and the service with it."""

    def begun(_: Story, run: Run) -> None:
        point(run, NEXT)
        run.wait(f"it serves {NEXT}", lambda: at_rest(run, NEXT, deployments=2))

    return Story(
        versions,
        "retract",
        Claim(frozenset({FIRST, NEXT}), last=FIRST),
        begun=begun,
        act=lambda _, run: retract(run, NEXT),
        settled=lambda run: at_rest(run, FIRST, deployments=2),
    )


def deletion_of_a_served_version(versions: Versions) -> Story:
    """It is held until the channel, and with it the service, has left it."""
    name = model_version_name(NAME, FIRST, None)

    def act(_: Story, run: Run) -> None:
        run.delete(MODELVERSIONS, name)
        assert run.get(MODELVERSIONS, name) is not None
        point(run, NEXT)

    return Story(
        versions,
        "delete-version",
        Claim(frozenset({FIRST, NEXT}), last=NEXT),
        act=act,
        settled=lambda run: at_rest(run, NEXT, deployments=2) and run.get(MODELVERSIONS, name) is None,
    )
