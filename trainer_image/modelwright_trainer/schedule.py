"""The learning rate of a step: a function of the step's number alone, so that a resumed run goes on with the same."""

from __future__ import annotations

import dataclasses
import math

from modelwright.api.recipes import SteppedHyperparameters

from modelwright_trainer.failures import UserFailed


@dataclasses.dataclass(frozen=True)
class Schedule:
    """`rate` after a warm-up of `warmup` steps, and from there to the last of `steps` steps as `shape` says: Constant,
    Linear or Cosine."""

    rate: float
    shape: str
    warmup: int
    steps: int

    @classmethod
    def of(cls, recipe: SteppedHyperparameters, steps: int) -> Schedule:
        """Raises UserFailed where the warm-up would never end."""
        if recipe.warmup_steps and recipe.warmup_steps >= steps:
            raise UserFailed(
                f"trainer.hyperparameters.warmupSteps: {recipe.warmup_steps} of the training's {steps} steps; write"
                " fewer, or train longer"
            )
        return cls(recipe.learning_rate, recipe.schedule, recipe.warmup_steps, steps)

    def at(self, step: int) -> float:
        """The learning rate of a step, counted from 0. The first and the last of all are above 0, too: a step with
        rate 0 would learn nothing."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        if self.shape == "Constant":
            return self.rate
        done = (step - self.warmup) / (self.steps - self.warmup)
        return self.rate * (1 - done if self.shape == "Linear" else (1 + math.cos(math.pi * done)) / 2)
