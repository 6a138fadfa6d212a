"""Why an attempt ended: from the Job's failure, which outlives its pods, and from what the pods left behind.

The Job's pod failure policy (see `children.py`) has one rule for each cause, so the cause is in the Job's own condition
even where the pods are gone; the pods add the words.
"""

from __future__ import annotations

import dataclasses
import re
import signal
from collections.abc import Sequence

from modelwright.contract import Outcome, Summary, cause
from modelwright.controllers.trainingjob.observed import JobView, PodView
from modelwright.controllers.trainingjob.owncode import TRAINER

# The order of the rules in the pod failure policy, after the first, which is for disrupted pods: a condition names
# the rule that matched by its index.
RULES = tuple(outcome for outcome in Outcome if outcome.code != 0)
_RULE = re.compile(r"matching FailJob rule at index (\d+)")
_CONTAINER = re.compile(r"Container (\S+) for pod \S+ failed with exit code (\d+)")
_LONGEST = 600
_SIGNALLED = 128


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """An attempt's failure. `message` is for the reader; `counted` is against `failurePolicy.maxRestarts`; `retried`:
    whether another attempt may end otherwise."""

    reason: str
    message: str
    retried: bool
    counted: bool


def failure(job: JobView, pods: Sequence[PodView]) -> Failure:
    """The failure of a Job that failed, in the words of the pod that tells most about it."""
    own = [pod for pod in pods if pod.job_uid == job.uid]
    ended = [(outcome, pod) for pod in own if (outcome := _outcome(pod)) is not None]
    rule = _rule(job.message)
    disrupted = next((pod for pod in own if pod.disrupted), None)
    if rule == 0 or (rule is None and disrupted is not None):
        words = f"worker {disrupted.index} was evicted ({disrupted.disrupted})" if disrupted else "a worker was evicted"
        return Failure("Disrupted", words, retried=True, counted=False)
    outcomes = [outcome for outcome, _ in ended]
    if job.own_code:
        outcomes += _of_own_code(job.message)
    elif rule is not None and rule <= len(RULES):
        outcomes.append(RULES[rule - 1])
    if not outcomes:
        words = job.message or "the pods are gone, and left no word"
        return _failure(Outcome.WORKER_CRASHED, words)
    found = cause(outcomes)
    for outcome, pod in sorted(ended, key=lambda one: (not one[1].termination_message, one[1].index)):
        if outcome is found:
            return _failure(found, f"worker {pod.index}: {_words(pod, outcome)}")
    return _failure(found, job.message)


def _failure(outcome: Outcome, message: str) -> Failure:
    return Failure(outcome.reason, message[:_LONGEST], outcome.retried, outcome.counted)


def _of_own_code(message: str) -> list[Outcome]:
    """Where pods run the user's own code, one rule is for all: the message names the container, and its exit code."""
    found = _CONTAINER.search(message)
    if found is None:
        return []
    return [Outcome.WORKER_CRASHED if found.group(1) == TRAINER else Outcome.of(int(found.group(2)))]


def _rule(message: str) -> int | None:
    found = _RULE.search(message)
    return int(found.group(1)) if found else None


def _outcome(pod: PodView) -> Outcome | None:
    """How the pod ended; None where it has not, or was stopped with the others before it could say."""
    if pod.exit_code is None or pod.exit_code == 0:
        return None
    said = _said(pod)
    if said is not None:
        return Outcome.named(said.outcome)
    if pod.exit_reason == "OOMKilled":
        return Outcome.OUT_OF_MEMORY
    if pod.deleting:
        return None
    return Outcome.WORKER_CRASHED if pod.own_exit else Outcome.of(pod.exit_code)


def _said(pod: PodView) -> Summary | None:
    """What our own program left; of the user's there is only its log."""
    return None if pod.own_exit else Summary.from_message(pod.termination_message)


def _words(pod: PodView, outcome: Outcome) -> str:
    said = _said(pod)
    if said is not None and said.failure is not None:
        return f"{said.failure.type}: {said.failure.message}"
    if outcome is Outcome.OUT_OF_MEMORY:
        return "the container passed its memory limit; raise spec.workers.resources, or lower the batch size"
    if pod.own_exit and pod.exit_code is not None:
        lines = [line.strip() for line in pod.termination_message.splitlines() if line.strip()]
        return f"the code ended with {_exit_words(pod.exit_code)}{f': {lines[-1]}' if lines else ', and said nothing'}"
    return f"the container ended with exit code {pod.exit_code}"


def _exit_words(code: int) -> str:
    """`exit code 3`, or `exit code 137 (SIGKILL)`."""
    try:
        return (
            f"exit code {code} ({signal.Signals(code - _SIGNALLED).name})" if code > _SIGNALLED else f"exit code {code}"
        )
    except ValueError:
        return f"exit code {code}"
