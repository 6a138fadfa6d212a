"""The user's own image and command, without anything of ours in it: trained, disturbed, published, served.

The image is the base of ours, Debian with Python alone; the code is examples/own-code/train.py.
"""

from __future__ import annotations

import csv
import io
import json
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import yaml
from sklearn.datasets import load_digits

from dev import digits, examples, images
from dev.demo import BUCKET, s3
from dev.target import Store, Target
from devcluster.progress import Steps, wait_for
from tests.e2e.training.jobs import Space, condition, failed, has_checkpoint, succeeded

FOLDER = examples.DIGITS.parent / "own-code"
EXAMPLE = yaml.safe_load((FOLDER / "training-job.yaml").read_text())
PIXELS, LABELS = load_digits(return_X_y=True)


@pytest.fixture(scope="module")
def image(target: Target, steps: Steps) -> str:
    """An image that holds no code of ours, and no package but Debian's Python."""
    return images.build_and_push(steps, target.registry, ("base",))["base"]


@pytest.fixture(scope="module", autouse=True)
def _ready(space: Space, server: Store) -> Iterator[None]:
    """The digits as CSV in the store, the code in a ConfigMap."""
    file = io.StringIO()
    table = csv.writer(file)
    table.writerow([*(f"pixel_{index}" for index in range(digits.PIXELS)), "label"])
    table.writerows([*map(int, row), int(label)] for row, label in zip(PIXELS, LABELS, strict=True))
    s3(server).put_object(Bucket=BUCKET, Key="raw/digits.csv", Body=file.getvalue().encode())
    code = {"train.py": (FOLDER / "train.py").read_text()}
    space.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "own-code"}, "data": code})
    yield
    space.kubectl("delete", "inferenceservices", "--all", "--wait")


def own(name: str, image: str, **trainer: Any) -> dict[str, Any]:
    """The example under another name, with a store folder of its own; `trainer` replaces fields of its trainer."""
    made: dict[str, Any] = json.loads(json.dumps(EXAMPLE))
    made["metadata"] = {"name": name}
    made["spec"]["publish"]["model"] = name
    made["spec"]["storage"] = {"uri": f"s3://{BUCKET}/e2e/{name}", "secretRef": {"name": "store"}}
    made["spec"]["trainer"] |= {"image": image, **trainer}
    made["spec"]["workers"]["resources"] = {"requests": {"cpu": "100m", "memory": "64Mi"}}
    return made


def script(name: str, image: str, words: str, **spec: Any) -> dict[str, Any]:
    """A job whose command is a shell's, without gates."""
    made = own(name, image, command=["sh", "-c", words])
    made["spec"] |= {"evaluation": {}, **spec}
    return made


def service(name: str) -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load((examples.DIGITS / "inference-service.yaml").read_text())
    made["metadata"] = {"name": name}
    made["spec"] |= {"model": {"name": name, "version": "1.0.0"}, "replicas": 1}
    made["spec"]["resources"] = {"requests": {"cpu": "20m", "memory": "96Mi"}}
    return made


