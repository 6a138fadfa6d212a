"""Why an attempt ended: from the Job's failure, which outlives its pods, and from what the pods left behind.

The Job's pod failure policy (see `children.py`) has one rule for each cause, so the cause is in the Job's own condition
even where the pods are gone; the pods add the words.
"""

from __future__ import annotations

import dataclasses
import re
import signal
from collections.abc import Iterable, Sequence

from modelwright.api.training_history import LOG_LETTERS, LOG_LINES
from modelwright.contract import Outcome, Summary, cause
from modelwright.controllers.trainingjob.observed import JobView, PodView, own_pods
from modelwright.controllers.trainingjob.owncode import TRAINER

# The order of the rules in the pod failure policy, after the first, which is for disrupted pods: a condition names
# the rule that matched by its index.
RULES = tuple(outcome for outcome in Outcome if outcome.code != 0)
_RULE = re.compile(r"matching FailJob rule at index (\d+)")
_CONTAINER = re.compile(r"Container (\S+) for pod \S+ failed with exit code (\d+)")
_LONGEST = 600
_SIGNALLED = 128


# What Kubernetes says of a pod that it takes away (the reasons of the condition DisruptionTarget), as we tell it.
_DISRUPTIONS = {
    "PreemptionByScheduler": ("Preempted", "made room for a pod of higher priority"),
    "EvictionByEvictionAPI": ("Evicted", "was evicted, as for the drain of its node"),
    "TerminationByKubelet": ("Evicted", "was ended by its node's kubelet"),
    "DeletionByTaintManager": ("NodeLost", "was taken off its node, which does not answer or was tainted"),
    "DeletionByPodGC": ("NodeLost", "was lost with its node"),
}
DISRUPTIONS = frozenset({"Disrupted", *(reason for reason, _ in _DISRUPTIONS.values())})
# What the others of a pod that is taken away end with, and what becomes of it where it could not end by itself.
_IN_ITS_WAKE = frozenset(
    {Outcome.PREEMPTED, Outcome.PEER_LOST, Outcome.INFRASTRUCTURE, Outcome.HUNG, Outcome.WORKER_CRASHED}
)
# Of these a second one that is the same in all shows that a third would be.
_REPEATABLE = frozenset({Outcome.WORKER_CRASHED.reason, Outcome.OUT_OF_MEMORY.reason})


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """An attempt's failure. `message` is for the reader; `counted` is against `failurePolicy.maxRestarts`; `retried`:
    whether another attempt may end otherwise. `step`: where in the training, and `log`, the last lines that the worker
    printed, as far as they were told."""

    reason: str
    message: str
    retried: bool
    counted: bool
    step: int | None = None
    log: tuple[str, ...] = ()


def same(one: Failure, other: Failure) -> bool:
    """Whether two attempts came to the same end at the same step, without being asked to end. Figures of memory differ
    from time to time."""
    if not (one.counted and other.counted):
        return False
    if one.reason != other.reason or one.reason not in _REPEATABLE or one.step is None or one.step != other.step:
        return False
    return one.reason == Outcome.OUT_OF_MEMORY.reason or one.message == other.message


def disruption(pods: Sequence[PodView]) -> Failure | None:
    """That Kubernetes takes a pod away, and why; None where it takes none."""
    for pod in pods:
        if pod.disrupted:
            reason, words = _DISRUPTIONS.get(pod.disrupted, ("Disrupted", f"was evicted ({pod.disrupted})"))
            at = f" ({pod.node})" if pod.node else ""
            said = f": {pod.disruption}" if pod.disruption else ""
            return Failure(reason, f"worker {pod.index} {words}{at}{said}"[:_LONGEST], retried=True, counted=False)
    return None


def failure(job: JobView, pods: Sequence[PodView], noted: Failure | None = None) -> Failure:
    """The failure of a Job that failed, in the words of the pod that tells most about it. `noted` is a disruption that
    was seen while its pod was still there."""
    found = _failure_of(job, pods, noted)
    # Whoever suspended the Job meant its pods to end; how they managed to is no fault of theirs.
    return dataclasses.replace(found, counted=False) if job.suspended else found


def _failure_of(job: JobView, pods: Sequence[PodView], noted: Failure | None) -> Failure:
    own = own_pods(job, pods)
    ended = [(outcome, pod) for pod in own if (outcome := _outcome(pod)) is not None]
    rule = _rule(job.message)
    outcomes = [outcome for outcome, _ in ended]
    if job.own_code:
        outcomes += _of_own_code(job.message)
    elif rule is not None and 0 < rule <= len(RULES):
        outcomes.append(RULES[rule - 1])
    found = cause(outcomes) if outcomes else None
    taken = disruption(own) or noted
    if rule == 0 or (taken is not None and (found is None or found in _IN_ITS_WAKE)):
        unseen = Failure("Disrupted", "a worker was evicted", retried=True, counted=False)
        return dataclasses.replace(taken or unseen, step=last_step(own), log=last_lines(own))
    if found is None:
        return _failure(Outcome.WORKER_CRASHED, job.message or "the pods are gone, and left no word")
    for outcome, pod in sorted(ended, key=lambda one: (not one[1].termination_message, one[1].index)):
        if outcome is found:
            failed = _failure(found, f"worker {pod.index}: {_words(pod, outcome)}")
            return dataclasses.replace(failed, step=last_step([pod]), log=last_lines([pod]))
    return dataclasses.replace(_failure(found, job.message), log=last_lines(own))


def _failure(outcome: Outcome, message: str) -> Failure:
    return Failure(outcome.reason, message[:_LONGEST], outcome.retried, outcome.counted)


def last_step(pods: Iterable[PodView]) -> int | None:
    """The last step that any of the pods told of in the end."""
    steps = [said.step for pod in pods if (said := _said(pod)) is not None]
    return max(steps, default=None)


def last_lines(pods: Iterable[PodView]) -> tuple[str, ...]:
    """The end of the first of the pods' logs that there is."""
    for pod in pods:
        said = _said(pod)
        log = said.log if said is not None else _own_lines(pod) if pod.own_exit else ()
        if log:
            return tuple(line[:LOG_LETTERS] for line in log[-LOG_LINES:])
    return ()


def _own_lines(pod: PodView) -> tuple[str, ...]:
    return tuple(line.strip() for line in pod.termination_message.splitlines() if line.strip())


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
        # The kernel ends it at its limit, and so that is its peak.
        limit = f" of {pod.memory_limit}, its peak" if pod.memory_limit else ""
        return f"the container passed its memory limit{limit}; raise spec.workers.resources, or lower the batch size"
    if pod.own_exit and pod.exit_code is not None:
        lines = _own_lines(pod)
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
