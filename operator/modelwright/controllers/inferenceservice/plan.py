"""The decisions of an InferenceService, pure: from what is wanted and what is seen to what is to be done.

A change goes step by step (`RolloutStatus.step`). Each pass does what the step that is written in status asks for, and
may end with another step written there; what that one asks for is done in the next pass. So an intent is always on
record before its deed, and a pass that is repeated, or begun by another replica, does the same again.

Until the switch the target has no requests and can be dropped at any time. From the switch on it is the active one, and
the one before stays, whole, until the analysis and `scaleDownDelay` are over.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence

from modelwright.api.inference_service import (
    FailedRevision,
    InferenceServiceStatus,
    Observation,
    Revision,
    RolloutStatus,
    RolloutStep,
)
from modelwright.api.types import figure, to_the_second
from modelwright.controllers.inferenceservice import words
from modelwright.controllers.inferenceservice.observed import DeploymentView, JobView, PodView, ServiceView
from modelwright.controllers.inferenceservice.telemetry import Telemetry, total
from modelwright.kube import conditions
from modelwright.kube.conditions import State
from modelwright.serving import AnalysisSummary, Reason, version_label

# Between the moment when the EndpointSlices hold the new pods only and the one from which every node's proxy is counted
# on to know: kube-proxy hears of a slice at once, and writes its rules at most once a second (minSyncPeriod).
PROXY_SECONDS = 3.0
# Between two looks at pods, which tell of themselves only when asked.
LOOK_SECONDS = 1.0
_BEFORE_THE_SWITCH = frozenset({"Starting", "Analysing", "AwaitingPromotion", "Switching"})
# What another start of the pod cannot mend. Wrong credentials are not among it: a Secret can be corrected.
_HOPELESS = frozenset(
    reason.reason
    for reason in (
        Reason.ARTIFACT_DAMAGED, Reason.GOLDEN_MISMATCH, Reason.FORMAT_UNAVAILABLE, Reason.VERSION_MISMATCH,
        Reason.LOAD_FAILED, Reason.INVALID_RUN,
    )
)  # fmt: skip
# How long a switch back waits for the old pods to confirm that they drain no more: errors weigh more than a closed
# connection.
UNDRAIN_SECONDS = 5.0
# Status shows the figures of a running observation so often.
SHOW_SECONDS = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What the spec asks for, as far as the plan goes; times in seconds. `target` is None where there is no version to
    serve, and then `problem` says why, and `problem_stalls` whether a person must act. `withdrawn` is why the version
    that is changed to just now may not be served any more. `promote`, `abort` and `rollback` are what a person asks, as
    annotations: a revision, and after an @ anything that makes it another asking; `retry` is the time of the failure
    that is to be tried again."""

    replicas: int
    asked: str
    target: Revision | None
    problem_reason: str = ""
    problem: str = ""
    problem_stalls: bool = False
    withdrawn: str = ""
    manual: bool = False
    ready_timeout: float = 600.0
    before_requests: int = 50
    before_max_p99: float | None = None
    after_seconds: float = 60.0
    after_min_requests: int = 20
    after_max_error_rate: float = 0.01
    after_max_p99: float | None = None
    scale_down_delay: float = 30.0
    drain_timeout: float = 30.0
    promote: str = ""
    abort: str = ""
    rollback: str = ""
    retry: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """The children. `endpoints` are those of the active Service: pods, and whether each is ready. `telemetry` is of the
    pods that were asked in this pass; None of one that did not answer."""

    deployments: Mapping[str, DeploymentView]
    pods: Sequence[PodView]
    active: ServiceView | None
    preview: ServiceView | None
    endpoints: Sequence[tuple[str, bool]] = ()
    analyses: Sequence[JobView] = ()
    telemetry: Mapping[str, Telemetry | None] = dataclasses.field(default_factory=dict)

    def servers(self, revision: str) -> list[PodView]:
        return [pod for pod in self.pods if pod.revision == revision and pod.role == "server"]

    def told(self, revision: str) -> list[Telemetry]:
        found = (self.telemetry.get(pod.name) for pod in self.servers(revision))
        return [one for one in found if one is not None]


