"""The built-in recipes at work: the learner of a recipe on a table."""

from __future__ import annotations

import numpy as np
from modelwright.api.recipes import RECIPES, Hyperparameters, TransformerHyperparameters
from modelwright.contract import Data, Trainer

from modelwright_trainer.data import Kind, Table
from modelwright_trainer.failures import UserFailed
from modelwright_trainer.hyperparameters import hyperparameters
from modelwright_trainer.learner import Fitted, Learner
from modelwright_trainer.preprocessing import moments
from modelwright_trainer.recipes.autoencoder import Autoencoder
from modelwright_trainer.recipes.boosting import GradientBoosting
from modelwright_trainer.recipes.cnn import Cnn
from modelwright_trainer.recipes.dbscan import Dbscan
from modelwright_trainer.recipes.kmeans import Kmeans
from modelwright_trainer.recipes.mlp import Linear, Mlp
from modelwright_trainer.recipes.pca import Pca
from modelwright_trainer.recipes.transformer import TransformerLearner
from modelwright_trainer.split import Rows
from modelwright_trainer.tasks import Classification, LanguageModelling, Regression, Task

_UNSUPERVISED = {"autoencoder": Autoencoder, "dbscan": Dbscan, "kmeans": Kmeans, "pca": Pca}
_PREDICTORS = {"cnn": Cnn, "linear": Linear, "mlp": Mlp}


def kind(trainer: Trainer) -> Kind:
    """What a recipe reads columns as."""
    return np.int64 if RECIPES[trainer.recipe] is TransformerHyperparameters else np.float32


def learner(trainer: Trainer, data: Data, table: Table, train: Rows) -> Learner | Fitted:
    """The recipe at work on `table`, whose rows `train` are for training: of them are the statistics of preprocessing.
    Raises UserFailed, DataFailed."""
    recipe = hyperparameters(trainer)
    if data.task not in recipe.tasks:
        raise UserFailed(
            f"spec.trainer.recipe: {trainer.recipe} does {' and '.join(recipe.tasks)}, and the task is {data.task}"
        )
    if trainer.recipe in _UNSUPERVISED:
        return _UNSUPERVISED[trainer.recipe](recipe, table, train)
    task = _task(recipe, data, table, train)
    if trainer.recipe == "gradient-boosting":
        return GradientBoosting(recipe, task, table, task.moments if isinstance(task, Regression) else None)
    if trainer.recipe == "transformer":
        return TransformerLearner(recipe, task, table)
    return _PREDICTORS[trainer.recipe](recipe, task, table, train)


def _task(recipe: Hyperparameters, data: Data, table: Table, train: Rows) -> Task:
    if data.task == "Classification":
        return Classification.of(table, train, balanced=recipe.class_weights == "Balanced")
    if data.task == "LanguageModelling":
        return LanguageModelling(table.features.shape[1], recipe.vocabulary)
    return Regression(str(data.target), moments(table.targets[:, None], train))
