"""Pods that are gone, as they were last seen, until what they knew is in status.

A pod that is suspended, evicted or preempted is deleted as soon as it has ended: its last words, which are its step and
why it ended, are there for less than a second. They are kept in memory alone: where the operator dies meanwhile, status
says what it said last.
"""

from __future__ import annotations

import dataclasses

from modelwright.controllers.trainingjob.observed import PodView
from modelwright.kube.resources import Key


class LostPods:
    """By TrainingJob."""

    def __init__(self) -> None:
        self._lost: dict[Key, dict[str, PodView]] = {}

    def keep(self, key: Key, pod: PodView) -> None:
        """A pod of the TrainingJob `key` was deleted. One that says nothing is not kept."""
        if pod.exit_code is not None or pod.disrupted:
            ended = pod if pod.phase in ("Succeeded", "Failed") else dataclasses.replace(pod, phase="Failed")
            self._lost.setdefault(key, {})[pod.name] = ended

    def of(self, key: Key) -> list[PodView]:
        return list(self._lost.get(key, {}).values())

    def forget(self, key: Key) -> None:
        self._lost.pop(key, None)