@dataclasses.dataclass(frozen=True, slots=True)
class MakeService:
    """Make the active or the preview Service, for these pods."""

    preview: bool
    revision: str


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """Let a Service send its requests to another revision's pods."""

    service: ServiceView
    revision: str


@dataclasses.dataclass(frozen=True, slots=True)
class MakeDeployment:
    revision: Revision
    replicas: int


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    deployment: DeploymentView
    replicas: int


@dataclasses.dataclass(frozen=True, slots=True)
class DeleteDeployment:
    deployment: DeploymentView


@dataclasses.dataclass(frozen=True, slots=True)
class Drain:
    """Let pods close each connection after its answer, or no more."""

    addresses: tuple[str, ...]
    on: bool


@dataclasses.dataclass(frozen=True, slots=True)
class StartAnalysis:
    revision: Revision


@dataclasses.dataclass(frozen=True, slots=True)
class DeleteAnalysis:
    job: JobView


Action = MakeService | Point | MakeDeployment | Scale | DeleteDeployment | Drain | StartAnalysis | DeleteAnalysis


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    reason: str
    note: str
    warning: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """`look_again` is in seconds; None: only when something happens."""

    status: InferenceServiceStatus
    state: State
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    look_again: float | None = None


def label(revision: Revision) -> str:
    return version_label(revision.version, revision.variant)


def plan(wanted: Wanted, status: InferenceServiceStatus, seen: Seen, now: datetime.datetime) -> Plan:
    """`status` is the one that was read, with what a pass knows of the object itself (generation, URLs) put in."""
    return _Pass(wanted, status, seen, now).plan()


