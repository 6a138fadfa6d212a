"""The built-in recipes at work: the learner of a recipe on a table."""

from __future__ import annotations

from collections.abc import Mapping

from modelwright.contract import Data, Trainer

from modelwright_trainer.data import Table
from modelwright_trainer.hyperparameters import hyperparameters
from modelwright_trainer.learner import Learner
from modelwright_trainer.recipes.mlp import Mlp
from modelwright_trainer.split import Rows
from modelwright_trainer.tasks import Classification

_LEARNERS: Mapping[str, type[Mlp]] = {"mlp": Mlp}


def learner(trainer: Trainer, data: Data, table: Table, train: Rows) -> Learner:
    """The recipe at work on `table`, whose rows `train` are for training: of them are the statistics of preprocessing.
    Raises UserFailed."""
    tasks = {"Classification": Classification}
    return _LEARNERS[trainer.recipe](hyperparameters(trainer), tasks[data.task](table.classes), table, train)
