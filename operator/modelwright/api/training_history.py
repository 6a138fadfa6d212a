"""What became of each attempt of a TrainingJob, and how its losses went: what outlives pods and Jobs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from modelwright.api.base import StatusModel
from modelwright.api.types import Figure, Items, Time

HISTORY_LENGTH = 16
MESSAGE_LENGTH = 700
LOG_LINES, LOG_LETTERS = 5, 160
CURVE_LENGTH = 50

Line = Annotated[str, StringConstraints(max_length=LOG_LETTERS)]


class AttemptEnd(StatusModel):
    """An attempt that has ended."""

    number: int = Field(ge=1, description="Which attempt.")
    workers: int = Field(default=0, ge=0, description="How many workers it had.")
    reason: str = Field(max_length=64, description="Why it ended; docs/training-operations.md lists the reasons.")
    message: str = Field(default="", max_length=MESSAGE_LENGTH, description="Why, for people.")
    counted: bool = Field(default=False, description="Whether it counts against failurePolicy.maxRestarts.")
    from_step: int | None = Field(
        default=None, ge=0, description="The step of the checkpoint that it began from, as far as it was told."
    )
    to_step: int | None = Field(default=None, ge=0, description="The last step that it told of.")
    log: Items[Line] | None = Field(
        default=None, max_length=LOG_LINES, description="The last lines that its workers printed, as far as they tell."
    )
    ended_at: Time | None = Field(default=None, description="When it ended.")
    run_hash: str = Field(default="", max_length=64, description="Of what it was made from.")


class CurvePoint(StatusModel):
    """How good the model was at a step."""

    step: int = Field(ge=0, description="Global batches trained on.")
    train_loss: Figure | None = Field(default=None, description="Mean over the rows since the last look.")
    validation_loss: Figure | None = Field(
        default=None, description="Mean over the validation split, after the last epoch before."
    )


class ActiveTime(StatusModel):
    """How long it has been at work: what failurePolicy.activeDeadline is compared with."""

    seconds: int = Field(default=0, ge=0, description="Until `since`, or in all where that is left out.")
    since: Time | None = Field(default=None, description="Since when it is at work again.")


History = Items[AttemptEnd]
Curve = Items[CurvePoint]