class _Pass:
    """One pass. It gathers what is to be done, and what is then to be said."""

    def __init__(self, wanted: Wanted, status: InferenceServiceStatus, seen: Seen, now: datetime.datetime) -> None:
        self.wanted, self.status, self.seen = wanted, status, seen
        self.now = now.replace(microsecond=0)
        self.actions: list[Action] = []
        self.events: list[Event] = []
        self.look_again: float | None = None

    # The frame

    def plan(self) -> Plan:
        self._services()
        rollout = self.status.rollout
        if rollout is None:
            return self._at_rest()
        match rollout.step:
            case "Starting":
                return self._starting(rollout)
            case "Analysing":
                return self._analysing(rollout)
            case "AwaitingPromotion":
                return self._awaiting_promotion(rollout)
            case "Switching":
                return self._switching(rollout)
            case "Observing":
                return self._observing(rollout)
            case "Keeping":
                return self._keeping(rollout)
            case "SwitchingBack":
                return self._switching_back(rollout)
            case "Ending":
                return self._ending(rollout)

    def _services(self) -> None:
        active = self.status.active.name if self.status.active else ""
        if self.seen.active is None:
            self.actions.append(MakeService(preview=False, revision=active))
        if self.seen.preview is None:
            self.actions.append(MakeService(preview=True, revision=active))

    def _done(self, state: State, **update: object) -> Plan:
        """Ends the pass: what is to be said beside `update` follows from the pods."""
        # What is asked no more can be asked again.
        acted = {
            what: said for what, said in (self.status.acted or {}).items() if getattr(self.wanted, what, "") == said
        }
        status = self.status.model_copy(update={"acted": acted or None, **update})
        active, rollout = status.active, status.rollout
        deployment = self.seen.deployments.get(active.name) if active else None
        ready = deployment.ready if deployment else 0
        upgrading = rollout is not None and rollout.step in _BEFORE_THE_SWITCH
        status = status.model_copy(
            update={
                "phase": words.phase(self.wanted, status, ready),
                "version": label(active) if active else None,
                "next_version": label(rollout.target) if upgrading and rollout is not None else None,
                "replicas": deployment.replicas if deployment else 0,
                "ready_replicas": ready,
                "ready": f"{ready}/{self.wanted.replicas}" if active else None,
            }
        )
        return Plan(status, state, tuple(self.actions), tuple(self.events), self.look_again)

    def _progress(self, reason: str, message: str, **update: object) -> Plan:
        return self._done(conditions.in_progress("Ready", reason, message, status=self._serves()), **update)

    def _serves(self) -> conditions.Status:
        """Whether requests are answered now, whatever is under way."""
        return "True" if any(ready for _, ready in self.seen.endpoints) else "False"

    def _step(self, rollout: RolloutStatus, step: RolloutStep, reason: str, message: str, **update: object) -> Plan:
        """Writes the next step down; what it asks for is done in the next pass."""
        self.look_again = 0.0
        inner = update.pop("rollout_update", {})
        assert isinstance(inner, dict)  # noqa: S101 - ours
        told = {"step": step, "since": self.now, "reason": None, "message": message[:1024]}
        following = rollout.model_copy(update={**told, **inner})
        return self._progress(reason, message, rollout=following, **update)

    def _since(self, moment: datetime.datetime | None) -> float:
        return (self.now - moment).total_seconds() if moment else 0.0

    def _asks(self, what: str, revision: Revision) -> bool:
        """Whether a person asks this of the revision, and on this word it was not done yet; it counts as done now."""
        said = str(getattr(self.wanted, what))
        if said.partition("@")[0] != revision.name or (self.status.acted or {}).get(what) == said:
            return False
        self.status = self.status.model_copy(update={"acted": {**(self.status.acted or {}), what: said}})
        return True

    # At rest

    def _at_rest(self) -> Plan:
        wanted, status = self.wanted, self.status
        active, failed, target = status.active, status.failed, wanted.target
        self._keep_only(active, status.previous)
        for job in self.seen.analyses:
            if not job.deleting:
                self.actions.append(DeleteAnalysis(job))
        if active is not None:
            self._ensure(active, wanted.replicas)
            self._point(self.seen.active, active.name)
            self._point(self.seen.preview, active.name)
            if status.previous is not None and self._asks("rollback", active):
                return self._roll_back(active, status.previous)
        if target is None:
            return self._without_target()
        if active is not None and target.name == active.name:
            return self._as_asked(active)
        if failed is not None and failed.asked == wanted.asked and wanted.retry != to_the_second(failed.at):
            return self._stays_failed(failed)
        return self._begin(target)

    def _as_asked(self, active: Revision) -> Plan:
        # What failed is forgotten: asking for it again is another try.
        forget = {"failed": None}
        deployment = self.seen.deployments.get(active.name)
        ready = deployment.ready if deployment else 0
        if ready >= self.wanted.replicas:
            message = f"{label(active)} is served by {words.pods(ready)}"
            return self._done(conditions.achieved("Ready", "Serving", message), **forget)
        trouble = words.trouble(deployment, self.seen.servers(active.name))
        message = f"{label(active)} is served by {ready} of {words.pods(self.wanted.replicas)}"
        reason = trouble.reason if trouble else "PodsNotReady"
        return self._progress(reason, f"{message}: {trouble.message}" if trouble else message, **forget)

    def _without_target(self) -> Plan:
        wanted, active = self.wanted, self.status.active
        message = wanted.problem if active is None else f"{wanted.problem}; {label(active)} is served on"
        make = conditions.stalled if wanted.problem_stalls else conditions.in_progress
        return self._done(make("Ready", wanted.problem_reason, message, status=self._serves()))

    def _stays_failed(self, failed: FailedRevision) -> Plan:
        active = self.status.active
        served = f"; {label(active)} is served on" if active else ""
        message = (
            f"{version_label(failed.version, failed.variant)} failed: {failed.message}{served}."
            " It is not tried again until the spec or the channel changes"
        )
        return self._done(conditions.stalled("Ready", failed.reason, message, status=self._serves()))

    def _begin(self, target: Revision) -> Plan:
        active = self.status.active
        rollout = RolloutStatus(step="Starting", since=self.now, started_at=self.now, target=target)
        came_from = f" from {label(active)}" if active else ""
        self.events.append(Event("RolloutStarted", f"{label(target)}{came_from}, as revision {target.name}"))
        self.look_again = 0.0
        return self._progress("Starting", f"{label(target)} is starting", rollout=rollout, failed=None)

    def _roll_back(self, active: Revision, previous: Revision) -> Plan:
        """On somebody's word, when the pods of the one before are scaled down already: they start first."""
        message = f"rolled back to {label(previous)} on request"
        failed = self._failed(active, "RolledBack", message)
        rollout = RolloutStatus(step="Starting", since=self.now, started_at=self.now, target=previous)
        self.events.append(Event("RollbackRequested", f"{label(active)} → {label(previous)}"))
        self.look_again = 0.0
        return self._progress("RollingBack", message, rollout=rollout, failed=failed)

    def _failed(self, revision: Revision, reason: str, message: str) -> FailedRevision:
        return FailedRevision(
            revision=revision.name,
            version=revision.version,
            variant=revision.variant,
            asked=self.wanted.asked,
            reason=reason,
            message=message[:1024],
            at=self.now,
        )

    # Pods and Services

    def _keep_only(self, active: Revision | None, previous: Revision | None) -> None:
        for name, deployment in self.seen.deployments.items():
            if deployment.deleting or (active and name == active.name):
                continue
            if previous and name == previous.name:
                if deployment.replicas:
                    self.actions.append(Scale(deployment, 0))
            else:
                self.actions.append(DeleteDeployment(deployment))

    def _ensure(self, revision: Revision, replicas: int, *, only_up: bool = False) -> DeploymentView | None:
        deployment = self.seen.deployments.get(revision.name)
        if deployment is None:
            self.actions.append(MakeDeployment(revision, replicas))
        elif not deployment.deleting and (
            deployment.replicas < replicas or (deployment.replicas > replicas and not only_up)
        ):
            self.actions.append(Scale(deployment, replicas))
        return deployment

    def _point(self, service: ServiceView | None, revision: str) -> bool:
        """Whether the Service selects the revision already; if not, it is told to."""
        if service is None or service.deleting:
            return False
        if service.revision != revision:
            self.actions.append(Point(service, revision))
        return service.revision == revision

    def _drain(self, revision: str, *, on: bool) -> bool:
        """Whether all running pods of the revision drain (or no more); those that do not are told to."""
        wrong = [
            pod
            for pod in self.seen.servers(revision)
            if pod.ip and pod.phase == "Running" and not pod.deleting
            and ((told := self.seen.telemetry.get(pod.name)) is None or told.draining is not on)
        ]  # fmt: skip
        if wrong:
            self.actions.append(Drain(tuple(sorted(pod.ip for pod in wrong)), on=on))
        return not wrong

    def _connections(self, revision: str) -> int:
        return sum(one.connections for one in self.seen.told(revision))

    # Before the switch

    def _replicas_for(self, target: Revision) -> int:
        """As many as are asked for, and no fewer than answer now: an autoscaler may have grown them."""
        active = self.status.active
        deployment = self.seen.deployments.get(active.name) if active and active.name != target.name else None
        return max(self.wanted.replicas, deployment.replicas if deployment else 0)

    def _superseded(self, rollout: RolloutStatus) -> Plan | None:
        """The change is dropped, where nobody wants it any more: nothing has been switched yet."""
        target, wanted, active = rollout.target, self.wanted, self.status.active
        if self._asks("abort", target):
            return self._fail(rollout, "Aborted", "aborted on request")
        failed = self.status.failed
        going_back = failed is not None and active is not None and failed.revision == active.name
        if wanted.target is None and wanted.withdrawn and not going_back:
            self.events.append(Event("RolloutSuperseded", wanted.withdrawn, warning=True))
            self.look_again = 0.0
            return self._progress("Superseded", wanted.withdrawn, rollout=None)
        if wanted.target is None or wanted.target.name == target.name or going_back:
            return None
        self.events.append(Event("RolloutSuperseded", f"{label(target)} is not asked for any more"))
        self.look_again = 0.0
        return self._progress("Superseded", f"{label(wanted.target)} is asked for", rollout=None)

    def _fail(self, rollout: RolloutStatus, reason: str, message: str) -> Plan:
        """Before the switch: the target goes, and what is active has never noticed."""
        target, active = rollout.target, self.status.active
        self.events.append(Event(reason, f"{label(target)}: {message}", warning=True))
        self.look_again = 0.0
        said = f"{label(target)} failed: {message}" + (f"; {label(active)} is served on" if active else "")
        return self._progress(reason, said, rollout=None, failed=self._failed(target, reason, message))

    def _prepare(self, rollout: RolloutStatus) -> tuple[bool, Plan | None]:
        """Whether the target's pods are ready, all of them; and how the pass ends where they cannot become so."""
        target = rollout.target
        replicas = self._replicas_for(target)
        if (active := self.status.active) is not None and active.name != target.name:
            self._ensure(active, self.wanted.replicas, only_up=True)
        deployment = self._ensure(target, replicas)
        pods = self.seen.servers(target.name)
        for pod in pods:
            failure = pod.failure
            if failure is not None and failure.reason in _HOPELESS and not pod.ready:
                return False, self._fail(rollout, failure.reason, failure.message)
        # Pods of the one before may have been drained.
        drained_no_more = self._drain(target.name, on=False) if self.seen.told(target.name) else True
        ready = deployment is not None and deployment.replicas >= replicas and deployment.available >= replicas
        return ready and drained_no_more, None

    def _waits_for_pods(self, rollout: RolloutStatus) -> Plan:
        target = rollout.target
        deployment = self.seen.deployments.get(target.name)
        replicas = self._replicas_for(target)
        trouble = words.trouble(deployment, self.seen.servers(target.name))
        no_room = trouble is not None and trouble.no_room
        if rollout.reason in words.NO_ROOM and not no_room:
            # Room has appeared: the time counts from here.
            rollout = rollout.model_copy(update={"since": self.now, "reason": None})
        waited = self._since(rollout.since)
        if waited >= self.wanted.ready_timeout and not no_room:
            why = f": {trouble.message}" if trouble else ""
            return self._fail(
                rollout, "ReadyTimeout", f"its pods were not ready after {self.wanted.ready_timeout:g} s{why}"
            )
        ready = deployment.available if deployment else 0
        message = f"{label(target)}: {ready} of {words.pods(replicas)} ready"
        reason = "Starting"
        if trouble is not None:
            reason, message = trouble.reason, f"{message}: {trouble.message}"
            if rollout.reason != trouble.reason:
                self.events.append(Event(trouble.reason, message, warning=True))
        if (active := self.status.active) is not None:
            message = f"{message}; {label(active)} is served on"
        self.look_again = max(1.0, self.wanted.ready_timeout - waited) if waited < self.wanted.ready_timeout else 30.0
        told = {"reason": trouble.reason if trouble else None, "message": message[:1024]}
        return self._progress(reason, message, rollout=rollout.model_copy(update=told))

    def _starting(self, rollout: RolloutStatus) -> Plan:
        if (ended := self._superseded(rollout)) is not None:
            return ended
        ready, ended = self._prepare(rollout)
        if ended is not None:
            return ended
        if not ready:
            return self._waits_for_pods(rollout)
        target, previous = rollout.target, self.status.previous
        proven = previous is not None and previous.name == target.name
        if self.wanted.before_requests and not proven:
            return self._step(rollout, "Analysing", "Analysing", f"{label(target)} is ready and answers golden samples")
        return self._pass_gate(rollout, proven=proven)

    def _pass_gate(self, rollout: RolloutStatus, *, proven: bool = False, **inner: object) -> Plan:
        target = rollout.target
        # The first version takes nothing from anybody.
        first = self.status.active is None
        if self.wanted.manual and not first and not proven and not self._asks("promote", target):
            self.events.append(Event("PromotionAwaited", words.promotion(target)))
            return self._step(
                rollout, "AwaitingPromotion", "AwaitingPromotion", words.promotion(target), rollout_update=inner
            )
        return self._step(
            rollout, "Switching", "Switching", f"all requests go to {label(target)} now", rollout_update=inner
        )

    def _analysing(self, rollout: RolloutStatus) -> Plan:
        if (ended := self._superseded(rollout)) is not None:
            return ended
        ready, ended = self._prepare(rollout)
        if ended is not None:
            return ended
        if not ready:
            return self._waits_for_pods(rollout)
        target = rollout.target
        # Not before all its pods are ready: whoever asks the preview is to see what will be switched to.
        self._point(self.seen.preview, target.name)
        job = next((one for one in self.seen.analyses if one.revision == target.name), None)
        if job is None:
            self.actions.append(StartAnalysis(target))
        elif job.ended and not job.deleting:
            return self._judge_before(rollout, job)
        return self._progress("Analysing", f"{label(target)} answers golden samples through the preview Service")

    def _judge_before(self, rollout: RolloutStatus, job: JobView) -> Plan:
        said = [AnalysisSummary.from_message(pod.message) for pod in self.seen.pods if pod.job_uid == job.uid]
        summary = next((one for one in said if one is not None and one.failure is None), None)
        if summary is None and job.ended == "Complete":
            # Its word was lost with its pod.
            self.actions.append(DeleteAnalysis(job))
            return self._progress("Analysing", "the result of the analysis was lost; it is done again")
        if summary is None:
            failure = next((one.failure for one in said if one is not None and one.failure is not None), None)
            message = failure.message if failure else job.message
            return self._fail(rollout, "AnalysisFailed", f"the analysis could not be made: {message}")
        observed = Observation(
            requests=summary.requests,
            errors=summary.errors + summary.wrong_versions + summary.mismatches,
            p99=_milliseconds(summary.p99_ms),
        )
        breach = words.breach_before(summary, self.wanted.before_max_p99)
        if breach is not None:
            return self._fail(
                rollout.model_copy(update={"before": observed}), "AnalysisFailed", f"before the switch, {breach}"
            )
        return self._pass_gate(rollout, before=observed)

    def _awaiting_promotion(self, rollout: RolloutStatus) -> Plan:
        if (ended := self._superseded(rollout)) is not None:
            return ended
        ready, ended = self._prepare(rollout)
        if ended is not None:
            return ended
        self._point(self.seen.preview, rollout.target.name)
        if ready and (not self.wanted.manual or self._asks("promote", rollout.target)):
            target = rollout.target
            return self._step(rollout, "Switching", "Switching", f"all requests go to {label(target)} now")
        return self._progress("AwaitingPromotion", words.promotion(rollout.target))

    # The switch

    def _switching(self, rollout: RolloutStatus) -> Plan:
        target, service = rollout.target, self.seen.active
        switched = service is not None and service.revision == target.name
        if not switched:
            if (ended := self._superseded(rollout)) is not None:
                return ended
            # Once more: pods may have gone since the gate, or an autoscaler may have grown those that answer.
            ready, ended = self._prepare(rollout)
            if ended is not None:
                return ended
            if not ready:
                return self._waits_for_pods(rollout)
            self._point(service, target.name)
            return self._progress("Switching", f"all requests go to {label(target)} now")
        active = self.status.active
        self._ensure(target, self._replicas_for(target))
        if not self._only_endpoints_of(target.name):
            return self._progress("Switching", f"{label(target)} is switched to; the endpoints follow")
        if rollout.switched_at is None:
            self.look_again = PROXY_SECONDS
            told = rollout.model_copy(update={"switched_at": self.now})
            return self._progress("Switching", f"{label(target)} answers; the nodes' proxies follow", rollout=told)
        if (passed := self._since(rollout.switched_at)) < PROXY_SECONDS:
            self.look_again = PROXY_SECONDS - passed
            return self._progress("Switching", f"{label(target)} answers; the nodes' proxies follow")
        if active is None:
            self.events.append(Event("Serving", f"{label(target)} is served"))
            self.look_again = 0.0
            return self._progress("Serving", f"{label(target)} is served", rollout=None, active=target)
        self.events.append(Event("Switched", f"{label(active)} → {label(target)}"))
        failed = self.status.failed
        if failed is not None and failed.revision == active.name:
            # Going back on request: there is nothing to watch, and what was left is not gone back to.
            return self._step(
                rollout, "Ending", "RolledBack", f"{label(target)} answers again", active=target, previous=None,
                rollout_update={"target": active, "reason": "RolledBack"},
            )  # fmt: skip
        return self._step(
            rollout, "Observing", "Observing", f"{label(target)} answers and is watched", active=target, previous=active
        )

    def _only_endpoints_of(self, revision: str) -> bool:
        mine = {pod.name for pod in self.seen.servers(revision)}
        there = self.seen.endpoints
        return any(ready for _, ready in there) and all(pod in mine for pod, _ in there)

    # After the switch

    def _leaves(self, rollout: RolloutStatus) -> Plan | None:
        """Somebody wants what was before, while it is still there."""
        wanted, target, previous = self.wanted, rollout.target, self.status.previous
        if previous is None:
            return None
        if self._asks("rollback", target) or self._asks("abort", target):
            return self._go_back(rollout, "RolledBack", "rolled back on request")
        if wanted.target is not None and wanted.target.name == previous.name:
            return self._go_back(rollout, "Reverted", f"{label(previous)} is asked for again")
        return None

    def _go_back(self, rollout: RolloutStatus, reason: str, message: str, **inner: object) -> Plan:
        warning = reason not in ("Reverted", "RolledBack")
        self.events.append(Event(reason, f"{label(rollout.target)}: {message}", warning=warning))
        update = {"reason": reason, "message": message[:1024], "switched_at": None, **inner}
        return self._step(rollout, "SwitchingBack", reason, message, rollout_update=update)

    def _observing(self, rollout: RolloutStatus) -> Plan:
        target, previous, wanted = rollout.target, self.status.previous, self.wanted
        assert previous is not None  # noqa: S101 - `_switching` saw to it
        deployment = self._ensure(target, max(wanted.replicas, 1))
        self._ensure(previous, wanted.replicas, only_up=True)
        if (left := self._leaves(rollout)) is not None:
            return left
        seen = total(self.seen.told(target.name))
        observed = Observation(
            requests=seen.requests, errors=seen.errors, p99=_milliseconds(seen.p99 * 1000 if seen.p99 else None)
        )
        breach = words.breach_after(wanted, seen)
        if breach is None and deployment is not None and deployment.ready == 0 and deployment.replicas > 0:
            breach = words.none_ready(deployment, self.seen.servers(target.name))
        if breach is not None:
            return self._go_back(rollout, "AnalysisFailed", f"after the switch, {breach}", after=observed)
        self._drain(previous.name, on=True)
        passed = self._since(rollout.since)
        if passed >= wanted.after_seconds:
            verdict = words.verdict(wanted, seen)
            self.events.append(Event("AnalysisPassed", f"{label(target)}: {verdict}"))
            return self._step(
                rollout, "Keeping", "Observed", f"{label(target)}: {verdict}; {label(previous)} stays for"
                f" {wanted.scale_down_delay:g} s", rollout_update={"after": observed},
            )  # fmt: skip
        self.look_again = LOOK_SECONDS
        shown = int(passed // SHOW_SECONDS * SHOW_SECONDS)
        message = f"{label(target)} answers, and is watched: {shown} of {wanted.after_seconds:g} s"
        if rollout.message != message:
            rollout = rollout.model_copy(update={"after": observed, "message": message})
        return self._progress("Observing", message, rollout=rollout)

    def _keeping(self, rollout: RolloutStatus) -> Plan:
        target, previous, wanted = rollout.target, self.status.previous, self.wanted
        assert previous is not None  # noqa: S101 - `_switching` saw to it
        self._ensure(target, wanted.replicas)
        self._ensure(previous, wanted.replicas, only_up=True)
        if (left := self._leaves(rollout)) is not None:
            return left
        drained = self._drain(previous.name, on=True) and self._connections(previous.name) == 0
        # Something newer waits for its turn: the old pods need not be kept for this one's sake.
        newer = wanted.target is not None and wanted.target.name != target.name
        passed = self._since(rollout.since)
        delayed = newer or passed >= wanted.scale_down_delay
        if delayed and (drained or passed >= wanted.drain_timeout):
            self.events.append(Event("RolloutCompleted", f"{label(previous)} → {label(target)}"))
            self.look_again = 0.0
            return self._progress("Serving", f"{label(target)} is served", rollout=None)
        self.look_again = LOOK_SECONDS if delayed or not drained else max(1.0, wanted.scale_down_delay - passed)
        return self._progress("Observed", rollout.message or f"{label(previous)} stays for a while")

    def _switching_back(self, rollout: RolloutStatus) -> Plan:
        target, previous = rollout.target, self.status.previous
        assert previous is not None  # noqa: S101 - `_go_back` saw to it
        self.look_again = LOOK_SECONDS
        deployment = self._ensure(previous, self._replicas_for(previous))
        message = f"{label(target)}: {rollout.message}; back to {label(previous)}"
        reason = rollout.reason or "RolledBack"
        waited = self._since(rollout.since)
        if self.seen.active is None or self.seen.active.revision != previous.name:
            confirmed = self._drain(previous.name, on=False) or waited >= UNDRAIN_SECONDS
            ready = deployment.ready if deployment else 0
            enough = ready >= self.wanted.replicas or (ready > 0 and waited >= UNDRAIN_SECONDS)
            if confirmed and enough:
                self._point(self.seen.active, previous.name)
            return self._progress(reason, message)
        self._drain(previous.name, on=False)
        if not self._only_endpoints_of(previous.name):
            return self._progress(reason, message)
        if rollout.switched_at is None:
            return self._progress(reason, message, rollout=rollout.model_copy(update={"switched_at": self.now}))
        if self._since(rollout.switched_at) < PROXY_SECONDS:
            return self._progress(reason, message)
        self.events.append(
            Event("SwitchedBack", f"{label(target)} → {label(previous)}", warning=reason == "AnalysisFailed")
        )
        failed = None
        if reason != "Reverted":
            failed = self._failed(target, reason, rollout.message or reason)
        # What erred is not kept to go back to.
        return self._step(
            rollout, "Ending", reason, rollout.message or message, active=previous, failed=failed,
            previous=target if reason == "Reverted" else None, rollout_update={"reason": reason},
        )  # fmt: skip

    def _ending(self, rollout: RolloutStatus) -> Plan:
        """The pods that are no longer asked finish what they have."""
        ends, active = rollout.target, self.status.active
        assert active is not None  # noqa: S101 - one of both was switched to
        self._ensure(active, self.wanted.replicas)
        self._point(self.seen.preview, active.name)
        drained = self._drain(ends.name, on=True) and self._connections(ends.name) == 0
        if (drained and self._since(rollout.since) >= LOOK_SECONDS) or self._since(
            rollout.since
        ) >= self.wanted.drain_timeout:
            self.look_again = 0.0
            return self._progress("Ended", f"{label(active)} is served", rollout=None)
        self.look_again = LOOK_SECONDS
        return self._progress(rollout.reason or "RolledBack", f"{label(active)} answers; {label(ends)} is drained")


def _milliseconds(value: float | None) -> str | None:
    return None if value is None else f"{figure(float(f'{value:.3g}'))}ms"


def watched(status: InferenceServiceStatus) -> frozenset[str]:
    """The revisions whose pods a pass needs to hear from."""
    rollout = status.rollout
    if rollout is None:
        return frozenset()
    names = [rollout.target.name]
    if rollout.step in ("Observing", "Keeping", "SwitchingBack") and status.previous is not None:
        names.append(status.previous.name)
    if rollout.step in ("Starting", "Analysing", "AwaitingPromotion") and not _was_served(status, rollout):
        return frozenset()
    return frozenset(names)


def _was_served(status: InferenceServiceStatus, rollout: RolloutStatus) -> bool:
    return status.previous is not None and status.previous.name == rollout.target.name
