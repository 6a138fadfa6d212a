"""distill: a smaller model learns what the parent's file gives (Hinton, Vinyals and Dean 2015, arXiv:1503.02531)."""

from __future__ import annotations

import torch
from modelwright.artifact import RecipeRebuild
from modelwright.contract import Trainer
from modelwright.derivation import Distill

from modelwright_trainer.compress.finetune import Trained, loop, seed_of
from modelwright_trainer.compress.state import State
from modelwright_trainer.compress.work import Work
from modelwright_trainer.failures import UserFailed
from modelwright_trainer.hyperparameters import hyperparameters
from modelwright_trainer.learner import Fitted
from modelwright_trainer.order import Plan


def apply(work: Work, state: State, asked: Distill) -> State:
    """The new model; what the steps before did to the old one is of no matter to it. Raises UserFailed."""
    known = state.rebuild.hyperparameters if state.rebuild and state.rebuild.recipe == asked.recipe else {}
    told = Trainer(recipe=asked.recipe, hyperparameters={**known, **asked.hyperparameters})
    try:
        recipe = hyperparameters(told)
        manifest = work.parent.manifest
        rebuild = RecipeRebuild(
            recipe=asked.recipe, hyperparameters=recipe.to_strings(), inputs=manifest.inputs[0].shape[-1] or 1,
            outputs=manifest.outputs[0].shape[-1] or 1,
        )  # fmt: skip
        learner = work.publisher(rebuild)
    except UserFailed as error:
        raise UserFailed(f"distill: {str(error).replace('spec.trainer.', 'distill.')}") from error
    if isinstance(learner, Fitted):
        raise UserFailed(f"distill.recipe: {asked.recipe} is fitted at once and learns from no teacher: take another")
    if learner.inputs[0].dtype != manifest.inputs[0].dtype or [one.name for one in learner.outputs] != [
        one.name for one in manifest.outputs
    ]:
        raise UserFailed(
            f"distill.recipe: {asked.recipe} gives {', '.join(one.name for one in learner.outputs)} of"
            f" {learner.inputs[0].name}, and {work.parent.name} {', '.join(one.name for one in manifest.outputs)} of"
            f" {manifest.inputs[0].name}: take a recipe with the same inputs and outputs"
        )
    torch.manual_seed(seed_of(work.seed, "distill"))
    trained = Trained(learner.module().train(), {})
    settings = learner.hyperparameters
    plan = Plan(
        len(work.rows.parts["train"]), settings.batch_size, settings.epochs, seed_of(work.seed, "distill") % 2**32
    )
    loop(work, learner, trained, plan, settings.learning_rate, asked.distillation, asked.temperature)
    made = State(rebuild, trained.weights())
    ours, theirs = (sum(one.size for one in each.weights.values()) for each in (made, state))
    if ours >= theirs:
        work.notes.append(f"the new model has {ours:,} parameters, and the old one {theirs:,}: it is not smaller")
    return made
