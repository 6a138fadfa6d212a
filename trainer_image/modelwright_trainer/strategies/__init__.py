"""How the ranks share the work: `spec.strategy` of a TrainingJob, at work on a module."""

from __future__ import annotations

import torch
from modelwright.api.recipes import SteppedHyperparameters
from modelwright.contract import Strategy as Stated
from torch import nn

from modelwright_trainer.strategies.base import Strategy
from modelwright_trainer.strategies.local import Local
from modelwright_trainer.strategies.replicated import Replicated
from modelwright_trainer.strategies.sharded import Sharded

__all__ = ["Strategy", "made"]


def made(stated: Stated, module: nn.Module, recipe: SteppedHyperparameters, device: torch.device) -> Strategy:
    """The strategy at work on `module`, which lies on `device` and has equal weights on all ranks. Collective."""
    if stated.type == "FSDP":
        return Sharded(module, recipe, device, stated.shard_size)
    if stated.type == "LocalSGD":
        return Local(module, recipe, stated)
    return Replicated(module, recipe)
