"""The hyperparameters that a run asks for: right ones, or a failure for the user. Apart from the recipes, which need
torch, since the wrapper looks at them before it starts anything."""

from __future__ import annotations

from modelwright.api.recipes import HyperparameterError, Hyperparameters, parse
from modelwright.contract import Trainer

from modelwright_trainer.failures import UserFailed


def hyperparameters(trainer: Trainer) -> Hyperparameters:
    """Raises UserFailed naming each that is wrong, and the nearest right name."""
    try:
        return parse(trainer.recipe, trainer.hyperparameters)
    except HyperparameterError as error:
        raise UserFailed(str(error)) from error
