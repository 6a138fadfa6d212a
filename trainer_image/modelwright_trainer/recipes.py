"""The built-in recipes as the trainer sees them: hyperparameters that are right, or a failure for the user."""

from __future__ import annotations

from modelwright.api.recipes import HyperparameterError, MlpHyperparameters, parse, parse_mlp
from modelwright.contract import Trainer

from modelwright_trainer.failures import UserFailed

__all__ = ["MlpHyperparameters", "hyperparameters"]


def hyperparameters(trainer: Trainer) -> MlpHyperparameters:
    """Raises UserFailed naming each that is wrong, and the nearest right name."""
    try:
        parse(trainer.recipe, trainer.hyperparameters)
        return parse_mlp(trainer.hyperparameters)
    except HyperparameterError as error:
        raise UserFailed(str(error)) from error
