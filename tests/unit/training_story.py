"""A TrainingJob and its Jobs as the operator makes them, without a cluster: passes of the plan, and what Kubernetes and
the user do in between. Status goes through the API's model each time, as it would through the API server."""

from __future__ import annotations

import copy
import dataclasses
import datetime
from typing import Any

from modelwright.api.training_job import TrainingJob
from modelwright.contract import Progress
from modelwright.controllers.trainingjob import cleanup, resolve
from modelwright.controllers.trainingjob.children import children
from modelwright.controllers.trainingjob.observed import SHRINK_ANNOTATION, JobView, PodView, job_view
from modelwright.controllers.trainingjob.plan import Plan, Start, Suspend, plan
from modelwright.controllers.trainingjob.status import status
from modelwright.kube import conditions
from modelwright.kube.resources import Object
from modelwright.settings import Settings

from tests.unit.training_world import NOW, pod

SETTINGS = Settings("system", "trainer:1")
SPEC: dict[str, Any] = {
    "publish": {"model": "digits", "version": "1.0.0"},
    "data": {"uri": "s3://bucket/rows.parquet", "target": "label", "task": "Classification"},
    "storage": {"uri": "s3://bucket/store"},
    "trainer": {"recipe": "mlp"},
    "workers": {"replicas": 2},
}


@dataclasses.dataclass
class Story:
    """`jobs` are what the API server holds, by attempt; `pods` what there is of pods."""

    spec: dict[str, Any] = dataclasses.field(default_factory=lambda: copy.deepcopy(SPEC))
    generation: int = 1
    status: dict[str, Any] = dataclasses.field(default_factory=dict)
    jobs: dict[int, Object] = dataclasses.field(default_factory=dict)
    pods: list[PodView] = dataclasses.field(default_factory=list)
    now: datetime.datetime = NOW
    events: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def edit(self, **spec: Any) -> None:
        self.spec |= spec
        self.generation += 1

    def object(self) -> TrainingJob:
        metadata = {"name": "digits", "namespace": "team", "uid": "uid", "generation": self.generation}
        return TrainingJob.model_validate({"metadata": metadata, "spec": self.spec, "status": self.status})

    def views(self) -> list[JobView]:
        return [job_view(one) for one in self.jobs.values()]

    def look(self, progress: Progress | None = None) -> Plan:
        """One pass of the operator: what it decides, with what it does of it done."""
        job = self.object()
        wanted, told = resolve.wanted(job, SETTINGS), resolve.told(job)
        made = plan(wanted, self.views(), self.pods, published=False, now=self.now, told=told)
        match made.action:
            case Start(number, size):
                assert number not in self.jobs, "no attempt is made twice"
                assert not any(view.active and not view.ended for view in self.views()), "none beside another"
                blueprint = resolve.blueprint(job, SETTINGS, attempt=number, owner={"uid": "uid"}, workers=size)
                made_job = children(blueprint)[2]
                made_job["metadata"]["uid"] = f"job-{number}"
                active = 0 if made_job["spec"].get("suspend") else made_job["spec"]["completions"]
                self.jobs[number] = {**made_job, "status": {"active": active}}
            case Suspend(view) if view.queue:
                del self.jobs[view.attempt]
            case Suspend(view, shrink_to):
                self.jobs[view.attempt]["spec"]["suspend"] = True
                if shrink_to is not None:
                    self.jobs[view.attempt]["metadata"]["annotations"][SHRINK_ANNOTATION] = str(shrink_to)
            case _:
                pass
        said = status(job, SETTINGS, made, progress, self.now).to_object()
        merged = conditions.merge_dicts(
            self.status.get("conditions") or (), made.state, generation=self.generation, now=self.now
        )
        self.status = {**said, "conditions": merged}
        if made.event is not None and made.event not in self.events:
            self.events.append(made.event)
        return made

    def settle(self, passes: int = 12) -> Plan:
        """Passes until nothing more is done, with pods that end when they are asked to."""
        made = self.look()
        for _ in range(passes):
            self.end_pods()
            made = self.look()
        return made

    def end_pods(self) -> None:
        """The pods of suspended Jobs are gone."""
        for one in self.jobs.values():
            if one["spec"].get("suspend"):
                one["status"]["active"] = 0

    def run_pods(self, attempt: int) -> None:
        """All workers of the attempt run."""
        size = self.jobs[attempt]["spec"]["completions"]
        self.pods = [pod(index, attempt, scheduled=True) for index in range(size)]

    def fail(self, attempt: int, message: str) -> None:
        condition = {
            "type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": message,
            "lastTransitionTime": self.now.isoformat(),
        }  # fmt: skip
        self.jobs[attempt]["status"] = {"active": 0, "conditions": [condition]}

    def clean_up(self) -> bool:
        """Whether it was time for it."""
        if cleanup.due(self.object(), self.now) != 0:
            return False
        self.jobs, self.pods = {}, []
        done = self.object().status.model_copy(update={"cleanup_time": self.now})
        self.status = {**done.to_object(), "conditions": self.status["conditions"]}
        return True

    def passes(self, seconds: float) -> None:
        self.now += datetime.timedelta(seconds=seconds)

    @property
    def reason(self) -> str:
        return str(self.main["reason"])

    @property
    def main(self) -> dict[str, Any]:
        return next(one for one in self.status["conditions"] if one["type"] == "Succeeded")

    @property
    def history(self) -> list[tuple[int, str]]:
        return [(one["number"], one["reason"]) for one in self.status.get("history", ())]


def story(**spec: Any) -> Story:
    """With the first attempt made."""
    made = Story()
    made.spec |= spec
    made.look()
    return made
