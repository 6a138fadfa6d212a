"""What users do with a TrainingJob and with what comes of it, told so that it can be told again with a kill at any
write.

The waits look at pods and objects, never at what the operator alone tells while it trains: it may be dead just then.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any

from modelwright.contract import PROGRESS_PORT, Progress
from modelwright.controllers.modelversion.derive_observed import DERIVED_LABEL
from modelwright.controllers.trainingjob.children import attempt_name
from modelwright.kube.resources import (
    CONFIGMAPS,
    DATASETS,
    JOBS,
    MODELS,
    MODELVERSIONS,
    PODS,
    SECRETS,
    SERVICES,
    TRAININGJOBS,
)

from dev import digits, examples
from dev.demo import BUCKET
from tests.e2e.crash import operator
from tests.e2e.crash.conftest import World
from tests.faults.scenario import Run, Scenario

EXAMPLE = examples.training_job()
NAME = "digits"
DATASET = "rows"
SMALL = "digits-v1-0-0--small"
ALL = (TRAININGJOBS, MODELVERSIONS, MODELS, JOBS, PODS, SERVICES, CONFIGMAPS)
# Beside the version these are all that a TrainingJob has made.
OWNED = (TRAININGJOBS, JOBS, PODS, SERVICES, CONFIGMAPS)


def training_job(*, epochs: int, workers: int) -> dict[str, Any]:
    """The example, smaller; it publishes whatever it reaches."""
    spec = copy.deepcopy(EXAMPLE["spec"])
    del spec["storage"]
    spec["trainer"]["hyperparameters"] |= {"hiddenSizes": "32", "epochs": str(epochs)}
    spec["workers"] = {"replicas": workers, "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}}}
    spec["checkpoint"] = {"everySteps": 20, "keep": 2}
    spec["evaluation"] = {"metrics": ["accuracy"]}
    return {"metadata": {"name": NAME}, "spec": spec}


def begin(world: World, run: Run, job: dict[str, Any]) -> None:
    credentials = {**world.store.environment()}
    run.create(SECRETS, {"metadata": {"name": operator.SECRET}, "stringData": credentials})
    run.create(MODELS, {"metadata": {"name": "digits"}, "spec": {"channels": {"candidate": {"latest": True}}}})
    run.create(TRAININGJOBS, job)


def status(run: Run) -> dict[str, Any]:
    found = run.get(TRAININGJOBS, NAME)
    return dict((found or {}).get("status") or {})


def alive(pod: dict[str, Any]) -> bool:
    return pod["status"].get("phase") in (None, "Pending", "Running")


def worker(run: Run, index: int) -> dict[str, Any] | None:
    """The pod of that index which runs."""
    for pod in run.objects(PODS):
        here = pod["metadata"].get("annotations", {}).get("batch.kubernetes.io/job-completion-index")
        if here == str(index) and pod["status"].get("phase") == "Running" and pod["status"].get("podIP"):
            return pod
    return None


def progress(run: Run) -> Progress:
    """What rank 0's pod tells itself; as at the beginning where it cannot be asked."""
    pod = worker(run, 0)
    if pod is None:
        return Progress()
    try:
        url = f"http://{pod['status']['podIP']}:{PROGRESS_PORT}/progress"
        with urllib.request.urlopen(url, timeout=2) as answer:
            return Progress.model_validate_json(answer.read())
    except OSError:
        return Progress()


def succeeded(run: Run) -> bool:
    version = run.get(MODELVERSIONS, "digits-v1-0-0") or {}
    model = run.get(MODELS, "digits") or {}
    return (
        status(run).get("phase") == "Succeeded"
        and (version.get("status") or {}).get("phase") == "Ready"
        and (model.get("status") or {}).get("phase") == "Ready"
        and not any(alive(pod) for pod in run.objects(PODS))
    )


def gone(run: Run) -> bool:
    return not any(run.objects(resource) for resource in OWNED)


def deleted(run: Run) -> bool:
    """The Model is another object, and whoever follows a dead operator has to look at it first."""
    model = run.get(MODELS, "digits") or {}
    return gone(run) and (model.get("status") or {}).get("phase") == "Waiting"