def predictions(space: Space, name: str) -> Any:
    """The class of each row of the digits, as the service says over HTTP, in one request."""
    found = json.loads(space.kubectl("get", "service", name, "--output", "json"))
    rows = {"name": "features", "shape": list(PIXELS.shape), "datatype": "FP32", "data": PIXELS.ravel().tolist()}
    asked = urllib.request.Request(
        f"http://{found['spec']['clusterIP']}/v2/models/{name}/infer",
        json.dumps({"inputs": [rows]}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310 - the cluster's
        (output,) = json.load(answer)["outputs"]
    return np.array(output["data"]).reshape(output["shape"]).argmax(axis=1)


def logs(space: Space, name: str, container: str = "trainer") -> str:
    job = space.status(name)["attempt"]["jobName"]
    return space.kubectl("logs", f"job/{job}", "--container", container)


def test_own_code_is_trained_published_and_served(space: Space, image: str) -> None:
    space.apply(own("own-digits", image))
    seen = space.until("own-digits", "succeeds", succeeded)
    assert seen["progress"]["percent"] == 100
    assert float(seen["metrics"]["accuracy"]) >= 0.93
    print(f"\n{space.kubectl('get', 'trainingjob', 'own-digits')}{logs(space, 'own-digits').splitlines()[-1]}")
    version = space.status("own-digits-v1-0-0", "modelversion")
    assert version["artifact"]["digest"] == seen["artifact"]["digest"]

    space.apply(service("own-digits"))
    wait_for(
        "it is served", lambda: space.status("own-digits", "inferenceservice").get("phase") == "Ready", seconds=120
    )
    right = float((predictions(space, "own-digits") == LABELS).mean())
    print(f"  {right:.1%} of all rows are right over HTTP")
    assert right >= 0.93


def test_a_command_that_fails_is_told_with_its_exit_code_and_its_last_words(space: Space, image: str) -> None:
    words = "echo begun; echo 'ValueError: no column age' >&2; exit 3"
    space.apply(script("own-fails", image, words, failurePolicy={"maxRestarts": 0}))
    seen = space.until("own-fails", "fails", failed)
    print(f"\n  {condition(seen)['reason']}: {condition(seen)['message']}")
    assert condition(seen)["reason"] == "WorkerCrashed"
    assert condition(seen)["message"].startswith("worker 0: the code ended with exit code 3: ValueError: no column age")
    assert condition(seen, "Stalled")["status"] == "True"


@pytest.mark.long
def test_code_that_leaves_nothing_is_told_what_to_leave(space: Space, image: str) -> None:
    space.apply(script("own-empty", image, "true"))
    seen = space.until("own-empty", "fails", failed)
    assert condition(seen)["reason"] == "UserError"
    assert "left neither model.onnx nor files in native/" in condition(seen)["message"]


@pytest.mark.long
def test_an_image_that_does_not_come_is_told_in_kubernetes_words(space: Space) -> None:
    space.apply(own("own-image", "a.invalid/no:1"))
    seen = space.until("own-image", "says why", lambda seen: condition(seen).get("reason") == "ErrImagePull")
    assert (
        'worker 0 cannot start: ErrImagePull: failed to pull and unpack image "a.invalid/no:1"'
        in (condition(seen)["message"])
    )
    space.kubectl("delete", "trainingjob", "own-image")


@pytest.mark.long
def test_a_suspended_training_goes_on_from_the_checkpoint_that_its_code_saved_last(space: Space, image: str) -> None:
    slow = [{"name": "EPOCHS", "value": "8"}, {"name": "PAUSE", "value": "2"}]
    space.apply(own("own-suspended", image, env=slow))
    space.until("own-suspended", "has a checkpoint", has_checkpoint)
    patch = ["patch", "trainingjob", "own-suspended", "--type=merge", "--patch"]
    began = time.monotonic()
    space.kubectl(*patch, '{"spec":{"suspend":true}}')
    seen = space.until("own-suspended", "is suspended", lambda seen: seen["phase"] == "Suspended")
    took = time.monotonic() - began
    print(f"\n  suspended in {took:.1f} s, at step {seen['progress']['step']}")
    assert took < 45, "the pod ends once its code has, and not when its time is up"
    space.kubectl(*patch, '{"spec":{"suspend":false}}')
    seen = space.until("own-suspended", "succeeds", succeeded)
    assert seen["attempt"]["number"] == 2
    first, *rest = logs(space, "own-suspended").splitlines()
    print(f"  {first}")
    assert first.startswith("resumed at step ")
    epochs = [int(line.split()[1]) for line in rest if line.startswith("epoch ")]
    done = int(first.rpartition(" ")[2])
    assert done >= 1
    assert epochs == list(range(done + 1, 9)), "no epoch is trained twice, and none is left out"


@pytest.mark.long
def test_workers_find_each_other_by_the_variables_that_launchers_read(space: Space, image: str) -> None:
    code = """
import os, socket
rank, port = int(os.environ["RANK"]), int(os.environ["MASTER_PORT"])
assert (os.environ["WORLD_SIZE"], os.environ["PET_NODE_RANK"]) == ("2", str(rank))
if rank == 0:
    with socket.create_server(("", port)) as server:
        with server.accept()[0] as one:
            said = one.recv(100)
    os.makedirs(os.environ["MODELWRIGHT_OUTPUT"] + "/native")
    with open(os.environ["MODELWRIGHT_OUTPUT"] + "/native/said", "wb") as file:
        file.write(said)
else:
    with socket.create_connection((os.environ["MASTER_ADDR"], port), timeout=60) as one:
        one.sendall(b"rank 1 was here")
"""
    job = script("own-pair", image, "")
    job["spec"]["trainer"]["command"] = ["python3", "-c", code]
    job["spec"]["workers"]["replicas"] = 2
    space.apply(job)
    space.until("own-pair", "succeeds", succeeded)


@pytest.mark.long
def test_a_version_of_an_own_format_is_not_served_and_says_so(space: Space, image: str) -> None:
    space.apply(script("own-native", image, "mkdir $MODELWRIGHT_OUTPUT/native; echo x > $MODELWRIGHT_OUTPUT/native/w"))
    space.until("own-native", "succeeds", succeeded)
    space.apply(service("own-native"))
    wait_for(
        "the service is stalled",
        lambda: condition(space.status("own-native", "inferenceservice"), "Stalled").get("status") == "True",
        seconds=120,
    )
    told = condition(space.status("own-native", "inferenceservice"), "Stalled")
    print(f"\n  {told['reason']}: {told['message']}")
    assert told["reason"] == "FormatUnavailable"
    assert "its formats are native, and this server runs onnx" in told["message"]


@pytest.mark.long
def test_code_that_tells_of_its_progress_and_hangs_is_ended(space: Space, image: str) -> None:
    words = "echo '{\"step\": 7}' > $MODELWRIGHT_PROGRESS; exec sleep 3600"
    policy = {"maxRestarts": 0, "stallTimeout": "10s"}
    space.apply(script("own-hangs", image, words, failurePolicy=policy))
    seen = space.until("own-hangs", "fails", failed)
    print(f"\n  {condition(seen)['reason']}: {condition(seen)['message']}")
    assert condition(seen)["reason"] == "Hung"
    assert "stallTimeout 10 s), after step 7" in condition(seen)["message"]
