"""What ends a training before its time, and what is left of one that has ended."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from dev import digits, images
from dev.demo import BUCKET
from dev.target import Target
from devcluster.progress import Steps, wait_for
from tests.e2e.training.jobs import Space, condition, failed, small, succeeded
from tests.e2e.training.test_resize import alive, long, patch, trains

CHILDREN = ("jobs", "pods", "services", "configmaps")


def left(space: Space, name: str) -> list[str]:
    found = space.items(*CHILDREN, selector=f"modelwright.dev/trainingjob={name}")
    return [f"{one['kind']}/{one['metadata']['name']}" for one in found]


@pytest.mark.long
def test_a_deadline_ends_it_after_a_checkpoint_and_a_later_one_lets_it_go_on(space: Space) -> None:
    space.apply(long("overdue", "7.0.0", 3000, failurePolicy={"activeDeadline": "90s"}))
    seen = space.until("overdue", "fails", failed)
    assert condition(seen)["reason"] == "DeadlineExceeded"
    assert condition(seen)["message"].startswith("activeDeadline: 90 s of work are over; raise")
    assert alive(space, "overdue") == []
    (end,) = seen["history"]
    assert end["reason"] == "DeadlineExceeded"
    assert end["toStep"] > 0
    patch(space, "trainingjob", "overdue", {"failurePolicy": {"activeDeadline": "1h"}})
    seen = space.until("overdue", "trains on", trains(2))
    assert seen["attempt"]["fromStep"] == end["toStep"]
    space.kubectl("delete", "trainingjob", "overdue")


def test_what_it_was_made_of_goes_after_its_time_and_it_does_not_run_again(space: Space) -> None:
    made = small("tidy", "7.1.0")
    made["spec"]["cleanup"] = {"after": "5s"}
    space.apply(made)
    seen = space.until("tidy", "is cleaned up", lambda seen: "cleanupTime" in seen)
    assert succeeded(seen)
    wait_for("all that it was made of is gone", lambda: left(space, "tidy") == [], seconds=60)
    assert space.status("digits-v7-1-0", "modelversion")["phase"] == "Ready"
    patch(space, "trainingjob", "tidy", {"cleanup": {"after": "1h"}})
    again = space.until("tidy", "was looked at", lambda now: now["observedGeneration"] > seen["observedGeneration"])
    assert succeeded(again)
    assert left(space, "tidy") == []
    assert [again[field] for field in ("attempt", "artifact", "metrics", "history", "completionTime")] == [
        seen[field] for field in ("attempt", "artifact", "metrics", "history", "completionTime")
    ]


def test_what_has_failed_and_was_cleaned_up_runs_again_only_once_it_is_corrected(space: Space) -> None:
    made = small("tidied", "7.2.0")
    right = made["spec"]["data"]
    made["spec"] |= {"cleanup": {"after": "0s"}, "data": {**right, "target": "lable"}}
    space.apply(made)
    seen = space.until("tidied", "is cleaned up", lambda seen: "cleanupTime" in seen)
    wait_for("all that it was made of is gone", lambda: left(space, "tidied") == [], seconds=60)
    patch(space, "trainingjob", "tidied", {"failurePolicy": {"maxRestarts": 9}})
    again = space.until("tidied", "was looked at", lambda now: now["observedGeneration"] > seen["observedGeneration"])
    assert failed(again)
    assert condition(again)["message"] == condition(seen)["message"]
    assert left(space, "tidied") == []
    patch(space, "trainingjob", "tidied", {"data": right})
    seen = space.until("tidied", "succeeds", succeeded)
    assert seen["attempt"]["number"] == 2


@pytest.fixture(scope="module")
def image(operator: Target, steps: Steps) -> str:
    """An image without any code of ours."""
    return images.build_and_push(steps, operator.registry, ("base",))["base"]


def own(name: str, image: str, words: str) -> dict[str, Any]:
    """A job whose command is a shell's."""
    spec = {
        "publish": {"model": name, "version": "1.0.0"},
        "data": {"uri": f"s3://{BUCKET}/{digits.KEY}"},
        "storage": {"uri": f"s3://{BUCKET}/e2e/{name}", "secretRef": {"name": "store"}},
        "trainer": {"image": image, "command": ["sh", "-c", words]},
        "workers": {"resources": {"requests": {"cpu": "50m", "memory": "64Mi"}}},
    }
    return {
        "apiVersion": "modelwright.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": name}, "spec": spec,
    }  # fmt: skip


def test_the_same_error_at_the_same_step_twice_is_not_tried_again(space: Space, image: str) -> None:
    space.apply(own("stubborn", image, "echo 'ValueError: no column age' >&2; exit 3"))
    seen = space.until("stubborn", "fails", failed)
    message = condition(seen)["message"]
    print(f"\n  {condition(seen)['reason']}: {message}")
    assert condition(seen)["reason"] == "WorkerCrashed"
    assert message == (
        "worker 0: the code ended with exit code 3: ValueError: no column age (the same error at step 0 as in the"
        " attempt before: it is not tried again; mend it, or suspend and resume)"
    )
    assert seen["attempt"]["number"] == 2, "of maxRestarts 3"
    assert [end["counted"] for end in seen["history"]] == [True, True]


def test_too_little_memory_is_told_with_limit_and_peak(space: Space) -> None:
    """Less than it takes to import torch."""
    made = small("tight", "7.3.0")
    made["spec"]["failurePolicy"] = {"maxRestarts": 0}
    made["spec"]["workers"]["resources"] = {"requests": {"cpu": "50m"}, "limits": {"memory": "128Mi"}}
    space.apply(made)
    seen = space.until("tight", "fails", failed)
    message = condition(seen)["message"]
    print(f"\n  {condition(seen)['reason']}: {message}")
    assert condition(seen)["reason"] == "OutOfMemory"
    # By the wrapper where the kernel killed a worker, by the kubelet where it killed the whole container.
    assert re.search(r"\(limit 128Mi, peak 1\d\d(\.\d)?Mi\)|memory limit of 128Mi, its peak", message), json.dumps(seen)
    assert "raise spec.workers.resources" in message
