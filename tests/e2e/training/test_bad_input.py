"""Bad input ends in words that a person can act on, and the job goes on once it is corrected.

What the API server refuses by the CRDs' rules has its own table, in tests/cluster/test_crds_rules.py; here it is shown
once for each sort with kubectl, as a user meets it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from dev.demo import BUCKET
from devcluster.progress import StepFailed
from tests.e2e.training.jobs import EXAMPLE, Space, condition, failed, small, succeeded

DATA = EXAMPLE["spec"]["data"]


def wrong(name: str, **spec: Any) -> dict[str, Any]:
    """A small job with something wrong. Each has a version of its own, since each publishes one in the end."""
    made = small(name, "1.0.0")
    made["spec"]["publish"]["model"] = name
    made["spec"] |= spec
    return made


def corrected(name: str) -> dict[str, Any]:
    made = small(name, "1.0.0")
    made["spec"]["publish"]["model"] = name
    return made


def settings(**changes: Any) -> dict[str, Any]:
    return {**small("x", "1.0.0")["spec"]["workers"], **changes}


@dataclasses.dataclass(frozen=True)
class Case:
    """What is wrong, and the words that say so."""

    spec: Mapping[str, Any]
    reason: str
    words: str


REFUSED: dict[str, Case] = {
    "misspelt": Case(
        {"trainer": {"recipe": "mlp", "hyperparameters": {"learnngRate": "0.1"}}},
        "InvalidHyperparameter",
        "spec.trainer.hyperparameters.learnngRate: mlp has no such hyperparameter; did you mean learningRate?",
    ),
    "out-of-range": Case(
        {"trainer": {"recipe": "mlp", "hyperparameters": {"learningRate": "-1"}}},
        "InvalidHyperparameter",
        "spec.trainer.hyperparameters.learningRate: '-1' is out of range: above 0, at most 10",
    ),
    "column": Case(
        {"data": {**DATA, "target": "lable"}},
        "DataError",
        "worker 0: DataError: data.target: there is no column lable; did you mean label? (the columns are pixel_0,",
    ),
    "no-data": Case(
        {"data": {**DATA, "uri": f"s3://{BUCKET}/raw/nothing.parquet"}},
        "DataError",
        f"worker 0: DataError: data.uri: s3://{BUCKET}/raw/nothing.parquet: there is no such object: mend the URI, or"
        " upload it",
    ),
    "gate": Case(
        {"evaluation": {"gates": [{"metric": "accuracy", "min": "1"}]}}, "GateFailed", "is below min 1"
    ),
    "template": Case(
        {"workers": settings(podTemplate={"spec": {"nodeSelector": {"not a label!": "x"}}})},
        "InvalidPodTemplate",
        'spec.template.spec.nodeSelector: Invalid value: "not a label!": name part must consist of alphanumeric',
    ),
    "credentials": Case(
        {"storage": {"uri": f"s3://{BUCKET}/e2e/x", "secretRef": {"name": "wrong"}}},
        "StoreRefused",
        "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the Secret",
    ),
}  # fmt: skip

WAITING: dict[str, Case] = {
    "gpus": Case(
        {"workers": settings(resources={"limits": {"nvidia.com/gpu": 99}})},
        "Unschedulable",
        "Insufficient nvidia.com/gpu.",
    ),
    "secret": Case(
        {"storage": {"uri": f"s3://{BUCKET}/e2e/x", "secretRef": {"name": "nothing"}}},
        "CreateContainerConfigError",
        'worker 0 cannot start: CreateContainerConfigError: secret "nothing" not found',
    ),
    "image": Case(
        {"workers": settings(podTemplate={"spec": {"containers": [{"name": "trainer", "image": "a.invalid/no:1"}]}})},
        "ErrImagePull",
        'worker 0 cannot start: ErrImagePull: failed to pull and unpack image "a.invalid/no:1"',
    ),
}


# What waits is heard first: a pull that failed is soon one that is backed off.
CASES = {**WAITING, **REFUSED}


@pytest.fixture(scope="module", autouse=True)
def _wrong_secret(space: Space) -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "wrong"},
        "stringData": {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "guessed", "AWS_ALLOW_HTTP": "true"},
    }
    space.apply(secret)


Seen = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Story:
    """What status said of a wrong job, and of the same once it was corrected; or why it never said it."""

    wrong: Seen | AssertionError
    corrected: Seen | AssertionError


def _heard(space: Space, name: str, what: str, check: Callable[[Seen], bool]) -> Seen | AssertionError:
    try:
        return space.until(name, what, check, seconds=300)
    except AssertionError as never:
        return never


def _said(heard: Seen | AssertionError) -> Seen:
    if isinstance(heard, AssertionError):
        raise heard
    return heard


@pytest.fixture(scope="module")
def stories(space: Space, _wrong_secret: None) -> dict[str, Story]:
    """All cases at once: most of a small training's time is the start of its pod."""
    for name, case in CASES.items():
        space.apply(wrong(f"bad-{name}", **case.spec))
    heard = {
        name: _heard(
            space,
            f"bad-{name}",
            "says why",
            failed if name in REFUSED else lambda seen, reason=case.reason: condition(seen).get("reason") == reason,
        )
        for name, case in CASES.items()
    }
    for name in CASES:
        space.apply(corrected(f"bad-{name}"))
    return {name: Story(heard[name], _heard(space, f"bad-{name}", "succeeds", succeeded)) for name in CASES}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_said_and_goes_on_once_it_is_corrected(stories: dict[str, Story], name: str) -> None:
    case, seen = REFUSED[name], _said(stories[name].wrong)
    print(f"\n  {condition(seen)['reason']}: {condition(seen)['message']}")
    assert condition(seen)["reason"] == case.reason
    assert case.words in condition(seen)["message"]
    assert condition(seen, "Stalled")["status"] == "True"
    assert "Traceback" not in json.dumps(seen)
    _said(stories[name].corrected)


