"""A world to plan in: what the children of one InferenceService do when they are told to, in steps of a second.

It is no Kubernetes and claims nothing of it; tests/e2e do that. It is for the plan's own promises, in every order of
events and with a crash after any deed."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections.abc import Callable

from modelwright.api.base import StatusRef
from modelwright.api.inference_service import InferenceServiceStatus, Revision
from modelwright.controllers.inferenceservice.observed import DeploymentView, JobView, PodView, ServiceView
from modelwright.controllers.inferenceservice.plan import (
    Action,
    DeleteAnalysis,
    DeleteDeployment,
    Drain,
    MakeDeployment,
    MakeService,
    Plan,
    Point,
    Scale,
    Seen,
    StartAnalysis,
    Wanted,
    plan,
)
from modelwright.controllers.inferenceservice.telemetry import Telemetry
from modelwright.serving import AnalysisSummary, ServingFailure

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def revision(version: str) -> Revision:
    return Revision(
        name=f"svc-{version.replace('.', '')}",
        version=version,
        digest="sha256:" + hashlib.sha256(version.encode()).hexdigest(),
        uri=f"s3://bucket/models/team/digits/versions/{version}/manifest.json",
        model_version_ref=StatusRef(name=f"digits-v{version.replace('.', '-')}"),
        image="server:1",
        template=1,
    )


@dataclasses.dataclass
class Pods:
    """A Deployment: `ages` are the seconds that each pod has lived."""

    revision: Revision
    replicas: int
    ages: list[int] = dataclasses.field(default_factory=list)
    draining: bool = False
    requests: int = 0
    errors: int = 0

    def ready(self, starts_in: int) -> int:
        return sum(age >= starts_in for age in self.ages)


class World:
    """`broken`: versions whose pods cannot serve; `errs`: whose answers are errors; `mismatches`: whose golden samples
    disagree; `room`: how many pods fit."""

    def __init__(self, *, room: int = 100, starts_in: int = 2, traffic: int = 10) -> None:
        self.room, self.starts_in, self.traffic = room, starts_in, traffic
        self.now = START
        self.status = InferenceServiceStatus()
        self.deployments: dict[str, Pods] = {}
        self.active: str | None = None
        self.preview: str | None = None
        self.endpoints: str | None = None
        self.job: tuple[str, int] | None = None
        self.broken: set[str] = set()
        self.errs: set[str] = set()
        self.mismatches: set[str] = set()
        self.killed: set[str] = set()
        self.lost: list[str] = []
        self.deeds: list[Action] = []
        self.events: list[str] = []
        self._version = 0

    # What the plan sees

    def seen(self) -> Seen:
        pods = [pod for one in self.deployments.values() for pod in self._pods(one)]
        if self.job is not None and self.job[1] >= 2:
            pods.append(self._analysis_pod())
        return Seen(
            deployments={name: self._deployment(one) for name, one in self.deployments.items()},
            pods=pods,
            active=self._service("svc", self.active),
            preview=self._service("svc-preview", self.preview),
            endpoints=tuple(
                (pod.name, pod.ready)
                for one in self.deployments.values()
                if one.revision.name == self.endpoints
                for pod in self._pods(one)
            ),
            analyses=[self._analysis()] if self.job is not None else [],
            telemetry={
                pod.name: Telemetry(
                    one.draining, 0 if one.draining else 3, 0, one.requests // max(1, len(one.ages)),
                    one.errors // max(1, len(one.ages)), ((0.01, one.requests), (float("inf"), one.requests)),
                )
                for one in self.deployments.values()
                for pod in self._pods(one)
            },
        )  # fmt: skip

    def _service(self, name: str, selects: str | None) -> ServiceView | None:
        return None if selects is None else ServiceView(name, name, "svc", selects, deleting=False)

    def _fits(self) -> int:
        return self.room - sum(len(one.ages) for one in self.deployments.values())

    def _ready(self, one: Pods) -> int:
        return 0 if one.revision.version in self.broken else one.ready(self.starts_in)

    def _deployment(self, one: Pods) -> DeploymentView:
        name, ready = one.revision.name, self._ready(one)
        return DeploymentView(name, name, "svc", name, one.replicas, ready, ready, "", deleting=False)

    def _pods(self, one: Pods) -> list[PodView]:
        made = []
        for index in range(max(one.replicas, len(one.ages))):
            age = one.ages[index] if index < len(one.ages) else None
            ready = age is not None and age >= self.starts_in and one.revision.version not in self.broken
            broken = one.revision.version in self.broken and age is not None and age >= 1
            failure = ServingFailure(reason="ArtifactDamaged", message="model.onnx is not what its digest says")
            made.append(
                PodView(
                    namespace="team", name=f"{one.revision.name}-{index}", service="svc", revision=one.revision.name,
                    role="server", job_uid="rs", phase="Pending" if age is None else "Running",
                    ip="" if age is None else f"{one.revision.name}/{index}", ready=ready, restarts=0,
                    unschedulable="" if age is not None else "0/1 nodes are available: 1 Insufficient cpu.",
                    waits_reason="", waits="", exit_code=10 if broken else None, exit_reason="Error" if broken else "",
                    message=failure.to_message() if broken else "", deleting=False,
                )
            )  # fmt: skip
        return made

    def _analysis(self) -> JobView:
        assert self.job is not None
        name, age = self.job
        return JobView(f"{name}-analysis", "job", "svc", name, "Complete" if age >= 2 else "", "", deleting=False)

    def _analysis_pod(self) -> PodView:
        assert self.job is not None
        name, _ = self.job
        version = self.deployments[name].revision.version if name in self.deployments else ""
        wrong = 50 if version in self.mismatches else 0
        summary = AnalysisSummary(requests=50, mismatches=wrong, p50_ms=1, p99_ms=2, max_ms=3)
        return PodView(
            namespace="team", name="analysis", service="svc", revision=name, role="analysis", job_uid="job",
            phase="Succeeded", ip="", ready=False, restarts=0, unschedulable="", waits_reason="", waits="",
            exit_code=0, exit_reason="Completed", message=summary.to_message(), deleting=False,
        )  # fmt: skip

    # What happens

    def reconcile(self, wanted: Wanted, *, dies_after: int | None = None) -> Plan:
        """One pass; with `dies_after` it is cut off after so many deeds, and nothing is written."""
        made = plan(wanted, self.status, self.seen(), self.now)
        for number, action in enumerate(made.actions):
            if dies_after is not None and number >= dies_after:
                return made
            self._do(action)
        if dies_after is None:
            self.status = made.status
            self.events += [event.reason for event in made.events]
        return made

    def _do(self, action: Action) -> None:
        self.deeds.append(action)
        match action:
            case MakeService(preview, name):
                if preview:
                    self.preview = name or "none"
                else:
                    self.active = name or "none"
            case Point(view, name):
                if view.name == "svc":
                    self._refuse_unready(name)
                    self.active = name
                else:
                    self.preview = name
            case MakeDeployment(of, replicas):
                self.deployments.setdefault(of.name, Pods(of, replicas))
            case Scale(view, replicas):
                if replicas < view.replicas:
                    self._refuse_asked(view.name, f"scaled to {replicas}", all_of_them=replicas == 0)
                self.deployments[view.name].replicas = replicas
            case DeleteDeployment(view):
                self._refuse_asked(view.name, "deleted", all_of_them=True)
                self.deployments.pop(view.name, None)
            case Drain(addresses, on):
                for address in addresses:
                    self.deployments[address.split("/")[0]].draining = on
            case StartAnalysis(of):
                self.job = self.job or (of.name, 0)
            case DeleteAnalysis():
                self.job = None

    def _refuse_unready(self, name: str) -> None:
        to, of = self.deployments.get(name), self.deployments.get(self.active or "")
        if (to is None or self._ready(to) == 0) and (of is None or self._ready(of) > 0 or not self.status.active):
            self.lost.append(f"all requests are sent to {name}, of which no pod is ready")
        if to is not None and to.draining:
            self.lost.append(f"all requests are sent to {name}, whose pods close every connection")

    def _refuse_asked(self, name: str, what: str, *, all_of_them: bool) -> None:
        asked = {self.active, self.endpoints}
        if all_of_them and name in asked:
            self.lost.append(f"{name} is {what} while it is asked")

    def kill(self, version: str) -> None:
        """All pods of the version die, and start again."""
        for one in self.deployments.values():
            if one.revision.version == version:
                one.ages, one.draining = [0 for _ in one.ages], False
                one.requests = one.errors = 0
                self.killed.add(version)

    def second(self) -> None:
        """Pods start and end, requests are answered, the endpoints follow the Service."""
        self.now += datetime.timedelta(seconds=1)
        for one in self.deployments.values():
            one.ages = [age + 1 for age in one.ages[: one.replicas]]
            while len(one.ages) < one.replicas and self._fits() > 0:
                one.ages.append(0)
        if self.job is not None:
            self.job = (self.job[0], self.job[1] + 1)
        asked = self.deployments.get(self.endpoints or "")
        if asked is not None and self.traffic:
            if self._ready(asked) == 0 and asked.revision.version not in self.killed:
                self.lost.append(f"nobody of {self.endpoints} answers")
            asked.requests += self.traffic
            asked.errors += self.traffic if asked.revision.version in self.errs else 0
        if self.active in self.deployments:
            self.endpoints = self.active

    def run(self, wanted: Wanted, seconds: int = 200, until: Callable[[], bool] | None = None) -> None:
        """Passes, as often as the plan wants, second by second; ends at `until`, or when all is at rest."""
        for _ in range(seconds):
            for _ in range(20):
                made = self.reconcile(wanted)
                if until is not None and until():
                    return
                if made.look_again != 0.0:
                    break
            else:
                raise AssertionError(f"the plan never rests: {self.status}")
            before = len(self.deeds)
            self.second()
            rests = until is None and self.status.rollout is None
            if rests and self.reconcile(wanted).look_again is None and len(self.deeds) == before:
                return
        if until is not None:
            raise AssertionError(f"it did not come to that: {self.status}")
