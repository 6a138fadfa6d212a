"""Conditions as they are in status, and what status says before the operator has seen an object."""

from __future__ import annotations

import datetime
from typing import Literal

from pydantic import Field, JsonValue

from modelwright.api.base import StatusModel
from modelwright.api.types import Items, Time

BEFORE_THE_FIRST_LOOK = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
"""The time of the conditions that the API server sets by default, which has no "now". The operator's first write must
not keep it."""


class Condition(StatusModel):
    """One aspect of the object's state, as metav1.Condition has it."""

    type: str = Field(
        min_length=1, max_length=316, description="Which aspect: Ready or Succeeded, Reconciling, Stalled."
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    observed_generation: int | None = Field(
        default=None, ge=0, description="The metadata.generation that this is about."
    )
    last_transition_time: Time = Field(description="When `status` became what it is.")
    reason: str = Field(
        min_length=1,
        max_length=1024,
        pattern="^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        description="Why, as one word for programs.",
    )
    message: str = Field(max_length=32768, description="Why, for people, and what to do about it.")


Conditions = Items[Condition]
CONDITIONS_SCHEMA: dict[str, JsonValue] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}


def conditions_field(main: Literal["Ready", "Succeeded"]) -> str:
    """The description of an object's conditions."""
    meaning = "it is as asked for" if main == "Ready" else "it has ended as asked for"
    return (
        f"What holds. {main}: {meaning}. Reconciling: the operator is at work on it. Stalled: nothing goes on until"
        " somebody does what the message says."
    )


def before_the_first_look(main: Literal["Ready", "Succeeded"]) -> tuple[Condition, ...]:
    """The default of `status.conditions`: an object without status counts as done for kstatus, and so for Flux, Argo CD
    and `kubectl wait`."""
    message = "The operator has not looked at it yet."
    return (
        Condition(
            type=main,
            status="Unknown",
            last_transition_time=BEFORE_THE_FIRST_LOOK,
            reason="Pending",
            message=message,
        ),
        Condition(
            type="Reconciling",
            status="True",
            last_transition_time=BEFORE_THE_FIRST_LOOK,
            reason="Pending",
            message=message,
        ),
    )
