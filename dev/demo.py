"""`make demo`: the main job, whole, on a real cluster: trained, served, upgraded under real requests, rolled back."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import boto3
import botocore.exceptions

from dev import digits, images, story
from dev.install import install
from dev.target import Store, Target, resolve, store
from devcluster.progress import Hopeless, Step, StepFailed, Steps, human, wait_for

NAMESPACE = "modelwright-demo"
BUCKET = "modelwright"


def s3(server: Store) -> Any:
    """An S3 client of the store, from here."""
    return boto3.client(
        "s3",
        endpoint_url=server.outside,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name=server.region,
    )


def ensure_bucket(server: Store, bucket: str = BUCKET) -> None:
    client = s3(server)
    try:
        client.create_bucket(Bucket=bucket)
    except (client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
        return
    except botocore.exceptions.BotoCoreError as error:
        raise StepFailed(f"the store at {server.outside} does not answer: {error}") from error


def prepare(target: Target, server: Store, namespace: str) -> None:
    """The namespace, empty of earlier jobs, with the store's credentials."""
    ensure_bucket(server)
    target.apply(
        "namespaces",
        {
            "namespace": namespace, "endpoint": server.inside, "access_key": server.access_key,
            "secret_key": server.secret_key, "region": server.region,
        },
    )  # fmt: skip
    for place in (namespace, f"{namespace}-host"):
        target.kubectl("delete", "jobs", "--all", "--namespace", place, "--wait", "--cascade=foreground", timeout=120)


def _told(pod: Mapping[str, Any]) -> str:
    """Where a pod is, in Kubernetes' own words: its phase, or what it waits for."""
    status = pod["status"]
    for state in status.get("containerStatuses", []):
        waiting = state.get("state", {}).get("waiting")
        if waiting:
            return str(waiting.get("reason", "waiting"))
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return str(condition.get("message", condition.get("reason", "unscheduled")))
    return str(status.get("phase", "Pending"))


def await_job(target: Target, namespace: str, name: str, step: Step, *, seconds: float = 300) -> None:
    """Waits for a Job's end, telling where its pods are. Raises `StepFailed` with the last lines of a failed pod."""

    def done() -> bool:
        job = json.loads(target.kubectl("get", "job", name, "--namespace", namespace, "--output", "json"))
        conditions = {c["type"]: c for c in job["status"].get("conditions", []) if c["status"] == "True"}
        if "Complete" in conditions:
            return True
        if "Failed" in conditions:
            logs = ""
            with contextlib.suppress(StepFailed):
                logs = target.kubectl("logs", f"job/{name}", "--namespace", namespace, "--tail=5", "--all-pods=true")
            raise Hopeless(f"job {name} failed: {conditions['Failed'].get('message', '')}\n{logs}".rstrip())
        pods = json.loads(
            target.kubectl(
                "get", "pods", "--selector", f"job-name={name}", "--namespace", namespace, "--output", "json"
            )
        )
        step.note(", ".join(f"{pod['metadata']['name']}: {_told(pod)}" for pod in pods["items"]))
        return False

    wait_for(f"job {name} ends", done, seconds=seconds, every=0.5)


def all_reduce(
    target: Target, server: Store, refs: Mapping[str, str], steps: Steps, namespace: str = NAMESPACE
) -> dict[str, Any]:
    """Runs the fabric check as a Job of two pods, and returns the result that it left in the store."""
    key = f"{namespace}/all-reduce-{int(time.time())}.json"
    with steps.step("all-reduce between two pods with a GPU each", usual=40) as step:
        target.apply("fabric", {"namespace": namespace, "trainer": refs["trainer"], "output": f"s3://{BUCKET}/{key}"})
        await_job(target, namespace, "fabric", step)
        step.note("")
    body = s3(server).get_object(Bucket=BUCKET, Key=key)["Body"].read()
    result: dict[str, Any] = json.loads(body)
    result["object"] = f"s3://{BUCKET}/{key}"
    return result


def deploy_server(target: Target, refs: Mapping[str, str], steps: Steps, namespace: str = NAMESPACE) -> None:
    with steps.step("a Deployment of two replicas behind a Service", usual=12):
        target.apply("server", {"namespace": namespace, "server": refs["server"]})
        target.kubectl(
            "rollout", "status", "deployment/server", "--namespace", namespace, "--timeout=180s", timeout=190
        )


def visit(
    target: Target,
    refs: Mapping[str, str],
    steps: Steps,
    *,
    from_node: bool,
    url: str,
    namespace: str = NAMESPACE,
    node: str = "",
) -> str:
    """What `url` answers to a pod, or to a process in the node's own network; `node` chooses on which."""
    name = f"visit-from-{'node' if from_node else 'pod'}{f'-{node}' if node else ''}"
    place = f"{namespace}-host" if from_node else namespace
    with steps.step(
        f"visit {url} from {'the node' if from_node else 'a pod'}{f' {node}' if node else ''}", key=name, usual=4
    ) as step:
        target.kubectl("delete", "job", name, "--namespace", place, "--ignore-not-found", "--wait")
        target.apply(
            "visitor",
            {
                "name": name,
                "namespace": place,
                "image": refs["server"],
                "url": url,
                "host_network": "true" if from_node else "false",
                "dns_policy": "ClusterFirstWithHostNet" if from_node else "ClusterFirst",
                "node_selector": json.dumps({"kubernetes.io/hostname": node} if node else {}),
            },
        )
        await_job(target, place, name, step, seconds=90)
        step.note("")
    return target.kubectl("logs", f"job/{name}", "--namespace", place).strip()


def run(steps: Steps) -> None:
    target = resolve(steps)
    refs = images.build_and_push(steps, target.registry)
    with store(target, steps) as server:
        prepare(target, server, NAMESPACE)
        install(target, refs, server, steps)
        digits.upload(s3(server), BUCKET)
        digits.forget_all(s3(server), BUCKET, NAMESPACE)
        digits.train(target, NAMESPACE, steps)
        with steps.step("fetch the version, check its digests, measure it with ONNX Runtime", usual=2):
            measured = digits.measure(target, server, NAMESPACE)
        told = story.tell(story.Stage(target, server, refs["server"], NAMESPACE, steps, s3(server)))
    _summary(target, measured, told, steps)


def _summary(target: Target, measured: digits.Measured, told: story.Told, steps: Steps) -> None:
    here = "" if target.devcluster else f" --context {target.context}"
    opening = f'  eval "$(make env NAME={target.name})"\n' if target.devcluster else ""
    closing = "\n  make status; make down" if target.devcluster else ""
    listed = target.kubectl("get", "modelwright", "--namespace", NAMESPACE).strip()
    print(
        f"""
What was shown, on {"the devcluster " if target.devcluster else "the cluster of context "}{target.name}, in \
{human(steps.seconds)}:

examples/digits was trained on 2 workers, evaluated and published: {measured.files} files \
({measured.bytes / 1024:.0f} KiB) that agree
with their digests ({measured.digest[:19]}…); accuracy {measured.published_accuracy:.1%} on the test split.
{story.words(told)}

{story.indented(listed)}

To look around:
{opening}  kubectl{here} get modelwright --namespace {NAMESPACE}
  kubectl{here} describe inferenceservice {story.SERVICE} --namespace {NAMESPACE}
  kubectl{here} get events --namespace {NAMESPACE} --field-selector involvedObject.name={story.SERVICE}{closing}"""
    )


def main() -> int:
    try:
        run(Steps())
    except StepFailed as failed:
        print(f"demo: {failed}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