def deleted_after_all(run: Run) -> Iterable[str]:
    """Deletes the TrainingJob, and then the Model: of all that there was, the version alone stays."""
    for resource, name in ((TRAININGJOBS, NAME), (MODELS, "digits")):
        if run.get(resource, name) is not None:
            run.delete(resource, name)
    try:
        run.wait("deleted", lambda: gone(run) and run.proxy.quiet_for() >= run.scenario.quiet)
    except TimeoutError:
        left = [f"{one['metadata']['name']}" for resource in OWNED for one in run.objects(resource)]
        return [f"after the deletion: {', '.join(left)}"]
    versions = [one["metadata"]["name"] for one in run.objects(MODELVERSIONS)]
    return [] if versions in ([], ["digits-v1-0-0"]) else [f"after the deletion: versions {versions}"]


def _uninteresting(obj: dict[str, Any]) -> bool:
    """Beside what Kubernetes puts into each namespace: pods that have ended, or are asked to. Whether a worker ended
    before its Job failed and deleted it is a race within Kubernetes."""
    if obj["metadata"]["name"] == "kube-root-ca.crt":
        return True
    return "containers" in obj.get("spec", {}) and (not alive(obj) or "deletionTimestamp" in obj["metadata"])


def _aliases(obj: dict[str, Any]) -> dict[str, str]:
    """Children are named after a hash of the TrainingJob's uid."""
    if "publish" not in obj.get("spec", {}):
        return {}
    name = obj["metadata"]["name"]
    return {attempt_name(name, obj["metadata"]["uid"], 1).removesuffix("-1"): f"{name}-<uid>"}


def story(
    world: World,
    name: str,
    act: Callable[[Run], None],
    settled: Callable[[Run], bool],
) -> Scenario:
    return Scenario(
        name,
        command=lambda run: operator.command(world, run.kubeconfig, run.namespace),
        act=act,
        settled=settled,
        resources=ALL,
        ignore=_uninteresting,
        state=operator.state,
        aliases=_aliases,
        epilogue=deleted_after_all,
        label=operator.label,
        recurring=operator.recurring,
        quiet=1.5,
        patience=900.0,
    )


def train(world: World) -> Scenario:
    return story(world, "train", lambda run: begin(world, run, training_job(epochs=2, workers=2)), succeeded)


def correct_at_once(world: World) -> Scenario:
    """The spec is changed as soon as the first child is there. How many attempts it takes depends on how far the
    operator had come, and is no part of the claim: what is published is what the last word of the user says."""

    def act(run: Run) -> None:
        begin(world, run, training_job(epochs=2, workers=1))
        run.wait("the first child", lambda: run.objects(CONFIGMAPS))
        run.patch(TRAININGJOBS, NAME, {"spec": {"trainer": {"hyperparameters": {"epochs": "3"}}}})

    def published(obj: dict[str, Any]) -> str:
        found = obj.get("status") or {}
        return f"{found.get('phase')}; {(found.get('artifact') or {}).get('digest')}"

    whole = story(world, "correct", act, succeeded)
    return dataclasses.replace(whole, resources=(TRAININGJOBS, MODELVERSIONS, MODELS), state=published)


def kill_rank(world: World, run: Run) -> None:
    """SIGKILL to the worker's training process, as the kernel or a fault in a library would end it."""
    pod = worker(run, 0)
    assert pod is not None
    # `LOCAL_RANK` is in the environment of the ranks alone, and of none that stands around them.
    script = (
        "import os, pathlib\n"
        "for p in pathlib.Path('/proc').glob('[0-9]*'):\n"
        "    try: found = b'\\0LOCAL_RANK=' in (p / 'environ').read_bytes()\n"
        "    except OSError: continue\n"
        "    if found: os.kill(int(p.name), 9)\n"
    )
    world.target.kubectl("exec", pod["metadata"]["name"], "-n", run.namespace, "--", "python", "-c", script)


def train_with_a_failing_worker(world: World, epochs: int = 100) -> Scenario:
    """On one worker: that the others end with it is Kubernetes' and the trainer's part, and tested where two train."""

    def act(run: Run) -> None:
        begin(world, run, training_job(epochs=epochs, workers=1))
        run.wait("a checkpoint", lambda: (progress(run).last_checkpoint_step or 0) > 0)
        kill_rank(world, run)

    return story(world, "fail", act, succeeded)