@pytest.mark.parametrize("name", WAITING)
def test_what_a_pod_waits_for_is_said_in_kubernetes_words_and_goes_on_once_it_is_corrected(
    stories: dict[str, Story], name: str
) -> None:
    case, seen = WAITING[name], _said(stories[name].wrong)
    print(f"\n  {condition(seen)['reason']}: {condition(seen)['message']}")
    assert seen["phase"] == "Pending"
    assert case.words in condition(seen)["message"]
    _said(stories[name].corrected)


def test_a_secret_that_comes_later_is_enough(space: Space) -> None:
    later = {"uri": f"s3://{BUCKET}/e2e/later", "secretRef": {"name": "later"}}
    space.apply(wrong("later", storage=later))
    space.until("later", "waits", lambda seen: condition(seen).get("reason") == "CreateContainerConfigError")
    secret = json.loads(space.kubectl("get", "secret", "store", "--output", "json"))
    space.apply({**secret, "metadata": {"name": "later"}})
    space.until("later", "succeeds", succeeded)


def test_after_the_credentials_were_corrected_in_place_suspend_and_resume_tries_again(space: Space) -> None:
    secret = json.loads(space.kubectl("get", "secret", "wrong", "--output", "json"))
    space.apply({**secret, "metadata": {"name": "in-place"}})
    space.apply(wrong("in-place", storage={"uri": f"s3://{BUCKET}/e2e/in-place", "secretRef": {"name": "in-place"}}))
    space.until("in-place", "is refused", failed)
    right = json.loads(space.kubectl("get", "secret", "store", "--output", "json"))
    space.apply({**right, "metadata": {"name": "in-place"}})
    patch = ["patch", "trainingjob", "in-place", "--type=merge", "--patch"]
    space.kubectl(*patch, '{"spec":{"suspend":true}}')
    space.until("in-place", "is suspended", lambda seen: seen["phase"] == "Suspended")
    space.kubectl(*patch, '{"spec":{"suspend":false}}')
    space.until("in-place", "succeeds", succeeded)


def version_named(name: str) -> dict[str, Any]:
    spec = {"model": "digits", "version": "7.0.0", "source": {"trainingJobRef": {"name": "nobody"}}}
    return {"apiVersion": "modelwright.dev/v1alpha1", "kind": "ModelVersion", "metadata": {"name": name}, "spec": spec}


def unstarted(**spec: Any) -> dict[str, Any]:
    """A job that starts nothing where it is taken."""
    made = wrong("refused", suspend=True)
    made["spec"] |= spec
    return made


AT_THE_DOOR: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "an unknown enum value": (
        unstarted(strategy={"type": "Horovod"}),
        unstarted(strategy={"type": "DDP"}),
        'spec.strategy.type: Unsupported value: "Horovod": supported values: "DDP", "FSDP", "LocalSGD"',
    ),
    "a version that is not SemVer": (
        unstarted(publish={"model": "refused", "version": "1"}),
        unstarted(),
        "spec.publish.version: Invalid value: \"1\": '1' is not a semantic version; write MAJOR.MINOR.PATCH, such as"
        " 1.0.0 or 1.0.0-rc.1",
    ),
    "a name that does not match model and version": (
        version_named("digits-7"),
        version_named("digits-v7-0-0"),
        "metadata.name: Invalid value: 'digits-7' must say which version it is; write 'digits-v7-0-0'",
    ),
    "a missing URI": (
        unstarted(data={key: value for key, value in DATA.items() if key != "uri"}),
        unstarted(),
        "spec.data: Invalid value: give exactly one of uri and datasetRef",
    ),
}


@pytest.mark.parametrize("what", AT_THE_DOOR)
def test_what_the_api_server_refuses_it_takes_once_it_is_corrected(space: Space, what: str) -> None:
    bad, good, words = AT_THE_DOOR[what]
    with pytest.raises(StepFailed) as refusal:
        space.apply(bad)
    assert words in refusal.value.output
    name = f"{good['kind'].lower()}.modelwright.dev/{good['metadata']['name']}"
    assert space.apply(good).strip() == f"{name} created"
    space.kubectl("delete", name)
