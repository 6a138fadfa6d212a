"""A TrainingJob on the whole cluster: trained, disturbed, suspended, and its operator killed."""

from __future__ import annotations

import json
import re

from dev import digits
from dev.install import NAMESPACE as OPERATOR_NAMESPACE
from dev.target import Store
from devcluster.progress import Steps
from tests.e2e.training.jobs import Space, files, has_checkpoint, long_training, succeeded, training_job


def test_a_version_is_trained_published_and_as_good_as_it_says(space: Space, server: Store, steps: Steps) -> None:
    digits.train(space.target, space.name, steps)
    measured = digits.measure(space.target, server, space.name)
    assert measured.published_accuracy >= 0.93, "the example's gate"
    assert measured.accuracy >= measured.published_accuracy, "on all rows, of which most were trained on"
    table = space.kubectl("get", "modelwright")
    assert re.search(
        r"trainingjob.modelwright.dev/digits-v1-0-0 +digits +1\.0\.0 +Succeeded +100 +0\.\d+ +Published", table
    )
    assert re.search(r"modelversion.modelwright.dev/digits-v1-0-0 +digits +1\.0\.0 +Ready", table)
    assert re.search(r"model.modelwright.dev/digits +Ready +candidate=1\.0\.0 stable=1\.0\.0", table)


def test_a_killed_worker_costs_one_restart_and_changes_no_bit_of_what_is_learned(space: Space, server: Store) -> None:
    """The same job twice, of which one loses rank 0 after a checkpoint: the losses of all epochs are the same, and so
    is every file that is published."""
    space.apply(training_job("killed", "2.0.0", **long_training(100)))
    space.until("killed", "has a checkpoint", has_checkpoint)
    # Rank 0's, which the others meet at, and which writes.
    worker = f"{space.status('killed')['attempt']['jobName']}-0-"
    found = space.kubectl("get", "pods", "--output", "name").split()
    name = next(one for one in found if one.startswith(f"pod/{worker}"))
    space.kubectl("delete", name, "--grace-period=0", "--force", "--wait=false")
    space.until("killed", "is in its second attempt", lambda seen: seen["attempt"]["number"] == 2)
    seen = space.until("killed", "succeeds", succeeded)
    assert seen["restarts"]["counted"] + seen["restarts"]["notCounted"] == 1
    space.apply(training_job("calm", "2.0.1", **long_training(100)))
    seen = space.until("calm", "succeeds", succeeded)
    assert seen["attempt"]["number"] == 1
    (killed, losses), (calm, as_calm) = (files(space, server, name) for name in ("digits-v2-0-0", "digits-v2-0-1"))
    assert len(losses) == 100
    assert losses == as_calm
    assert killed == calm


def test_a_suspended_job_stops_after_a_checkpoint_and_goes_on(space: Space) -> None:
    space.apply(training_job("suspended", "3.0.0", **long_training()))
    space.until("suspended", "trains", lambda seen: (seen.get("progress") or {}).get("step", 0) > 100)
    patch = ["patch", "trainingjob", "suspended", "--type=merge", "--patch"]
    space.kubectl(*patch, '{"spec":{"suspend":true}}')
    step = space.until("suspended", "is suspended", lambda seen: seen["phase"] == "Suspended")["progress"]["step"]
    mine = space.items("pods", selector="modelwright.dev/trainingjob=suspended")
    assert not [pod for pod in mine if pod["status"]["phase"] in {"Pending", "Running"}]
    space.kubectl(*patch, '{"spec":{"suspend":false}}')
    space.until("suspended", "trains on", lambda seen: (seen.get("progress") or {}).get("step", 0) > step)
    seen = space.until("suspended", "succeeds", succeeded)
    assert seen["restarts"] == {"counted": 0, "notCounted": 1}


def test_a_job_that_is_deleted_under_a_training_is_made_again_under_another_name(space: Space) -> None:
    """The attempt's own Job, that is, by a person or a tidy-up; the training goes on from its checkpoint."""
    space.apply(training_job("untidy", "4.0.0", **long_training()))
    name = space.until("untidy", "has a checkpoint", has_checkpoint)["attempt"]["jobName"]
    space.kubectl("delete", "job", name)
    seen = space.until("untidy", "is in its second attempt", lambda seen: seen["attempt"]["number"] == 2)
    assert seen["attempt"]["jobName"] != name
    space.until("untidy", "succeeds", succeeded)


def test_another_replica_takes_over_from_a_leader_that_is_killed(space: Space) -> None:
    space.apply(training_job("takeover", "5.0.0", **long_training()))
    space.until("takeover", "trains", lambda seen: seen.get("phase") == "Running")
    operator = Space(space.target, OPERATOR_NAMESPACE)
    lease = json.loads(operator.kubectl("get", "lease", "modelwright", "--output", "json"))
    leader = lease["spec"]["holderIdentity"].partition("_")[0]
    operator.kubectl("delete", "pod", leader, "--grace-period=0", "--force")
    seen = space.until("takeover", "succeeds", succeeded)
    assert seen["attempt"]["number"] == 1, "the training did not notice"