def suspend_and_resume(world: World, epochs: int = 100) -> Scenario:
    def act(run: Run) -> None:
        begin(world, run, training_job(epochs=epochs, workers=1))
        run.wait("it trains", lambda: progress(run).step > 0)
        run.patch(TRAININGJOBS, NAME, {"spec": {"suspend": True}})
        run.wait("it is suspended", lambda: status(run).get("phase") == "Suspended")
        run.patch(TRAININGJOBS, NAME, {"spec": {"suspend": False}})

    return story(world, "suspend", act, succeeded)


def resize_in_mid_run(world: World, epochs: int = 300) -> Scenario:
    """At which step depends on how far it had come, and with it the last bits of what is learned: they are no part of
    the claim."""

    def act(run: Run) -> None:
        begin(world, run, training_job(epochs=epochs, workers=1))
        run.wait("it trains", lambda: progress(run).step > 0)
        run.patch(TRAININGJOBS, NAME, {"spec": {"workers": {"replicas": 2}}})
        run.wait("the second attempt", lambda: len(run.objects(JOBS)) == 2)

    def state(obj: dict[str, Any]) -> str:
        said = {key: value for key, value in (obj.get("status") or {}).items() if key not in ("artifact", "metrics")}
        return operator.state({**obj, "status": said})

    return dataclasses.replace(story(world, "resize", act, succeeded), state=state)


def clean_up(world: World) -> Scenario:
    def act(run: Run) -> None:
        job = training_job(epochs=2, workers=1)
        job["spec"]["cleanup"] = {"after": "0s"}
        begin(world, run, job)

    def settled(run: Run) -> bool:
        left = any(run.objects(resource) for resource in (JOBS, SERVICES, CONFIGMAPS))
        return succeeded(run) and "cleanupTime" in status(run) and not left

    return story(world, "clean-up", act, settled)


def wait_in_a_queue(world: World, epochs: int = 100) -> Scenario:
    """The user is the queue, too: lets the Job run, stops it, and lets it run again."""

    def admit(run: Run, *, suspend: bool) -> None:
        (job,) = run.objects(JOBS)
        run.patch(JOBS, job["metadata"]["name"], {"spec": {"suspend": suspend}})

    def act(run: Run) -> None:
        job = training_job(epochs=epochs, workers=1)
        job["spec"]["queueName"] = "team-a"
        begin(world, run, job)
        run.wait("its Job", lambda: run.objects(JOBS))
        admit(run, suspend=False)
        run.wait("it trains", lambda: progress(run).step > 0)
        admit(run, suspend=True)
        run.wait("its pods have ended", lambda: not any(alive(pod) for pod in run.objects(PODS)))
        admit(run, suspend=False)

    return story(world, "queue", act, succeeded)


def delete_in_mid_run(world: World, epochs: int = 1000) -> Scenario:
    def act(run: Run) -> None:
        begin(world, run, training_job(epochs=epochs, workers=1))
        run.wait("it trains", lambda: progress(run).step > 0)
        run.delete(TRAININGJOBS, NAME)

    return story(world, "delete", act, deleted)


def delete_at_once(world: World, epochs: int = 1000) -> Scenario:
    """As soon as the first child is there, so that the operator is in the midst of making the others, or dead."""

    def act(run: Run) -> None:
        begin(world, run, training_job(epochs=epochs, workers=1))
        run.wait("the first child", lambda: run.objects(CONFIGMAPS))
        run.delete(TRAININGJOBS, NAME)

    return story(world, "delete-early", act, deleted)


# Data sets. Their manifest names the namespace, which is another one in each run, and so have they and what is trained
# on them other digests: that the weights are the same is then told by the metrics.


def dataset() -> dict[str, Any]:
    spec = {
        "source": {"uri": f"s3://{BUCKET}/{digits.KEY}"},
        "schema": {"target": "label", "task": "Classification"},
        "split": {"seed": 7},
        "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}},
    }
    return {"metadata": {"name": DATASET}, "spec": spec}


def prepared(run: Run) -> bool:
    seen = (run.get(DATASETS, DATASET) or {}).get("status") or {}
    return seen.get("phase") == "Succeeded" and not any(
        one["metadata"]["name"].startswith(f"{DATASET}-") for one in run.objects(JOBS)
    )


