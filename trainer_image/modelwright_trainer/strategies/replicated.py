"""DDP: each rank holds the whole model, and gradients are averaged while the backward pass goes on."""

from __future__ import annotations

import contextlib

import torch
from modelwright.api.recipes import SteppedHyperparameters
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from modelwright_trainer.strategies.base import Strategy


class Replicated(Strategy):
    def __init__(self, module: nn.Module, recipe: SteppedHyperparameters) -> None:
        self._parallel = DistributedDataParallel(module)
        super().__init__(module, recipe)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        given: torch.Tensor = self._parallel(features)
        return given

    def held_back(self) -> contextlib.AbstractContextManager[None]:
        return self._parallel.no_sync()
