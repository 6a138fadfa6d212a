"""What the operator writes while nothing changes but how far a training is.

    STEADY_SECONDS=120 NAME=scale .venv/bin/python -m pytest tests/bench/test_steady.py -s

On the whole cluster, with the operator as its chart installs it: three trainings of the digits that are over, and one
that runs throughout. The writes are the API server's own record of them, its audit log.
"""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from dev import digits, examples, images
from dev.demo import BUCKET, prepare, s3
from dev.install import NAMESPACE as OPERATOR_NAMESPACE
from dev.install import install
from dev.target import Store, Target, resolve, store
from devcluster.__main__ import find
from devcluster.progress import Steps, wait_for
from tests.bench import audit

NAMESPACE = "modelwright-bench-steady"
SECONDS = float(os.environ.get("STEADY_SECONDS", "120"))
FINISHED = 3
EXAMPLE = examples.training_job()
USER = f"system:serviceaccount:{OPERATOR_NAMESPACE}:modelwright"
ALLOWED = frozenset({"leases", "trainingjobs/status"})


@pytest.fixture(scope="module")
def target(steps: Steps) -> Target:
    found = resolve(steps)
    if not found.devcluster:
        pytest.skip("the audit log of a cluster of one's own is not to be read from here")
    return found


@pytest.fixture(scope="module")
def server(target: Target, steps: Steps) -> Iterator[Store]:
    with store(target, steps) as one:
        yield one


@pytest.fixture(scope="module")
def space(target: Target, server: Store, steps: Steps) -> Iterator[str]:
    prepare(target, server, NAMESPACE)
    install(target, images.build_and_push(steps, target.registry), server, steps)
    digits.upload(s3(server), BUCKET)
    yield NAMESPACE
    target.kubectl("delete", "namespace", NAMESPACE, f"{NAMESPACE}-host", "--wait=false")


def apply(target: Target, name: str, version: str, *, epochs: int) -> None:
    made: dict[str, Any] = copy.deepcopy(EXAMPLE)
    made["metadata"] = {"name": name}
    made["spec"] |= {
        "publish": {"model": "digits", "version": version},
        "storage": {"uri": f"s3://{BUCKET}/bench/{name}", "secretRef": {"name": "store"}},
        "evaluation": {"metrics": ["accuracy"]},
    }
    made["spec"]["trainer"]["hyperparameters"] |= {"epochs": str(epochs)}
    target.kubectl("apply", "--namespace", NAMESPACE, "--filename", "-", stdin=json.dumps(made))


def phase(target: Target, name: str) -> Mapping[str, Any]:
    return digits.status_of(target, "trainingjob", name, NAMESPACE)


@pytest.mark.timeout(1800)
def test_steady_state(target: Target, space: str, steps: Steps) -> None:
    with steps.step(f"train {FINISHED} times", usual=90) as step:
        for number in range(FINISHED):
            apply(target, f"finished-{number}", f"1.{number}.0", epochs=2)
            digits.await_trained(target, space, step, name=f"finished-{number}")
    apply(target, "running", "2.0.0", epochs=100_000)
    wait_for(
        "the last one trains", lambda: (phase(target, "running").get("progress") or {}).get("step", 0) > 0, seconds=180
    )
    log = audit.Audit(find(target.name, None).log / "audit.log")
    before = phase(target, "running")["progress"]
    with steps.step("let the time pass", usual=SECONDS):
        time.sleep(SECONDS)  # the measure is of time that passes with nothing to do
    after = phase(target, "running")
    writes = [one for one in log.writes() if one.user == USER]
    print(f"\n{SECONDS:.0f} s, {FINISHED} trainings over, 1 running: the operator's writes")
    for what, count in audit.counts(writes).items():
        about = ", ".join(sorted({" ".join((one.name, *one.status_fields)) for one in writes if one.told == what}))
        print(f"  {count:>4} × {what:<28} {about}")
    print(f"  progress: step {before['step']} → {after['progress']['step']}; aim: the Lease and progress only")
    target.kubectl("delete", "trainingjob", "running", "--namespace", space, "--wait=false")
    assert after["phase"] == "Running"
    assert {one.what.partition(" ")[2] for one in writes} <= ALLOWED
    told = {(one.name, one.status_fields) for one in writes if one.what.endswith("trainingjobs/status")}
    assert told <= {("running", ("progress",))}