def _aliases_of_data(obj: dict[str, Any]) -> dict[str, str]:
    aliases = _aliases(obj)
    digest = ((obj.get("status") or {}).get("artifact") or {}).get("digest", "")
    if digest:
        # First the whole, of which the other is the beginning.
        aliases |= {digest.removeprefix("sha256:"): "<digest>", digest[:19]: "<digest>"}
    if "source" in obj.get("spec", {}) and "schema" in obj["spec"]:
        uid = hashlib.sha256(obj["metadata"]["uid"].encode()).hexdigest()[:5]
        aliases[f"{DATASET}-{uid}-"] = f"{DATASET}-<uid>-"
    return aliases


def gone_with_its_job(run: Run) -> Iterable[str]:
    run.delete(DATASETS, DATASET)
    try:
        run.wait("deleted", lambda: not any(run.objects(one) for one in (DATASETS, JOBS, PODS)))
    except TimeoutError:
        return ["after the deletion of the Dataset there is something of it left"]
    return []


def prepare_a_dataset(world: World) -> Scenario:
    def act(run: Run) -> None:
        run.create(SECRETS, {"metadata": {"name": operator.SECRET}, "stringData": {**world.store.environment()}})
        run.create(DATASETS, dataset())

    whole = story(world, "dataset", act, prepared)
    resources = (DATASETS, JOBS, PODS)
    return dataclasses.replace(whole, resources=resources, aliases=_aliases_of_data, epilogue=gone_with_its_job)


def train_on_a_dataset(world: World) -> Scenario:
    """Which is created after the training that waits for it."""

    def act(run: Run) -> None:
        job = training_job(epochs=2, workers=1)
        job["spec"]["data"] = {"datasetRef": {"name": DATASET}}
        begin(world, run, job)
        run.create(DATASETS, dataset())

    whole = story(world, "on-dataset", act, lambda run: prepared(run) and succeeded(run))
    return dataclasses.replace(whole, resources=(*ALL, DATASETS), aliases=_aliases_of_data)


# Versions that are made out of others.


def compressed() -> dict[str, Any]:
    """In two steps, of which the first trains. It waits for its parent."""
    steps = [{"prune": {"sparsity": "0.8", "finetune": {"epochs": 2}}}, {"cluster": {"bits": 4}}]
    resources = {"requests": {"cpu": "50m", "memory": "256Mi"}}
    spec = {
        "model": "digits", "version": "1.0.0", "variant": "small",
        "source": {"compress": {"from": {"version": "1.0.0"}, "steps": steps, "resources": resources}},
        "evaluation": {"gates": [{"metric": "accuracy", "min": "0"}]},
    }  # fmt: skip
    return {"metadata": {"name": SMALL}, "spec": spec}


def is_compressed(run: Run) -> bool:
    """And nothing of the work is left, but what it made."""
    found = (run.get(MODELVERSIONS, SMALL) or {}).get("status") or {}
    return found.get("phase") == "Ready" and not any(of_small(one) for one in run.objects(JOBS))


def of_small(obj: dict[str, Any]) -> bool:
    return str((obj["metadata"].get("labels") or {}).get(DERIVED_LABEL, "")) == SMALL


def gone_with_its_steps(run: Run) -> Iterable[str]:
    run.delete(MODELVERSIONS, SMALL)
    try:
        run.wait("deleted", lambda: not any(of_small(one) for one in (*run.objects(JOBS), *run.objects(PODS))))
    except TimeoutError:
        return ["after the deletion of the compressed version there is something of it left"]
    return deleted_after_all(run)


def compress_in_two_steps(world: World) -> Scenario:
    """The version is there before its parent, and so waits for it. How long each step took is among its files, and so
    its digest another one in each run: that the weights are the same is told by the metrics."""

    def act(run: Run) -> None:
        begin(world, run, training_job(epochs=2, workers=1))
        run.create(MODELVERSIONS, compressed())

    def state(obj: dict[str, Any]) -> str:
        if obj["metadata"]["name"] != SMALL:
            return operator.state(obj)
        said = {key: value for key, value in (obj.get("status") or {}).items() if key != "artifact"}
        return operator.state({**obj, "status": said})

    whole = story(world, "compress", act, lambda run: succeeded(run) and is_compressed(run))
    return dataclasses.replace(whole, epilogue=gone_with_its_steps, state=state)
